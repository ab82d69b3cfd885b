"""Jobs that run once more: of which job, what was drawn, and which secrets came with it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_LISTS = ("drawn", "secret_names")


def upgrade() -> None:
    op.add_column("jobs", sa.Column("rerun_of", sa.String(36), nullable=True))
    for name in _LISTS:
        op.add_column("jobs", sa.Column(name, sa.JSON(none_as_null=True), nullable=True))


def downgrade() -> None:
    for name in _LISTS:
        op.drop_column("jobs", name)
    op.drop_column("jobs", "rerun_of")
