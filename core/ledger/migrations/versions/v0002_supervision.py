"""What the supervision of GPU hosts keeps: where a job was lost, and how an instance is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("lost_on", sa.String(length=255), nullable=True))
    op.add_column("jobs", sa.Column("lost_code", sa.String(length=32), nullable=True))
    op.add_column("jobs", sa.Column("on_deck", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("instances", sa.Column("is_drained", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("instances", sa.Column("quarantined_until_ms", sa.BigInteger(), nullable=True))
    op.add_column("instances", sa.Column("models", sa.JSON(), nullable=True))
    op.add_column("instances", sa.Column("warmup_s", sa.Float(), nullable=True))
    op.add_column("instances", sa.Column("up_since_ms", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for name in ("up_since_ms", "warmup_s", "models", "quarantined_until_ms", "is_drained"):
        op.drop_column("instances", name)
    for name in ("on_deck", "lost_code", "lost_on"):
        op.drop_column("jobs", name)
