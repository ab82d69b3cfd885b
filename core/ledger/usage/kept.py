"""The bytes that tenants keep now: the one number that their limit is held against, and that reports show.

What counts is each record, for as long as it is there: every upload, every file that came with a job, every stored
output. Equal bytes lie in storage once, and count for each record all the same: so what a file costs does not depend on
who else has it, a removal always makes room at once, and nobody has to look at other files when one comes or goes. A
file that is sent straight into the bucket counts from when its client says that all is sent.

The number is written in the transactions in which files come and go (`core.ledger.database.kept_counts`), so that it is
exact whoever dies, and costs one row to read.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, func, select, union_all

from core.ledger.access.owned import is_owned
from core.ledger.database.access_tables import tenant_files
from core.ledger.database.tables import assets, jobs, uploads
from core.ledger.database.upload_tables import direct_uploads
from core.records.direct_upload import CHECKING

_ONE = select(tenant_files.c.kept_bytes).where(tenant_files.c.tenant == bindparam("who"))
_FILES = union_all(
    # What was given up is counted no more, though its bytes may lie there for a while.
    select(uploads.c.tenant, uploads.c.size_bytes).where(uploads.c.expires_at_ms > 0),
    select(direct_uploads.c.tenant, direct_uploads.c.size_bytes).where(direct_uploads.c.status == CHECKING),
    select(jobs.c.tenant, assets.c.size_bytes)
    .join(assets, assets.c.job_id == jobs.c.id)
    .where(assets.c.storage_key.is_not(None), jobs.c.files_removed.is_(False)),
    select(tenant_files.c.tenant, -tenant_files.c.kept_bytes),
).subquery()
#: One statement, which sees counts and files as of one moment: by how much they differ.
_MISCOUNTED = (
    select(_FILES.c.tenant, func.sum(_FILES.c.size_bytes).label("more"))
    .group_by(_FILES.c.tenant)
    .having(func.sum(_FILES.c.size_bytes) != 0)
)


def kept_bytes(connection: Connection, tenant: str) -> int:
    """Return the bytes that one tenant keeps."""
    # A moment's error of an earlier version's process, see `miscounted`, shows no tenant fewer than none.
    return max(0, int(connection.execute(_ONE, {"who": tenant}).scalar() or 0))


def kept_by_tenant(connection: Connection, of: str) -> dict[str, int]:
    """Return the same by tenant; tenants without any are left out.

    Parameters:
      of: the tenant who asks, or `ALL_TENANTS`.
    """
    query = select(tenant_files.c.tenant, tenant_files.c.kept_bytes)
    query = query.where(tenant_files.c.kept_bytes > 0, is_owned(tenant_files.c.tenant, of))
    return {row.tenant: int(row.kept_bytes) for row in connection.execute(query)}


def miscounted(connection: Connection) -> dict[str, int]:
    """Return by how much the counts of tenants are too low, which processes of earlier versions do not keep.

    It looks at every file.
    """
    return {row.tenant: int(row.more) for row in connection.execute(_MISCOUNTED)}
