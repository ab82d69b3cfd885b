"""Which machine and directory each instance's worker runs in, so that two hosts of one name are told apart."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Unknown of workers of earlier versions: those are told by their heartbeat alone.
    op.add_column("instances", sa.Column("place", sa.String(255), nullable=True))
    op.add_column("instances", sa.Column("pid", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("instances", "pid")
    op.drop_column("instances", "place")
