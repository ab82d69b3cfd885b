"""Hosts that are given back: since when an instance's host is to leave the fleet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instances", sa.Column("leaving_since_ms", sa.BigInteger, nullable=True))


def downgrade() -> None:
    op.drop_column("instances", "leaving_since_ms")
