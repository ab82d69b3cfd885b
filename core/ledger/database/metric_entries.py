"""What a transaction has counted, written at its end as one row that nobody else waits for."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from sqlalchemy import Connection, insert

from core.ledger.database.metric_tables import metric_entries

_WRITE = insert(metric_entries)


def write_amounts(connection: Connection, amounts: Mapping[str, float], *, entry_id: str | None = None) -> None:
    """Write amounts by sample, if there are any.

    Parameters: entry_id - of a report that may have been written already. Raises Conflict: it was.
    """
    if amounts:
        connection.execute(_WRITE, {"id": entry_id or str(uuid.uuid4()), "amounts": dict(amounts)})
