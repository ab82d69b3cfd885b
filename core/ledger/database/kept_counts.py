"""How many bytes of each tenant are kept, counted in the transactions in which files come and go.

A sum over files would look at each of them. The count is written last in its transaction, like those of lines, so that
its row is locked for the time of a commit only; and it is true of what its transaction wrote, so that a sum and a count
that one statement reads are always the same.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from core.ledger.database.access_tables import tenant_files


def write_kept(connection: Connection, changes: Mapping[str, int]) -> None:
    """Add to the counts of tenants, in the order of their names: two transactions never wait for each other.

    Parameters:
      changes: by tenant, how many bytes more are kept.
    """
    insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    for tenant in sorted(changes):
        if not changes[tenant]:
            continue
        row = insert(tenant_files).values(tenant=tenant, kept_bytes=changes[tenant])
        more = tenant_files.c.kept_bytes + row.excluded.kept_bytes
        connection.execute(row.on_conflict_do_update(index_elements=[tenant_files.c.tenant], set_={"kept_bytes": more}))
