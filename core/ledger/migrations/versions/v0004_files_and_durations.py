"""Files that come in, what is to be done with those that go out, and how long jobs take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("workflow", sa.String(64), nullable=True))
    op.add_column("jobs", sa.Column("shape", sa.String(64), nullable=True))
    op.add_column("jobs", sa.Column("inputs", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("delivery", sa.JSON(), nullable=True))
    op.add_column("assets", sa.Column("upload", sa.JSON(), nullable=True))
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("hash", sa.String(80), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("content_type", sa.String(255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_index("uploads_by_hash", "uploads", ["hash"])
    op.create_index("uploads_expiry", "uploads", ["expires_at_ms"])
    op.create_table(
        "durations",
        sa.Column("what", sa.String(80), primary_key=True),
        sa.Column("gpu", sa.String(255), primary_key=True),
        sa.Column("average_s", sa.Float(), nullable=False),
        sa.Column("seen", sa.Integer(), nullable=False),
        sa.Column("updated_at_ms", sa.BigInteger(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("durations")
    op.drop_table("uploads")
    op.drop_column("assets", "upload")
    for column in ("delivery", "inputs", "shape", "workflow"):
        op.drop_column("jobs", column)
