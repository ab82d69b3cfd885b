"""How long each job's files are kept, which uploads came for one job alone, and which files open jobs still need."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("files_expire_at_ms", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("files_removed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.execute("UPDATE jobs SET files_expire_at_ms = expires_at_ms")
    op.create_index("jobs_files_expiry", "jobs", ["files_removed", "files_expire_at_ms"])
    op.add_column("uploads", sa.Column("job_id", sa.String(36), nullable=True))
    op.create_index("uploads_by_job", "uploads", ["job_id"])
    op.create_index("uploads_by_key", "uploads", ["storage_key"])
    op.create_index("idempotency_keys_age", "idempotency_keys", ["created_at_ms"])
    op.create_table(
        "job_inputs",
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("storage_key", sa.String(255), primary_key=True),
    )
    op.create_index("job_inputs_by_key", "job_inputs", ["storage_key"])
    _list_inputs()


def downgrade() -> None:
    op.drop_table("job_inputs")
    op.drop_index("idempotency_keys_age", "idempotency_keys")
    op.drop_index("uploads_by_key", "uploads")
    op.drop_index("uploads_by_job", "uploads")
    op.drop_column("uploads", "job_id")
    op.drop_index("jobs_files_expiry", "jobs")
    op.drop_column("jobs", "files_removed")
    op.drop_column("jobs", "files_expire_at_ms")


def _list_inputs() -> None:
    """Jobs that were taken in before this version said only in themselves which files they need."""
    jobs = sa.table("jobs", sa.column("id", sa.String), sa.column("inputs", sa.JSON))
    job_inputs = sa.table("job_inputs", sa.column("job_id", sa.String), sa.column("storage_key", sa.String))
    connection = op.get_bind()
    found = connection.execute(sa.select(jobs.c.id, jobs.c.inputs).where(jobs.c.inputs.is_not(None))).all()
    for job_id, inputs in found:
        keys = sorted({file["key"] for file in inputs or ()})
        if keys:
            rows = [{"job_id": job_id, "storage_key": key} for key in keys]
            connection.execute(sa.insert(job_inputs), rows)
