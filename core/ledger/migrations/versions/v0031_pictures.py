"""Input files that were looked into: pictures, by the limit of pixels that they were found within."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("uploads", sa.Column("checked_pixels", sa.BigInteger, nullable=True))


def downgrade() -> None:
    op.drop_column("uploads", "checked_pixels")
