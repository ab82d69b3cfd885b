"""The secrets of a job in a row for each purpose, so that each can be wiped as soon as it has served."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Made anew, for SQLite cannot change a primary key. There are few rows: those of jobs that have not ended.
    rows = op.get_bind().execute(sa.text("SELECT job_id, sealed FROM secrets")).all()
    op.drop_table("secrets")
    table = op.create_table(
        "secrets",
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("purpose", sa.String(16), primary_key=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=True),
    )
    is_kept = sa.text("sealed IS NOT NULL")
    op.create_index("secrets_kept", "secrets", ["purpose"], sqlite_where=is_kept, postgresql_where=is_kept)
    op.bulk_insert(table, [{"job_id": row.job_id, "purpose": "any", "sealed": row.sealed} for row in rows])


def downgrade() -> None:
    # An older version cannot open what this one sealed.
    query = sa.text("SELECT job_id, sealed FROM secrets WHERE purpose = 'any' AND sealed IS NOT NULL")
    rows = op.get_bind().execute(query).all()
    op.drop_table("secrets")
    table = op.create_table(
        "secrets",
        sa.Column("job_id", sa.String(36), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
    )
    op.bulk_insert(table, [{"job_id": row.job_id, "sealed": row.sealed} for row in rows])
