"""Finding the jobs of one template without reading all jobs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_IS_FROM_TEMPLATE = sa.text("workflow IS NOT NULL")


def upgrade() -> None:
    op.create_index(
        "jobs_by_template",
        "jobs",
        ["workflow", "created_at_ms", "id"],
        sqlite_where=_IS_FROM_TEMPLATE,
        postgresql_where=_IS_FROM_TEMPLATE,
    )


def downgrade() -> None:
    op.drop_index("jobs_by_template", "jobs")
