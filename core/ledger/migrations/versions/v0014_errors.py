"""Errors of failed jobs that are too long for their rows, and what blocked a part of a job that succeeded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("warnings", sa.JSON(), nullable=True))
    op.create_table(
        "job_errors",
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("error", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("job_errors")
    op.drop_column("jobs", "warnings")
