"""Lines of batches with gates, and whether the jobs of a batch have been led into them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("lines", sa.Column("batch", sa.String(36), nullable=False, server_default=""))
    op.add_column("batches", sa.Column("is_led", sa.Boolean(), nullable=False, server_default=sa.true()))


def downgrade() -> None:
    op.drop_column("batches", "is_led")
    op.drop_column("lines", "batch")
