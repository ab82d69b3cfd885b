"""Which waiting jobs only some instances may run, and how often an instance was asked to look for new files."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_IS_PINNED = sa.text("status = 'queued' AND catalogues IS NOT NULL")


def upgrade() -> None:
    op.create_index("jobs_pinned", "jobs", ["id"], sqlite_where=_IS_PINNED, postgresql_where=_IS_PINNED)
    op.add_column("instances", sa.Column("looks", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("instances", "looks")
    op.drop_index("jobs_pinned", "jobs")
