"""Which model files an instance takes no more jobs for, so that others find room on its host."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instances", sa.Column("yields", sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("instances", "yields")
