"""The tables of batches."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    false,
    text,
    true,
)

from core.ledger.database.tables import metadata

_HAS_KEY = text("idempotency_key IS NOT NULL")
_IS_OPEN = text("completed_at_ms IS NULL")

batches = Table(
    "batches",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("tenant", String(64), nullable=False, server_default="default"),
    Column("key_id", String(36)),
    Column("label", String(128)),
    # How many of its jobs may run at once; NULL: as many as there are GPUs for.
    Column("max_running", Integer),
    # None of its jobs begins until it is resumed.
    Column("is_paused", Boolean, nullable=False, server_default=false()),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("metadata", JSON(none_as_null=True)),
    # By which the same request is known again for as long as the batch is kept, and a mark of its body.
    Column("idempotency_key", String(255)),
    Column("request_mark", String(80)),
    # What its jobs are made of, for those that are added: {"workflow"} or {"template", "parameters"}; JSON text.
    Column("source", Text),
    # What all its jobs have in common, see core/records/batch.py.
    Column("common", JSON(none_as_null=True)),
    # What was varied: [{"name", "count", "values"}].
    Column("over", JSON(none_as_null=True)),
    # Where batch.completed and batch.progress are told, and how often the latter.
    Column("webhook", JSON(none_as_null=True)),
    Column("progress_every_s", Float),
    Column("progress_step", Float),
    Column("told_at_ms", BigInteger),
    Column("told_value", Float),
    # The place of the next job that is added; how many children there were ever.
    Column("next_index", Integer, nullable=False, server_default="0"),
    # All jobs that were made before are to be cancelled; NULL once they are.
    Column("cancel_before_ms", BigInteger),
    # Those that ended so and were made before are to be replaced: {status: ms}, and the last of these moments; of
    # earlier versions the statuses are a list. NULL once they are.
    Column("retry_before_ms", BigInteger),
    Column("retry_statuses", JSON(none_as_null=True)),
    # When the last job had ended, and how often that came about; NULL while a job has not ended.
    Column("completed_at_ms", BigInteger),
    Column("completions", Integer, nullable=False, server_default="0"),
    # Jobs by status, as they were then: {"succeeded": 3}.
    Column("counts", JSON(none_as_null=True)),
    # Whether its jobs stand where its gate wants them, see core/ledger/scheduling/batch_lines.py.
    Column("is_led", Boolean, nullable=False, server_default=true()),
    Column("created_at_ms", BigInteger, nullable=False),
    Index("batches_by_tenant", "tenant", "created_at_ms", "id"),
    Index("batches_newest", "created_at_ms", "id"),
    Index("batches_by_key", "idempotency_key", "tenant", unique=True, sqlite_where=_HAS_KEY, postgresql_where=_HAS_KEY),
    Index("batches_open", "id", sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN),
)

# The secrets of a batch, as those of jobs: its children get copies, and so do those that are added or replace others.
batch_secrets = Table(
    "batch_secrets",
    metadata,
    Column("batch", String(36), ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("purpose", String(16), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

# Graphs that several jobs have in common; the row of each job has what is different in its own.
shared_graphs = Table(
    "shared_graphs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("graph", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
