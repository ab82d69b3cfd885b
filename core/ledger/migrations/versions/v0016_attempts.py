"""What kind of GPU an attempt runs on, and which attempts were lost, where, when and why."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("gpu", sa.String(255), nullable=True))
    op.add_column("jobs", sa.Column("losses", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "losses")
    op.drop_column("jobs", "gpu")
