"""Tenants in the ledger: who owns jobs, files and keys, and how much of them at most."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, or_, select, update

from core.clock import now_ms
from core.errors import AlreadyExists, NotFound
from core.ledger.audit import write_act
from core.ledger.database.access_tables import tenants
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.ledger.facts import write_fact
from core.records.access import Tenant
from core.records.act import Actor
from core.records.tenant_limits import LIMITS, NO_LIMITS, TenantLimits

#: The fact that changes with what opens the API, and with what tenants may have.
VERSION: Final = "keys"

_LIMITS = tuple(tenants.c[name] for name in LIMITS)
_ALL = select(tenants.c.name, tenants.c.weight, tenants.c.created_at_ms, *_LIMITS)


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

    def create(
        self, name: str, *, weight: float = 1.0, limits: TenantLimits = NO_LIMITS, by: Actor | None = None
    ) -> Tenant:
        """Make a tenant. Raises AlreadyExists.

        Parameters: by - who makes it; None: the user of this process.
        """
        tenant = Tenant(name=name, weight=weight, limits=limits, created_at_ms=now_ms())
        row = {"name": name, "weight": weight, "created_at_ms": tenant.created_at_ms, **limits.numbers()}
        try:
            with self._database.write() as transaction:
                transaction.connection.execute(insert(tenants).values(**row))
                tell_of_change(transaction.connection)
                set_limits = {name: most for name, most in limits.numbers().items() if most is not None}
                write_act(transaction.connection, "tenant.create", name, by, weight=weight, **set_limits)
        except Conflict as exc:
            raise AlreadyExists(f"There is a tenant {name} already.") from exc
        return tenant

    def weigh(self, name: str, weight: float, *, by: Actor | None = None) -> Tenant:
        """Give a tenant another share of a busy fleet. Raises NotFound."""
        return self.change(name, weight=weight, by=by)

    def change(
        self,
        name: str,
        *,
        weight: float | None = None,
        limits: Mapping[str, float | None] | None = None,
        by: Actor | None = None,
    ) -> Tenant:
        """Change what is said of a tenant, and leave the rest as it is; API processes know it within a second.

        Parameters:
          limits: those that change, by their names; see `TenantLimits` for what their values mean.
          by: as for `create`.
        Raises: NotFound.
        """
        values: dict[str, float | None] = {**(limits or {})} | ({} if weight is None else {"weight": weight})
        if values:
            changed = update(tenants).where(tenants.c.name == name).values(**values)
            with self._database.write() as transaction:
                if transaction.connection.execute(changed).rowcount:
                    tell_of_change(transaction.connection)
                    write_act(transaction.connection, "tenant.change", name, by, **values)
        return self.get(name)


def read_limits(connection: Connection) -> dict[str, TenantLimits]:
    """Return what tenants may have for which anything is set."""
    query = _ALL.where(or_(*(column.is_not(None) for column in _LIMITS)))
    return {row.name: TenantLimits.of(row._asdict()) for row in connection.execute(query)}


def tell_of_change(connection: Connection) -> None:
    """Have every API process read keys and limits again."""
    write_fact(connection, VERSION, str(uuid.uuid4()))


def _tenant(row: Row[Any]) -> Tenant:
    return Tenant(
        name=row.name, weight=row.weight, limits=TenantLimits.of(row._asdict()), created_at_ms=row.created_at_ms
    )
