"""Shapes that ran out of memory on a kind of GPU, lines that are kept off one, and waiting jobs by their shape."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_IS_WAITING = sa.text("status = 'queued'")


def upgrade() -> None:
    op.create_table(
        "lessons",
        sa.Column("shape", sa.String(64), primary_key=True),
        sa.Column("gpu", sa.String(255), primary_key=True),
        sa.Column("vram_bytes", sa.BigInteger(), nullable=True),
        sa.Column("learned_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("refuted_at_ms", sa.BigInteger(), nullable=True),
    )
    op.add_column("lines", sa.Column("avoids", sa.JSON(), nullable=True))
    columns = ["shape", "line"]
    op.create_index("jobs_shape", "jobs", columns, sqlite_where=_IS_WAITING, postgresql_where=_IS_WAITING)


def downgrade() -> None:
    op.drop_index("jobs_shape", "jobs")
    op.drop_column("lines", "avoids")
    op.drop_table("lessons")
