"""What each pool of GPUs has and wants, out of an outlook: the figures for whoever starts and stops hosts.

Beside the outlook it takes two short queries: one over the instances, one over the jobs that they have in hand. What
pools needed of late is a fact of the fleet, which the reconciler keeps; this reads it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Row, bindparam, func, select

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.tables import instances, jobs
from core.ledger.facts import Facts
from core.ledger.instances import DRAINED, DRAINING, HEALTHY, SILENCE_MS, STARTING, STOPPED, UNHEALTHY
from core.ledger.scheduling.learned import USUAL_LOAD_S
from core.ledger.scheduling.outlook import Outlook
from core.records.job import DELIVERING, LEASED
from core.records.scaling_rules import ScalingRules, pool_name
from core.scheduling.leaving import HostToLeave, hosts_to_leave
from core.scheduling.lines import ModelSet
from core.scheduling.picture import FleetGpu
from core.scheduling.scaling import Demand, GpuState, PoolGpu, PoolLine, demands
from core.scheduling.steadiness import History, PoolLimits, Wanted, remembered, wanted

#: The fact in which the reconciler keeps what pools needed of late.
HISTORY: Final = "scaling"
#: How long after it was told to leave a host may go, at the earliest: a claim that was under way has ended by then.
SETTLED_MS = 10_000
#: A host that has gone is told of for so long.
GONE_MS = 600_000
#: States from which it comes back by itself: one that crashed, or a storage that is away for a moment, must not have a
#: host started in its place.
_STARTS = frozenset({STARTING, UNHEALTHY})
#: States of an instance that takes no more jobs, while it is being given back.
_AT_REST = frozenset({DRAINING, DRAINED, STOPPED})

_INSTANCES = select(
    *(instances.c.name, instances.c.host, instances.c.pool, instances.c.state),
    *(instances.c.is_drained, instances.c.leaving_since_ms, instances.c.free_at_ms, instances.c.up_since_ms),
    instances.c.heartbeat_at_ms,
).order_by(instances.c.name)
_IN_HAND = (
    select(jobs.c.instance, jobs.c.status, func.count().label("jobs"))
    .where(jobs.c.status.in_(bindparam("statuses", expanding=True)), jobs.c.instance.is_not(None))
    .group_by(jobs.c.instance, jobs.c.status)
)


@dataclass(frozen=True, kw_only=True)
class LeavingHost:
    """A host that is being given back."""

    host: str
    #: Its instances, by name.
    gpus: tuple[str, ...]
    pools: tuple[str, ...]
    since_ms: int
    #: Jobs that run on it, and that have run and whose files still lie there.
    running: int
    storing: int
    #: Nothing of the fleet is on it any more: it can be switched off.
    may_go: bool
    reason: str


@dataclass(frozen=True, kw_only=True)
class PoolScale:
    """One pool at one moment."""

    #: As `pool_name` calls it.
    pool: str
    limits: PoolLimits
    demand: Demand
    ready: int
    busy: int
    #: Those that start, and those that answer no more and are started again.
    starting: int
    #: There, and serving nothing: drained by an operator, quarantined, without room on their disk.
    away: int
    leaving: int
    #: How many of the ready ones have nothing to do, how many of them for the whole idle window, and the longest.
    idle: int
    idle_long: int
    longest_idle_s: float
    wanted: Wanted
    #: What may be given back, in this order; empty as long as the pool wants all it has.
    to_leave: tuple[HostToLeave, ...] = ()

    @property
    def here(self) -> int:
        """How many take jobs, or soon will."""
        return self.ready + self.starting

    @property
    def replicas(self) -> int:
        """How many have to be there to have as many serve as are wanted."""
        return self.wanted.gpus + self.away


@dataclass(frozen=True, kw_only=True)
class FleetScale:
    """All pools at one moment, by their names, and the hosts that are being given back."""

    at_ms: int
    pools: Mapping[str, PoolScale]
    leaving: tuple[LeavingHost, ...]
    #: Jobs that no pool can run as things stand.
    homeless: int


class ScalingReader:
    """Works out what pools want."""

    def __init__(self, database: Database, facts: Facts, rules: ScalingRules) -> None:
        self._database = database
        self._facts = facts
        self._rules = rules

    def read(self, outlook: Outlook) -> FleetScale:
        """Return what each pool has and wants. Raises LedgerUnavailable."""
        return self._scale(outlook, self.histories())

    def remember(self, outlook: Outlook) -> FleetScale:
        """Note what each pool needs now, and return the same as `read`. Raises LedgerUnavailable."""
        return self._scale(outlook, self.histories(), note=self._note)

    def histories(self) -> dict[str, History]:
        """Return what each pool needed of late, as far as that was noted. Raises LedgerUnavailable."""
        try:
            found = json.loads(self._facts.get(HISTORY) or "{}")
            return {str(name): History.from_json(each) for name, each in found.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            # Another version's. Without it nothing is given up for a while.
            return {}

    def leaving(self) -> list[LeavingHost]:
        """Return the hosts that are being given back. Raises LedgerUnavailable."""
        rows, hands = self._rows()
        return list(_leaving(rows, hands, now_ms()))

    def _rows(self) -> tuple[Sequence[Row[Any]], dict[str, Counter[str]]]:
        """Return the instances, and how many jobs each has in hand by status."""
        with self._database.read() as connection:
            rows = connection.execute(_INSTANCES).all()
            in_hand = connection.execute(_IN_HAND, {"statuses": sorted({*LEASED, DELIVERING})}).all()
        hands: dict[str, Counter[str]] = {}
        for row in in_hand:
            hands.setdefault(row.instance, Counter())[row.status] += row.jobs
        return rows, hands

    def _note(self, histories: Mapping[str, History], needs: Mapping[str, Demand], now_s: float) -> dict[str, History]:
        """Keep what is needed now beside what was; returns both."""
        window_s = self._rules.idle_s
        after = {
            name: remembered(histories.get(name), demand.needed, now_s=now_s, window_s=window_s)
            for name, demand in needs.items()
        }
        texts = {name: history.to_json() for name, history in after.items()}
        self._facts.mark(HISTORY, json.dumps(texts, separators=(",", ":")))
        return after

    def _scale(
        self,
        outlook: Outlook,
        histories: Mapping[str, History],
        *,
        note: Callable[[Mapping[str, History], Mapping[str, Demand], float], Mapping[str, History]] | None = None,
    ) -> FleetScale:
        now = now_ms()
        rows, hands = self._rows()
        gpus = _gpus(rows, hands, outlook, now)
        limits = self._limits(gpus, outlook)
        lines = list(_lines(outlook, gpus, list(limits), now))
        needs = demands(
            [line for line in lines if line.pools],
            gpus,
            target_s=self._rules.target_wait_s,
            most={pool: limit.most for pool, limit in limits.items()},
        )
        if note is not None:
            histories = note(histories, needs, now / 1000)
        pools = {
            pool: self._pool(pool, limits[pool], needs[pool], gpus, histories.get(pool), now / 1000)
            for pool in sorted(limits)
        }
        surplus = {name: pool.here - pool.wanted.gpus for name, pool in pools.items()}
        going = hosts_to_leave(gpus, surplus, frozenset(line.models for line in lines if line.models))
        return FleetScale(
            at_ms=now,
            pools={name: _with_hosts(pool, going) for name, pool in pools.items()},
            leaving=tuple(_leaving(rows, hands, now)),
            homeless=sum(line.jobs for line in lines if not line.pools),
        )

    def _limits(self, gpus: Sequence[PoolGpu], outlook: Outlook) -> dict[str, PoolLimits]:
        """Return the limits of all pools: those of the settings, of GPUs, and of what waits."""
        counts = Counter(gpu.pool for gpu in gpus if gpu.serves)
        asked = (kind.requires.pool for kind in outlook.kinds.values() if kind.requires is not None)
        found = {*counts, *(gpu.pool for gpu in gpus), *(pool for pool in asked if pool)}
        # In the order in which jobs that any of them can run are led to them.
        names = [*self._rules.pools, *sorted(found.difference(self._rules.pools))]
        if not self._rules.pools:
            return {name: PoolLimits() for name in names}
        # Those that no setting names are not scaled: they have what they have.
        limits = {name: self._rules.pools.get(name, (counts[name], counts[name])) for name in names}
        return {name: PoolLimits(least=least, most=most) for name, (least, most) in limits.items()}

    def _pool(
        self,
        pool: str,
        limits: PoolLimits,
        demand: Demand,
        gpus: Iterable[PoolGpu],
        history: History | None,
        now_s: float,
    ) -> PoolScale:
        own = [gpu for gpu in gpus if gpu.pool == pool]
        states = Counter(gpu.state for gpu in own)
        idle_s = [gpu.idle_s for gpu in own if gpu.idle_s is not None]
        window_s = self._rules.idle_s
        return PoolScale(
            pool=pool,
            limits=limits,
            demand=demand,
            ready=states["ready"],
            busy=sum(gpu.serves and gpu.is_busy for gpu in own),
            starting=states["starting"],
            away=states["away"],
            leaving=states["leaving"],
            idle=len(idle_s),
            idle_long=sum(each >= window_s for each in idle_s),
            longest_idle_s=max(idle_s, default=0.0),
            wanted=wanted(
                demand, history, here=states["ready"] + states["starting"], limits=limits,
                target_s=self._rules.target_wait_s, now_s=now_s, window_s=window_s,
            ),
        )  # fmt: skip


def _gpus(rows: Iterable[Row[Any]], hands: Mapping[str, Counter[str]], outlook: Outlook, now: int) -> list[PoolGpu]:
    """Return the GPUs that are there; those whose workers have stopped or fallen silent are not."""
    seen = {gpu.name: gpu for gpu in outlook.picture.gpus}
    found = []
    for row in rows:
        if row.state == STOPPED or row.heartbeat_at_ms <= now - SILENCE_MS:
            continue
        leased = sum(count for status, count in hands.get(row.name, Counter()).items() if status in LEASED)
        gpu = seen.get(row.name)
        state = _state(row)
        is_idle = state == "ready" and not leased
        found.append(
            PoolGpu(
                name=row.name,
                host=row.host,
                pool=pool_name(row.pool),
                state=state,
                left_s=_left_s(gpu) if leased else None,
                idle_s=(now - _idle_since_ms(row, now)) / 1000 if is_idle else None,
                holds=gpu.gpu.holds if gpu is not None else frozenset(),
                can_run=gpu.can_run if gpu is not None else None,
            )
        )
    return found


def _state(row: Row[Any]) -> GpuState:
    if row.leaving_since_ms is not None:
        return "leaving"
    if row.is_drained:
        return "away"
    if row.state in _STARTS:
        return "starting"
    return "ready" if row.state == HEALTHY else "away"


def _left_s(gpu: FleetGpu | None) -> float:
    return 0.0 if gpu is None else gpu.gpu.free_s


def _idle_since_ms(row: Row[Any], now: int) -> int:
    # When it was expected to be free, which a GPU that was free earlier, or that looked for a job, has corrected.
    return min(now, max(row.up_since_ms or now, row.free_at_ms or 0))


def _lines(outlook: Outlook, gpus: Sequence[PoolGpu], names: Sequence[str], now: int) -> Iterable[PoolLine]:
    reach = _Reach(gpus, names)
    # GPUs of a kind share one.
    loads = list({id(gpu.gpu.load_s): gpu.gpu.load_s for gpu in outlook.picture.gpus}.values())
    for each in outlook.picture.lines:
        if each.line.waiting < 1 or any(gate.is_shut for gate in each.gates):
            continue
        requires = outlook.kinds[each.line.id].requires
        pools = [
            name
            for name in names
            if reach.can_run(name, each.line.id)
            and (
                requires is None or requires.are_met_by(pool=None if name == pool_name(None) else name, vram_bytes=None)
            )
        ]
        yield PoolLine(
            id=each.line.id,
            pools=tuple(pools),
            jobs=each.line.waiting,
            run_s=each.line.run_s,
            load_s=_load_s(each.line.models, loads),
            models=each.line.models,
            waits_s=max(0.0, now / 1000 - each.line.since_s),
            gates=each.gates,
        )


def _load_s(models: ModelSet, loads: Sequence[Mapping[ModelSet, float]]) -> float:
    """Return how long models load, on the slowest kind of GPU."""
    if not models:
        return 0.0
    return max((each[models] for each in loads if models in each), default=USUAL_LOAD_S)


class _Reach:
    """Which pools can run a line: one of whose GPUs takes it, or that has none to ask."""

    def __init__(self, gpus: Iterable[PoolGpu], names: Iterable[str]) -> None:
        self._sets: dict[str, set[frozenset[int] | None]] = {name: set() for name in names}
        for gpu in gpus:
            if gpu.state == "ready":
                self._sets[gpu.pool].add(gpu.can_run)

    def can_run(self, pool: str, line_id: int) -> bool:
        sets = self._sets[pool]
        return not sets or any(each is None or line_id in each for each in sets)


def _with_hosts(pool: PoolScale, going: Iterable[HostToLeave]) -> PoolScale:
    own = tuple(each for each in going if pool.pool in each.gpus)
    return PoolScale(**{**vars(pool), "to_leave": own}) if own else pool


def _leaving(rows: Iterable[Row[Any]], hands: Mapping[str, Counter[str]], now: int) -> Iterable[LeavingHost]:
    by_host: dict[str, list[Row[Any]]] = {}
    for row in rows:
        by_host.setdefault(row.host, []).append(row)
    for host, found in sorted(by_host.items()):
        marked = [row.leaving_since_ms for row in found if row.leaving_since_ms is not None]
        is_there = any(row.heartbeat_at_ms > now - GONE_MS or row.name in hands for row in found)
        if marked and is_there:
            yield _leaving_host(host, found, hands, max(marked), now)


def _leaving_host(
    host: str, found: Sequence[Row[Any]], hands: Mapping[str, Counter[str]], since_ms: int, now: int
) -> LeavingHost:
    in_hand: Counter[str] = Counter()
    for row in found:
        in_hand.update(hands.get(row.name, {}))
    running = sum(count for status, count in in_hand.items() if status in LEASED)
    storing = in_hand[DELIVERING]
    takes_jobs = [row.name for row in found if row.heartbeat_at_ms > now - SILENCE_MS and row.state not in _AT_REST]
    if running:
        reason = f"It finishes {running} {'job' if running == 1 else 'jobs'}."
    elif storing:
        reason = f"Files of {storing} {'job' if storing == 1 else 'jobs'} still lie on it."
    elif takes_jobs:
        reason = f"{', '.join(takes_jobs)} may still take jobs: it was not told to stop, or has not said so yet."
    elif now - since_ms < SETTLED_MS:
        reason = "It has just stopped to take jobs."
    else:
        reason = "Nothing of the fleet is on it any more: it can be switched off."
    return LeavingHost(
        host=host,
        gpus=tuple(row.name for row in found),
        pools=tuple(sorted({pool_name(row.pool) for row in found})),
        since_ms=since_ms,
        running=running,
        storing=storing,
        may_go=not (running or storing or takes_jobs or now - since_ms < SETTLED_MS),
        reason=reason,
    )
