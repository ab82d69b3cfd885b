"""Jobs, GPUs, webhooks and files as they are at the moment of a scrape, from what the ledger keeps counted.

Nothing here reads jobs that wait or have ended one by one: lines count those that wait, each tenant's files are
counted, and what runs is at most two jobs for each GPU. So it costs the same with ten jobs as with a hundred thousand.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, Text, cast, func, literal_column, select

from core.clock import now_ms
from core.ledger.database.access_tables import tenant_files
from core.ledger.database.connections import Database
from core.ledger.database.fleet_tables import facts
from core.ledger.database.metric_tables import metric_processes
from core.ledger.database.rollout_tables import rollout_hosts, rollouts
from core.ledger.database.tables import deliveries, instances, jobs, lines
from core.ledger.facts import CLOCK
from core.ledger.instances import SILENCE_MS, listed_state
from core.ledger.metrics.bounded_labels import BoundedLabels
from core.ledger.metrics.pool_needs import PoolNeeds, read_needs
from core.ledger.metrics.sums import SILENT_MS, read_sums
from core.ledger.metrics.waiting_templates import read_waiting_templates
from core.records.access import DEFAULT_TENANT
from core.records.job import DELIVERING, LEASED
from core.records.rollout import HostState, RolloutState

#: Webhooks that are due are counted up to here: with as many it is no use to know the rest.
MOST_DUE = 10_000
#: As a job is listed that is claimed and stands behind another one.
ON_DECK = "on_deck"


@dataclass(frozen=True, kw_only=True)
class WaitingJobs:
    """Jobs that wait, of one tenant and one pool; the pool is empty where any will do."""

    tenant: str
    pool: str
    count: int
    #: When the oldest of them came.
    head_ms: int


@dataclass(frozen=True, kw_only=True)
class StartedJobs:
    """Jobs on GPUs, and those whose files are being stored."""

    #: Or `ON_DECK`.
    status: str
    tenant: str
    template: str
    count: int


class GpuState(NamedTuple):
    """One instance and its GPU. No dataclass: there are a thousand of them, made for each scrape."""

    name: str
    #: As in `core.ledger.instances`.
    state: str
    #: Empty for none.
    pool: str
    is_busy: bool
    restarts: int
    vram_bytes: int | None
    vram_used_bytes: int | None
    models_held: int


@dataclass(frozen=True, kw_only=True)
class ProcessState:
    """A process of the API, or an io worker."""

    role: str
    host: str
    gauges: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class NewestRollout:
    """The rollout that was begun last."""

    state: RolloutState
    #: How many hosts of it are in each state.
    hosts: Mapping[HostState, int]


@dataclass(frozen=True, kw_only=True)
class FleetState:
    """The fleet as the ledger knows it, by the ledger's clock."""

    now_ms: int
    #: How long the ledger took for a question that costs it nothing.
    ping_s: float
    #: Of what was counted, by sample.
    sums: dict[str, float]
    labels: BoundedLabels
    waiting: Sequence[WaitingJobs] = ()
    started: Sequence[StartedJobs] = ()
    #: By template, as they were counted last, within a minute; None: nobody counts.
    waiting_templates: Mapping[str, int] | None = None
    gpus: Sequence[GpuState] = ()
    #: As they were noted last, within a minute.
    pools: Sequence[PoolNeeds] = ()
    #: `MOST_DUE` at most, and for how long the first of them has been due.
    webhooks_due: int = 0
    webhooks_behind_s: float = 0.0
    #: By tenant.
    kept_bytes: dict[str, int] = field(default_factory=dict)
    processes: Sequence[ProcessState] = ()
    #: None: there never was one.
    rollout: NewestRollout | None = None
    #: How long ago the reconciler noted its look, to a minute; None: never.
    reconciled_s_ago: float | None = None


_PING: Select[Any] = select(literal_column("1"))
# As text: PostgreSQL's JSON cannot be grouped by.
_REQUIRES = cast(lines.c.requires, Text)
_WAITING = (
    select(lines.c.tenant, _REQUIRES, func.sum(lines.c.waiting), func.min(lines.c.head_ms))
    .where(lines.c.waiting > 0)
    .group_by(lines.c.tenant, _REQUIRES)
)
_OF_STARTED = (jobs.c.status, jobs.c.on_deck, jobs.c.tenant, jobs.c.workflow, jobs.c.instance)
# Grouped by their status first: without that SQLite, which knows no more than how many statuses there are, reads the
# whole table where most of it waits.
_STARTED = (
    select(*_OF_STARTED, func.count()).where(jobs.c.status.in_(sorted({*LEASED, DELIVERING}))).group_by(*_OF_STARTED)
)
_GPUS = select(
    instances.c.name,
    instances.c.state,
    instances.c.pool,
    instances.c.heartbeat_at_ms,
    instances.c.up_since_ms,
    instances.c.restarts,
    instances.c.vram_bytes,
    instances.c.vram_used_bytes,
    literal_column("coalesce(json_array_length(held), 0)").label("models_held"),
).order_by(instances.c.name)


class FleetStates:
    """Reads how the fleet is."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self) -> FleetState:
        """Return the fleet as it is now. Raises LedgerUnavailable."""
        with self._database.read() as connection:
            begun_s = time.monotonic()
            connection.execute(_PING)
            ping_s = time.monotonic() - begun_s
            now = now_ms()
            due, behind_s = _webhooks(connection, now)
            started, busy = _started(connection)
            return FleetState(
                now_ms=now,
                ping_s=ping_s,
                sums=read_sums(connection),
                labels=BoundedLabels.read(connection),
                waiting=_waiting(connection),
                started=started,
                waiting_templates=read_waiting_templates(connection, now),
                gpus=_gpus(connection, now, busy),
                pools=read_needs(connection, now),
                webhooks_due=due,
                webhooks_behind_s=behind_s,
                kept_bytes={tenant: max(0, kept) for tenant, kept in connection.execute(select(tenant_files))},
                processes=_processes(connection, now),
                rollout=_rollout(connection),
                reconciled_s_ago=_reconciled_s_ago(connection, now),
            )


def _waiting(connection: Connection) -> list[WaitingJobs]:
    return [
        WaitingJobs(
            tenant=tenant or DEFAULT_TENANT,
            pool=str((json.loads(requires) or {}).get("pool") or "") if requires else "",
            count=int(count),
            head_ms=int(head_ms or 0),
        )
        for tenant, requires, count, head_ms in connection.execute(_WAITING)
    ]


def _started(connection: Connection) -> tuple[list[StartedJobs], set[str]]:
    """Return the jobs that have begun, and the instances that run one."""
    counts: Counter[tuple[str, str, str]] = Counter()
    busy: set[str] = set()
    for status, on_deck, tenant, template, instance, count in connection.execute(_STARTED).all():
        counts[ON_DECK if on_deck and status in LEASED else status, tenant, template or ""] += count
        if status in LEASED and not on_deck:
            busy.add(instance)
    started = [
        StartedJobs(status=status, tenant=tenant, template=template, count=count)
        for (status, tenant, template), count in counts.items()
    ]
    return started, busy


def _gpus(connection: Connection, now: int, busy: Collection[str]) -> list[GpuState]:
    found = []
    for name, state, pool, heartbeat_at_ms, up_since_ms, restarts, vram, used, held in connection.execute(_GPUS).all():
        is_silent = heartbeat_at_ms < now - SILENCE_MS
        # In the order of its fields: by their names it takes twice as long.
        found.append(
            GpuState(
                name,
                listed_state(state, is_silent=is_silent, is_at_work=name in busy),
                pool or "",
                name in busy,
                restarts,
                vram,
                None if is_silent else used,
                0 if is_silent or up_since_ms is None else held,
            )
        )
    return found


def _webhooks(connection: Connection, now: int) -> tuple[int, float]:
    """Return how many deliveries are due, and for how many seconds the first of them has been."""
    is_due = deliveries.c.next_try_at_ms <= now
    some = select(literal_column("1")).where(is_due).limit(MOST_DUE).subquery()
    due = int(connection.execute(select(func.count()).select_from(some)).scalar_one())
    first = select(deliveries.c.next_try_at_ms).where(is_due).order_by(deliveries.c.next_try_at_ms).limit(1)
    since_ms = connection.execute(first).scalar()
    return due, 0.0 if since_ms is None else max(0, now - since_ms) / 1000


def _processes(connection: Connection, now: int) -> list[ProcessState]:
    lately = metric_processes.c.at_ms > now - SILENT_MS
    query = select(metric_processes.c.role, metric_processes.c.host, metric_processes.c.gauges).where(lately)
    return [ProcessState(role=role, host=host, gauges=dict(gauges)) for role, host, gauges in connection.execute(query)]


def _rollout(connection: Connection) -> NewestRollout | None:
    newest = select(rollouts.c.id, rollouts.c.state).order_by(rollouts.c.created_at_ms.desc(), rollouts.c.id.desc())
    row = connection.execute(newest.limit(1)).one_or_none()
    if row is None:
        return None
    of_it = rollout_hosts.c.rollout == row.id
    counted = select(rollout_hosts.c.state, func.count()).where(of_it).group_by(rollout_hosts.c.state)
    return NewestRollout(state=row.state, hosts={state: int(n) for state, n in connection.execute(counted)})


def _reconciled_s_ago(connection: Connection, now: int) -> float | None:
    noted = connection.execute(select(facts.c.value).where(facts.c.name == CLOCK)).scalar()
    at = (noted or "").partition(" ")[0]
    return max(0, now - int(at)) / 1000 if at.isdecimal() else None
