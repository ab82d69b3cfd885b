"""Batches, labels, the key of a job, and what a tenant may have at most."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_IN_BATCH, _IS_LABELLED = sa.text("batch IS NOT NULL"), sa.text("label IS NOT NULL")
_IS_SHARED, _HAS_KEY = sa.text("shared_graph IS NOT NULL"), sa.text("idempotency_key IS NOT NULL")
_IS_OPEN = sa.text("completed_at_ms IS NULL")
_OF_JOBS: dict[str, sa.types.TypeEngine[Any]] = {
    "key_id": sa.String(36),
    "label": sa.String(128),
    "batch": sa.String(36),
    "batch_index": sa.Integer(),
    "varied": sa.JSON(none_as_null=True),
    "replaces": sa.String(36),
    "shared_graph": sa.String(36),
}
_OF_TENANTS: dict[str, sa.types.TypeEngine[Any]] = {
    "max_waiting": sa.Integer(),
    "max_running": sa.Integer(),
    "max_requests_per_minute": sa.Integer(),
    "max_kept_bytes": sa.BigInteger(),
    "max_gpu_s_per_day": sa.Float(),
}


def _batch_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False, server_default="default"),
        sa.Column("key_id", sa.String(36), nullable=True),
        sa.Column("label", sa.String(128), nullable=True),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("is_paused", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("priority", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("idempotency_key", sa.String(255), nullable=True),
        sa.Column("request_mark", sa.String(80), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("common", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("over", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("webhook", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("progress_every_s", sa.Float(), nullable=True),
        sa.Column("progress_step", sa.Float(), nullable=True),
        sa.Column("told_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("told_value", sa.Float(), nullable=True),
        sa.Column("next_index", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("cancel_before_ms", sa.BigInteger(), nullable=True),
        sa.Column("retry_before_ms", sa.BigInteger(), nullable=True),
        sa.Column("retry_statuses", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("completed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("completions", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    ]


def upgrade() -> None:
    op.create_table("batches", *_batch_columns())
    op.create_index("batches_by_tenant", "batches", ["tenant", "created_at_ms", "id"])
    op.create_index("batches_newest", "batches", ["created_at_ms", "id"])
    keyed = ["idempotency_key", "tenant"]
    op.create_index("batches_by_key", "batches", keyed, unique=True, sqlite_where=_HAS_KEY, postgresql_where=_HAS_KEY)
    op.create_index("batches_open", "batches", ["id"], sqlite_where=_IS_OPEN, postgresql_where=_IS_OPEN)
    op.create_table(
        "batch_secrets",
        sa.Column("batch", sa.String(36), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("purpose", sa.String(16), primary_key=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
    )
    op.create_table(
        "shared_graphs",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("graph", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
    )
    op.add_column("deliveries", sa.Column("batch", sa.String(36), nullable=True))
    op.create_index("deliveries_by_batch", "deliveries", ["batch"], sqlite_where=_IN_BATCH, postgresql_where=_IN_BATCH)
    for name, kind in _OF_JOBS.items():
        op.add_column("jobs", sa.Column(name, kind, nullable=True))
    for name, kind in _OF_TENANTS.items():
        op.add_column("tenants", sa.Column(name, kind, nullable=True))
    placed = ["batch", "batch_index"]
    op.create_index("jobs_by_batch", "jobs", placed, sqlite_where=_IN_BATCH, postgresql_where=_IN_BATCH)
    counted = ["batch", "status", "batch_index"]
    op.create_index("jobs_of_batch", "jobs", counted, sqlite_where=_IN_BATCH, postgresql_where=_IN_BATCH)
    shared = ["shared_graph"]
    op.create_index("jobs_by_shared_graph", "jobs", shared, sqlite_where=_IS_SHARED, postgresql_where=_IS_SHARED)
    labelled = ["label", "created_at_ms", "id"]
    op.create_index("jobs_by_label", "jobs", labelled, sqlite_where=_IS_LABELLED, postgresql_where=_IS_LABELLED)


def downgrade() -> None:
    op.drop_index("jobs_by_label", "jobs")
    op.drop_index("jobs_by_shared_graph", "jobs")
    op.drop_index("jobs_of_batch", "jobs")
    op.drop_index("jobs_by_batch", "jobs")
    op.drop_index("deliveries_by_batch", "deliveries")
    op.drop_column("deliveries", "batch")
    for name in _OF_TENANTS:
        op.drop_column("tenants", name)
    for name in _OF_JOBS:
        op.drop_column("jobs", name)
    op.drop_table("shared_graphs")
    op.drop_table("batch_secrets")
    op.drop_table("batches")
