"""Clients of ComfyUI's own protocol: what their users keep here, and jobs that they took out of their history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("hidden_at_ms", sa.BigInteger, nullable=True))
    op.create_table(
        "user_files",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("path", sa.String(255), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at_ms", sa.BigInteger, nullable=False),
        sa.Column("modified_at_ms", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("user_files")
    op.drop_column("jobs", "hidden_at_ms")
