"""Tenants in the ledger: who owns jobs, files and keys."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, insert, select, update

from core.clock import now_ms
from core.errors import AlreadyExists, NotFound
from core.ledger.database.access_tables import tenants
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.records.access import Tenant

_ALL = select(tenants.c.name, tenants.c.weight, tenants.c.created_at_ms)


class Tenants:
    """What operators do to tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Tenant]:
        """Return every tenant, by name; `default` is always there."""
        with self._database.read() as connection:
            return [_tenant(row) for row in connection.execute(_ALL.order_by(tenants.c.name))]

    def get(self, name: str) -> Tenant:
        """Return one tenant. Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(_ALL.where(tenants.c.name == name)).one_or_none()
        if row is None:
            raise NotFound(f"There is no tenant {name}.")
        return _tenant(row)

    def create(self, name: str, *, weight: float = 1.0) -> Tenant:
        """Make a tenant. Raises AlreadyExists."""
        tenant = Tenant(name=name, weight=weight, created_at_ms=now_ms())
        try:
            with self._database.write() as transaction:
                transaction.connection.execute(insert(tenants).values(**vars(tenant)))
        except Conflict as exc:
            raise AlreadyExists(f"There is a tenant {name} already.") from exc
        return tenant

    def weigh(self, name: str, weight: float) -> Tenant:
        """Give a tenant another share of a busy fleet. Raises NotFound."""
        with self._database.write() as transaction:
            transaction.connection.execute(update(tenants).where(tenants.c.name == name).values(weight=weight))
        return self.get(name)


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(name=row.name, weight=row.weight, created_at_ms=row.created_at_ms)
