"""The secrets of batches: what signs their webhooks, and what jobs need that are added, or replace others.

They stay sealed for as long as the batch is kept, and go with it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select

from core.errors import ConfigurationError, SecretUnreadable
from core.ledger.database.batch_tables import batch_secrets
from core.ledger.sealing import Sealer
from core.ledger.secrets import ADDRESS, BUCKET, PURPOSES, RUN, WEBHOOK, sealed_parts

#: What its jobs get copies of, and what its own webhooks need.
OF_JOBS, OF_WEBHOOKS = (RUN, BUCKET), (WEBHOOK, ADDRESS)

_SEALED = select(batch_secrets.c.batch, batch_secrets.c.purpose, batch_secrets.c.sealed).where(
    batch_secrets.c.batch.in_(bindparam("wanted", expanding=True)),
    batch_secrets.c.purpose.in_(bindparam("uses", expanding=True)),
)


class BatchSecrets:
    """Sealing and opening, within transactions of others."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def record(self, connection: Connection, batch_id: str, values: Mapping[str, Any]) -> None:
        """Seal the secrets of a new batch, as `JobRequest.secrets` has them."""
        rows = sealed_parts(self._sealer, values, lambda purpose: _bond(batch_id, purpose))
        if rows:
            connection.execute(insert(batch_secrets), [{"batch": batch_id, **row} for row in rows])

    def open_all(
        self, connection: Connection, batch_ids: Collection[str], uses: Collection[str]
    ) -> dict[str, dict[str, Any] | SecretUnreadable]:
        """Open the secrets of batches for any of these purposes: for each its secrets, or why they cannot be read."""
        opened: dict[str, dict[str, Any] | SecretUnreadable] = {batch_id: {} for batch_id in batch_ids}
        if not batch_ids:
            return opened
        for row in connection.execute(_SEALED, {"wanted": list(batch_ids), "uses": list(uses)}):
            found = opened[row.batch]
            if isinstance(found, SecretUnreadable):
                continue
            try:
                opened[row.batch] = found | self._sealer.open(row.sealed, bound_to=_bond(row.batch, row.purpose))
            except ConfigurationError:
                opened[row.batch] = SecretUnreadable(
                    f"The server can no longer read the secrets that came with batch {row.batch}: submit it again."
                )
        return opened


def of_jobs(secrets: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a request's secrets that its jobs get."""
    return {name: value for name, value in secrets.items() if PURPOSES[name] in OF_JOBS}


def _bond(batch_id: str, purpose: str) -> str:
    return f"batch:{batch_id}:{purpose}"
