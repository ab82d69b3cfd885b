"""What a job was made of, as far as it is still there: for one that runs it once more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from core.clock import now_ms
from core.errors import NotFound, SecretUnreadable
from core.ledger.database.connections import Database
from core.ledger.database.tables import jobs, uploads
from core.ledger.secrets import PURPOSES, Secrets


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """What of a job neither its record nor its graph says."""

    extra_pnginfo: dict[str, Any] | None
    #: Those that were not deleted yet, by their names in `JobRequest.secrets`.
    secrets: dict[str, Any] = field(repr=False)
    #: Names of those that were.
    wiped: tuple[str, ...]


class Reruns:
    """What the API asks about jobs that are to run once more."""

    def __init__(self, database: Database, secrets: Secrets) -> None:
        self._database = database
        self._secrets = secrets

    def ingredients(self, job_id: str) -> Ingredients:
        """Return what a job was made of. Raises NotFound."""
        query = select(jobs.c.extra_pnginfo, jobs.c.secret_names).where(jobs.c.id == job_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no job {job_id}.")
        kept = self._opened(job_id)
        # Jobs of earlier versions did not note what they came with; of those an empty row tells of webhooks alone.
        came_with = row.secret_names or []
        return Ingredients(
            extra_pnginfo=json.loads(row.extra_pnginfo) if row.extra_pnginfo else None,
            secrets=kept,
            wiped=tuple(name for name in came_with if name not in kept),
        )

    def assets_of(self, keys: Sequence[str], *, tenant: str) -> dict[str, str]:
        """Return the id of an asset with these bytes for each storage key; keys that the tenant has none of are out."""
        query = select(uploads.c.storage_key, uploads.c.id).where(
            uploads.c.storage_key.in_(keys), uploads.c.tenant == tenant, uploads.c.expires_at_ms > now_ms()
        )
        with self._database.read() as connection:
            # The one that stays longest is the last, and counts.
            rows = connection.execute(query.order_by(uploads.c.expires_at_ms)).all()
        return {row.storage_key: row.id for row in rows}

    def _opened(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for purpose in sorted(set(PURPOSES.values())):
            try:
                found |= self._secrets.open(job_id, purpose)
            except SecretUnreadable:
                continue
        return found
