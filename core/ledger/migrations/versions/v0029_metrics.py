"""What is counted for metrics: durations with what was used, entries and sums, and processes that say how they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_DURATIONS = ("waited_ms", "stored_ms", "total_ms")


def upgrade() -> None:
    for name in _DURATIONS:
        op.add_column("usage_entries", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("vram_used_bytes", sa.BigInteger(), nullable=True))
    op.create_table(
        "metric_entries",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("amounts", sa.JSON(), nullable=False),
    )
    op.create_table(
        "metric_sums",
        sa.Column("sample", sa.String(512), primary_key=True),
        sa.Column("amount", sa.Float(), nullable=False),
    )
    op.create_table(
        "metric_processes",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("gauges", sa.JSON(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    for table in ("metric_processes", "metric_sums", "metric_entries"):
        op.drop_table(table)
    op.drop_column("instances", "vram_used_bytes")
    for name in _DURATIONS:
        op.drop_column("usage_entries", name)
