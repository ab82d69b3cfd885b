"""Waiting jobs in lines, what instances hold, and what jobs require; jobs that wait already stand in plain lines."""

from __future__ import annotations

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_IS_WAITING = sa.text("status = 'queued'")
_IS_LOST = sa.text("status = 'queued' AND lost_on IS NOT NULL")
_HAS_DEADLINE = sa.text("status = 'queued' AND start_by_ms IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "lines",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("models", sa.String(64), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("catalogues", sa.Text(), nullable=True),
        sa.Column("requires", sa.JSON(), nullable=True),
        sa.Column("waiting", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("head_ms", sa.BigInteger(), nullable=True),
        sa.Column("start_by_ms", sa.BigInteger(), nullable=True),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "residents",
        sa.Column("instance", sa.String(255), sa.ForeignKey("instances.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("models", sa.String(64), primary_key=True),
    )
    op.add_column("jobs", sa.Column("line", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("requires", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("start_within_s", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("start_by_ms", sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("pool", sa.String(64), nullable=True))
    op.add_column("instances", sa.Column("vram_bytes", sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("held", sa.JSON(), nullable=True))
    op.add_column("instances", sa.Column("free_at_ms", sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("loads", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("instances", sa.Column("loading_s", sa.Float(), nullable=False, server_default="0"))
    op.add_column("instances", sa.Column("loads_day", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("instances", sa.Column("has_queue", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("catalogues", sa.Column("model_sizes", sa.LargeBinary(), nullable=True))
    columns = ["line", "created_at_ms", "id"]
    op.create_index("jobs_line", "jobs", columns, sqlite_where=_IS_WAITING, postgresql_where=_IS_WAITING)
    op.create_index("jobs_lost", "jobs", ["lost_on"], sqlite_where=_IS_LOST, postgresql_where=_IS_LOST)
    columns = ["line", "start_by_ms"]
    op.create_index("jobs_deadline", "jobs", columns, sqlite_where=_HAS_DEADLINE, postgresql_where=_HAS_DEADLINE)
    columns = ["start_by_ms"]
    op.create_index("jobs_start_by", "jobs", columns, sqlite_where=_HAS_DEADLINE, postgresql_where=_HAS_DEADLINE)
    _put_in_line()


def _put_in_line() -> None:
    """Put the jobs that wait, or may come back, into lines without models: which ones they load is not known here."""
    connection = op.get_bind()
    groups = connection.execute(
        sa.text(
            "SELECT priority, catalogues, SUM(CASE WHEN status = 'queued' THEN 1 ELSE 0 END) AS waiting, "
            "MIN(CASE WHEN status = 'queued' THEN created_at_ms END) AS head_ms FROM jobs "
            "WHERE status IN ('queued', 'running', 'canceling') GROUP BY priority, catalogues"
        )
    ).all()
    for number, group in enumerate(groups, start=1):
        # As core/ledger/scheduling/lines.py makes it.
        key = [group.priority, "", [], group.catalogues, None]
        connection.execute(
            sa.text(
                "INSERT INTO lines (id, digest, priority, tenant, models, files, catalogues, waiting, head_ms, "
                "updated_at_ms) VALUES (:id, :digest, :priority, '', '', '[]', :catalogues, :waiting, :head_ms, 0)"
            ),
            {
                "id": number,
                "digest": hashlib.sha256(json.dumps(key, separators=(",", ":")).encode()).hexdigest(),
                **group._mapping,
            },
        )
        connection.execute(
            sa.text(
                "UPDATE jobs SET line = :line WHERE status IN ('queued', 'running', 'canceling') "
                "AND priority = :priority AND (catalogues = :catalogues "
                "OR (catalogues IS NULL AND :catalogues IS NULL))"
            ),
            {"line": number, "priority": group.priority, "catalogues": group.catalogues},
        )
    if groups and connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT setval(pg_get_serial_sequence('lines', 'id'), (SELECT MAX(id) FROM lines))"))


def downgrade() -> None:
    op.drop_index("jobs_start_by", "jobs")
    op.drop_index("jobs_deadline", "jobs")
    op.drop_index("jobs_lost", "jobs")
    op.drop_index("jobs_line", "jobs")
    op.drop_column("catalogues", "model_sizes")
    for column in ("has_queue", "loads_day", "loading_s", "loads", "free_at_ms", "held", "memory_bytes"):
        op.drop_column("instances", column)
    for column in ("vram_bytes", "pool"):
        op.drop_column("instances", column)
    for column in ("start_by_ms", "start_within_s", "requires", "line"):
        op.drop_column("jobs", column)
    op.drop_table("residents")
    op.drop_table("lines")
