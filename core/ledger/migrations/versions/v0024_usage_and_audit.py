"""What jobs used of GPUs, sums of it by day, and the book of acts."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_TIMES = ("run_ms", "load_ms", "lost_ms")
_AMOUNTS = (*_TIMES, "succeeded", "failed", "canceled", "expired", "bytes_in", "bytes_out")


def upgrade() -> None:
    for name in _TIMES:
        op.add_column("jobs", sa.Column(name, sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("charged_ms", sa.BigInteger(), nullable=True))
    op.create_table(
        "usage_entries",
        sa.Column("source", sa.String(36), primary_key=True),
        sa.Column("seq", sa.Integer(), primary_key=True, autoincrement=False),
        *_owner(is_key=False),
        *_amounts(),
    )
    op.create_index("usage_entries_by_tenant", "usage_entries", ["tenant", "day"])
    op.create_table("usage_days", *_owner(is_key=True), *_amounts())
    op.create_index("usage_days_by_tenant", "usage_days", ["tenant", "day"])
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.String(36), nullable=True),
        sa.Column("who", sa.String(255), nullable=False),
        sa.Column("tenant", sa.String(64), nullable=True),
        sa.Column("address", sa.String(64), nullable=True),
        sa.Column("act", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
    )
    op.create_index("audit_age", "audit", ["at_ms"])
    op.create_index("audit_by_act", "audit", ["act", "id"])
    op.create_index("audit_by_subject", "audit", ["subject", "id"])


def _owner(*, is_key: bool) -> list[sa.Column[Any]]:
    texts = {"tenant": 64, "key_id": 36, "template": 64, "gpu": 255}
    return [
        sa.Column("day", sa.Integer(), primary_key=is_key, autoincrement=False, nullable=False),
        *(sa.Column(name, sa.String(most), primary_key=is_key, nullable=False) for name, most in texts.items()),
    ]


def _amounts() -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.BigInteger(), nullable=False, server_default="0") for name in _AMOUNTS]


def downgrade() -> None:
    for table in ("audit", "usage_days", "usage_entries"):
        op.drop_table(table)
    for name in ("charged_ms", *_TIMES):
        op.drop_column("jobs", name)
