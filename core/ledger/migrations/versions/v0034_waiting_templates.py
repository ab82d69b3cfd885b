"""Jobs that wait, where they can be counted by their template."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

_IS_COUNTED = sa.text("status = 'queued' AND workflow IS NOT NULL")
_WHERE: dict[str, Any] = {"sqlite_where": _IS_COUNTED, "postgresql_where": _IS_COUNTED}


def upgrade() -> None:
    has_jobs = op.get_bind().execute(sa.text("SELECT 1 FROM jobs LIMIT 1")).scalar() is not None
    if op.get_bind().dialect.name == "postgresql" and has_jobs:
        # Beside the work: all jobs are looked through for the few that wait, and no worker may wait for that.
        with op.get_context().autocommit_block():
            # An upgrade that was killed leaves one that is of no use.
            op.drop_index("jobs_waiting", table_name="jobs", if_exists=True, postgresql_concurrently=True)
            op.create_index("jobs_waiting", "jobs", ["workflow"], postgresql_concurrently=True, **_WHERE)
    else:
        op.create_index("jobs_waiting", "jobs", ["workflow"], **_WHERE)


def downgrade() -> None:
    op.drop_index("jobs_waiting", table_name="jobs")
