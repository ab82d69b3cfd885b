"""Gates in the ledger: how many jobs of a tenant, or of a batch, run at once at most, and how many do.

A tenant's gate is its limit, or the fleet's; a batch's its limit, and whether it is paused. Lines name the batch of
their jobs where it has a gate, or had one (`core.ledger.scheduling.batch_lines`). While a batch is being cancelled its
gate is shut too, for no GPU is to begin what is about to go; its jobs stay in the lines where they are. What runs is
counted when somebody asks, from few rows: so there is nothing that a dead worker could leave behind.

Of two that claim at once each would see the last free slot. So a claim locks the rows of the gates that its job goes
through, and counts anew. SQLite has one writer at a time, which has counted within its transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, TypeAlias

from sqlalchemy import Connection, and_, bindparam, func, or_, select

from core.ledger.database.access_tables import tenants
from core.ledger.database.batch_tables import batches
from core.ledger.database.tables import jobs
from core.ledger.scheduling.lines import LineKind, WaitingLine, line_tenant
from core.records.access import DEFAULT_TENANT
from core.records.job import LEASED
from core.records.tenant_limits import UNLIMITED
from core.scheduling.gates import Gate, GateKey

#: The gates of lines, by their ids; those without any are left out.
GatesOfLines: TypeAlias = Mapping[int, tuple[Gate, ...]]
#: How many may run at once, None for any number, and whether none may begin.
Limit: TypeAlias = tuple[int | None, bool]
NO_GATES: Final[GatesOfLines] = {}

# Statements on the path of claims, built once.
_CAPPED = select(tenants.c.name, tenants.c.max_running).where(tenants.c.max_running.is_not(None))
#: Whether any tenant has a limit of its own: part of a statement that a claim has anyway.
HAS_CAPPED_TENANTS = select(tenants.c.name).where(tenants.c.max_running.is_not(None)).exists()
_IS_CANCELING = batches.c.cancel_before_ms.is_not(None)
_OF_A_BATCH = (batches.c.id, batches.c.max_running, or_(batches.c.is_paused, _IS_CANCELING).label("is_held"))
_BATCHES = select(*_OF_A_BATCH).where(batches.c.id.in_(bindparam("wanted_batches", expanding=True)))
_RUNNING = (
    select(jobs.c.tenant, jobs.c.batch, func.count())
    .where(jobs.c.status.in_(sorted(LEASED)))
    .group_by(jobs.c.tenant, jobs.c.batch)
)
#: No lock on what refers to them.
_LOCKED_TENANT = select(tenants.c.max_running).where(tenants.c.name == bindparam("who")).with_for_update(key_share=True)
_LOCKED_BATCH = select(*_OF_A_BATCH).where(batches.c.id == bindparam("wanted_batch")).with_for_update(key_share=True)
#: That a batch has a gate, for which its jobs are led into lines of its own.
HAS_GATE = or_(batches.c.is_paused, batches.c.max_running.is_not(None))
#: Of a job: that its batch has one, or is being cancelled.
IS_GATED_BY_BATCH = and_(
    jobs.c.batch.is_not(None),
    select(batches.c.id).where(batches.c.id == jobs.c.batch, or_(HAS_GATE, _IS_CANCELING)).exists(),
)


class Gates:
    """The gates of a fleet.

    Parameters:
      tenant_max_running: of tenants without a limit of their own; None: any number.
    """

    def __init__(self, *, tenant_max_running: int | None = None) -> None:
        self._usual = tenant_max_running

    def of_lines(
        self,
        connection: Connection,
        waiting: Sequence[WaitingLine],
        *,
        has_capped_tenants: bool = True,
        has_batches: bool = True,
    ) -> GatesOfLines:
        """Return the gates of lines that have jobs; nothing is read where there can be none.

        Parameters:
          has_capped_tenants: whether any tenant may have a limit of its own.
          has_batches: whether any line may name a batch.
        """
        limits = self._limits_of_tenants(connection, waiting) if has_capped_tenants or self._usual is not None else {}
        if has_batches:
            limits |= _limits_of_batches(connection, {line.kind.batch for line in waiting if line.kind.batch})
        if not limits:
            return NO_GATES
        running = _count_running(connection)
        gates = {key: _gate(key, limit, running) for key, limit in limits.items()}
        found = {line.id: tuple(gates[key] for key in keys_of(line.kind) if key in gates) for line in waiting}
        return {line_id: of_line for line_id, of_line in found.items() if of_line}

    def closed_by_now(self, connection: Connection, gates: Iterable[Gate]) -> Collection[GateKey]:
        """Lock the rows of gates until the transaction ends, and return those that let nobody through any more."""
        limits: dict[GateKey, Limit] = {}
        # The tenant's first, as everybody does: nobody waits in a circle.
        for key in sorted((gate.key for gate in gates), key=lambda key: key.kind != "tenant"):
            if key.kind == "tenant":
                own = connection.execute(_LOCKED_TENANT, {"who": key.name or DEFAULT_TENANT}).scalar()
                limits[key] = (self._over_usual(own), False)
            else:
                row = connection.execute(_LOCKED_BATCH, {"wanted_batch": key.name}).one_or_none()
                limits[key] = (None, False) if row is None else (row.max_running, row.is_held)
        running = _count_running(connection)
        return [key for key, limit in limits.items() if not _gate(key, limit, running).free]

    def _limits_of_tenants(self, connection: Connection, waiting: Iterable[WaitingLine]) -> dict[GateKey, Limit]:
        own = {line_tenant(name): most for name, most in connection.execute(_CAPPED)}
        limits = {name: self._over_usual(own.get(name)) for name in {line.kind.tenant for line in waiting}}
        return {GateKey("tenant", name): (most, False) for name, most in limits.items() if most is not None}

    def _over_usual(self, own: int | None) -> int | None:
        if own is None:
            return self._usual
        return None if own == UNLIMITED else own


def keys_of(kind: LineKind) -> tuple[GateKey, ...]:
    """Return the gates that the jobs of a line would go through, were there any."""
    tenant = GateKey("tenant", kind.tenant)
    return (tenant, GateKey("batch", kind.batch)) if kind.batch else (tenant,)


def _limits_of_batches(connection: Connection, names: Collection[str]) -> dict[GateKey, Limit]:
    """Return the limits of batches that are named by lines, also of those that have none any more.

    Their rows are locked all the same, so that who pauses a batch waits for the claims that are under way.
    """
    if not names:
        return {}
    rows = connection.execute(_BATCHES, {"wanted_batches": sorted(names)})
    return {GateKey("batch", row.id): (row.max_running, row.is_held) for row in rows}


def _count_running(connection: Connection) -> Counter[GateKey]:
    """Return how many jobs run, by tenant and by batch."""
    running: Counter[GateKey] = Counter()
    for tenant, batch, count in connection.execute(_RUNNING):
        running[GateKey("tenant", line_tenant(tenant))] += count
        if batch is not None:
            running[GateKey("batch", batch)] += count
    return running


def _gate(key: GateKey, limit: Limit, running: Mapping[GateKey, int]) -> Gate:
    most, is_paused = limit
    return Gate(key=key, most=most, running=running.get(key, 0), is_paused=is_paused)
