"""What tenants used of the fleet of late, for their turns: read where several of them wait."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from core.ledger.database.access_tables import tenants
from core.ledger.scheduling.lines import WaitingLine, line_tenant
from core.scheduling.shares import decayed

# On the path of claims, so built once.
_ALL = select(tenants.c.name, tenants.c.weight, tenants.c.used_s, tenants.c.used_at_ms)


@dataclass(frozen=True, kw_only=True)
class Used:
    """What tenants used, and what their weights are, as lines call them."""

    #: GPU seconds, divided by the weight. None: tenants take no turns.
    seconds: Mapping[str, float] | None = None
    weights: Mapping[str, float]

    def more(self, tenant: str, seconds: float) -> Used:
        """Return it with so much more that a tenant used."""
        if self.seconds is None:
            return self
        added_s = seconds / self.weights.get(tenant, 1.0)
        return Used(seconds={**self.seconds, tenant: self.seconds.get(tenant, 0.0) + added_s}, weights=self.weights)


#: Of a fleet in which one tenant waits, or none.
NO_TURNS = Used(weights={})


def read_used(connection: Connection, waiting: Iterable[WaitingLine], now: int) -> Used:
    """Return what tenants used, if more than one of them has jobs that wait."""
    if len({line.kind.tenant for line in waiting}) < 2:
        return NO_TURNS
    rows = connection.execute(_ALL).all()
    weights = {line_tenant(row.name): row.weight for row in rows}
    seconds = {
        line_tenant(row.name): decayed(row.used_s, (now - row.used_at_ms) / 1000) / row.weight
        for row in rows
        if row.used_s
    }
    return Used(seconds=seconds, weights=weights)
