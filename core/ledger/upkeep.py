"""Retention: what is kept no longer leaves the ledger, and its files the storage."""

from __future__ import annotations

from sqlalchemy import delete, select

from core.job import TERMINAL
from core.ledger.database import Database, now_ms
from core.ledger.tables import idempotency_keys, jobs

#: How long an Idempotency-Key stays used.
KEY_LIFE_MS = 24 * 3600 * 1000


class Upkeep:
    """What the reconciler removes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def remove_expired(self, *, limit: int = 200) -> list[str]:
        """Delete ended jobs past their retention, with events, assets and deliveries; returns their ids."""
        old = select(jobs.c.id).where(jobs.c.expires_at_ms < now_ms(), jobs.c.status.in_(sorted(TERMINAL))).limit(limit)
        with self._database.write() as transaction:
            ids = list(transaction.connection.execute(old).scalars())
            if ids:
                transaction.connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
            transaction.connection.execute(
                delete(idempotency_keys).where(idempotency_keys.c.created_at_ms < now_ms() - KEY_LIFE_MS)
            )
        return ids
