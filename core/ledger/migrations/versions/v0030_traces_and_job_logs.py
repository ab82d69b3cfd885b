"""The trace a job belongs to, what ComfyUI printed while it ran, and pages of jobs that many others stand beside."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


NEW = {
    "jobs_by_status": ["status", "created_at_ms", "id"],
    "jobs_by_owner": ["tenant", "status", "created_at_ms", "id"],
}


def upgrade() -> None:
    has_jobs = op.get_bind().execute(sa.text("SELECT 1 FROM jobs LIMIT 1")).scalar() is not None
    if op.get_bind().dialect.name == "postgresql" and has_jobs:
        # First, and beside the work: with millions of jobs it takes minutes, in which no worker may wait.
        with op.get_context().autocommit_block():
            for name, columns in NEW.items():
                # An upgrade that was killed leaves one that is of no use.
                op.drop_index(name, table_name="jobs", if_exists=True, postgresql_concurrently=True)
                op.create_index(name, "jobs", columns, postgresql_concurrently=True)
    else:
        for name, columns in NEW.items():
            op.create_index(name, "jobs", columns)
    op.add_column("jobs", sa.Column("traceparent", sa.String(55), nullable=True))
    op.create_table(
        "job_logs",
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("is_cut", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("is_last", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
    )
    # In place of as many, so that no change of a job costs more.
    op.drop_index("jobs_turn", table_name="jobs")
    op.drop_index("jobs_by_tenant", table_name="jobs")


def downgrade() -> None:
    for name in reversed(NEW):
        op.drop_index(name, table_name="jobs")
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "created_at_ms", "id"])
    op.create_index("jobs_turn", "jobs", ["status", sa.text("priority DESC"), "created_at_ms", "id"])
    op.drop_table("job_logs")
    op.drop_column("jobs", "traceparent")
