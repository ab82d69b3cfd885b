"""Bytes that tenants keep, and lines by their tenant: what limits are compared with."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_KEPT = """
    INSERT INTO tenant_files (tenant, kept_bytes)
    SELECT tenant, SUM(size_bytes) FROM (
        SELECT tenant, size_bytes FROM uploads WHERE expires_at_ms > 0
        UNION ALL
        SELECT jobs.tenant, assets.size_bytes FROM assets JOIN jobs ON jobs.id = assets.job_id
        WHERE assets.storage_key IS NOT NULL AND NOT jobs.files_removed
    ) AS kept GROUP BY tenant
"""


def upgrade() -> None:
    op.create_table(
        "tenant_files",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("kept_bytes", sa.BigInteger(), nullable=False),
    )
    op.execute(_KEPT)
    op.create_index("lines_by_tenant", "lines", ["tenant"])


def downgrade() -> None:
    op.drop_index("lines_by_tenant", "lines")
    op.drop_table("tenant_files")
