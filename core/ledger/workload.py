"""How much work waits and runs, and how long a job has to wait for a GPU because of it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from sqlalchemy import Row, func, select

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.tables import instances, jobs
from core.ledger.durations import Averages, Durations, gpu_kind
from core.ledger.instances import is_alive
from core.ledger.scheduling.queue_order import Accepted, Rank, accepted_of, queue_order, rank_of, rank_of_new
from core.records.job import DELIVERING, LEASED, QUEUED, RUNNING, Job

#: Waiting jobs looked at one by one, the next to run first; those behind them are taken to last as long on average.
LOOK = 500


@dataclass(frozen=True, kw_only=True)
class Load:
    """One job's claim on the fleet."""

    #: GPU time it still needs.
    seconds: float
    accepted: Accepted


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The fleet's work at one moment.

    Every wait is an estimate: the work of the jobs ahead, spread evenly over the GPUs that can run them.
    """

    #: Read at this time.
    at_ms: int
    #: Jobs by status.
    sizes: dict[str, int]
    #: Healthy GPUs by their catalogue, and the kind of each, see `gpu_kind`.
    gpus: Counter[str]
    kinds: tuple[str, ...]
    #: What runs now, by the catalogue of its GPU.
    running: tuple[Load, ...]
    #: Ranks of the first `LOOK` waiting jobs, in order, and their loads.
    ranks: list[Rank]
    waiting: list[Load]
    #: Work ahead of each waiting job, for each set of catalogues that was asked for.
    _sums: dict[Accepted, list[float]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_whole(self) -> bool:
        """Whether every waiting job was looked at."""
        return self.sizes.get(QUEUED, 0) <= len(self.ranks)

    def position(self, job: Job) -> int | None:
        """Return the place of a queued job, 1 being the next to run; None when it lies behind those looked at."""
        place = bisect_left(self.ranks, rank_of(job))
        return place + 1 if self.is_whole or place < len(self.ranks) else None

    def wait_s(self, job: Job, position: int, *, typical_s: float | None = None) -> float | None:
        """Return the seconds until a queued job at this position begins; None while no healthy GPU can run it.

        Parameters:
          typical_s: how long those ahead last that were not looked at; None means as long as those that were.
        """
        place = bisect_left(self.ranks, rank_of(job))
        is_known = place < len(self.ranks) and self.ranks[place] == rank_of(job)
        # Of a job behind those looked at we do not know what it runs on; most run anywhere.
        accepted = self.waiting[place].accepted if is_known else None
        return self._wait_s(place, position - 1, accepted, typical_s)

    def wait_of_new_s(self) -> float | None:
        """Return the seconds until a job would begin that is submitted now, with the usual priority, for any GPU."""
        place = bisect_left(self.ranks, rank_of_new(self.at_ms))
        ahead = place if place < len(self.ranks) else self.sizes.get(QUEUED, 0)
        return self._wait_s(place, ahead, None, None)

    def _wait_s(self, looked_at: int, ahead: int, accepted: Accepted, typical_s: float | None) -> float | None:
        gpus = _count(self.gpus, accepted)
        if not gpus:
            return None
        mean_s = self._sums_for(accepted)[looked_at] / looked_at if looked_at else 0.0
        seen, unseen = min(ahead, looked_at), max(0, ahead - looked_at)
        waiting_s = seen * mean_s + unseen * (mean_s if typical_s is None else typical_s)
        return (self._share(self.running, accepted) + waiting_s) / gpus

    def _sums_for(self, accepted: Accepted) -> list[float]:
        if accepted not in self._sums:
            each = (self._share([load], accepted) for load in self.waiting)
            self._sums[accepted] = list(accumulate(each, initial=0.0))
        return self._sums[accepted]

    def _share(self, loads: Iterable[Load], accepted: Accepted) -> float:
        """Seconds of these loads that fall on the GPUs with an accepted catalogue."""
        total_s = 0.0
        for load in loads:
            able = _count(self.gpus, load.accepted)
            common = able if accepted is None else _count(self.gpus, _both(load.accepted, accepted))
            total_s += load.seconds * common / able if able else 0.0
        return total_s


class WorkloadReader:
    """Reads the workload from the ledger: five short queries, however long the queue is."""

    def __init__(self, database: Database, durations: Durations) -> None:
        self._database = database
        self._durations = durations

    def read(self) -> Workload:
        """Return the workload now."""
        now = now_ms()
        with self._database.read() as connection:
            gpus = connection.execute(_GPUS.where(is_alive())).all()
            running = connection.execute(_RUNNING).all()
            waiting = connection.execute(_WAITING).all()
        kinds_of_job = {(row.shape, row.template): row for row in [*running, *waiting]}
        averages = self._durations.averages(kinds_of_job.values())
        loads = _Loads(averages, gpus)
        catalogues = {row.name: row.catalogue for row in gpus}
        return Workload(
            at_ms=now,
            sizes=self.sizes(),
            gpus=Counter(catalogues.values()),
            kinds=tuple(gpu_kind(row.device, row.kind) for row in gpus),
            running=tuple(
                loads.rest_of(row, catalogues[row.instance], now) for row in running if row.instance in catalogues
            ),
            ranks=[rank_of(row) for row in waiting],
            waiting=[loads.of(row, accepted_of(row.catalogues)) for row in waiting],
        )

    def sizes(self) -> dict[str, int]:
        """Return how many jobs wait, run, and store their outputs: `{status: count}`."""
        with self._database.read() as connection:
            return {row.status: row.jobs for row in connection.execute(_SIZES)}


_LASTING = (jobs.c.shape, jobs.c.workflow.label("template"), jobs.c.expected_time_s)
_GPUS = select(instances.c.name, instances.c.kind, instances.c.device, instances.c.catalogue)
_RUNNING = select(jobs.c.instance, jobs.c.started_at_ms, jobs.c.on_deck, *_LASTING).where(
    jobs.c.status.in_(sorted(LEASED))
)
_WAITING = (
    select(jobs.c.priority, jobs.c.created_at_ms, jobs.c.id, jobs.c.catalogues, *_LASTING)
    .where(jobs.c.status == QUEUED)
    .order_by(*queue_order())
    .limit(LOOK)
)
_SIZES = (
    select(jobs.c.status, func.count().label("jobs"))
    .where(jobs.c.status.in_([QUEUED, RUNNING, DELIVERING]))
    .group_by(jobs.c.status)
)


class _Loads:
    """Turns rows of jobs into loads; most jobs are alike, so each kind is worked out once."""

    def __init__(self, averages: Averages, gpus: Sequence[Row[Any]]) -> None:
        self._averages = averages
        self._gpus = [(row.catalogue, gpu_kind(row.device, row.kind)) for row in gpus]
        self._known: dict[tuple[Any, ...], Load] = {}

    def of(self, row: Row[Any], accepted: Accepted) -> Load:
        key = (row.shape, row.template, row.expected_time_s, accepted)
        if key not in self._known:
            kinds = [kind for catalogue, kind in self._gpus if accepted is None or catalogue in accepted]
            self._known[key] = Load(seconds=self._averages.expect(row, kinds), accepted=accepted)
        return self._known[key]

    def rest_of(self, row: Row[Any], catalogue: str, now: int) -> Load:
        """Return what a running job still needs: all of it while on deck, nothing of it when it is overdue."""
        whole = self.of(row, frozenset({catalogue}))
        # A clock that was set back must not add days.
        passed_s = 0.0 if row.on_deck else max(0.0, (now - row.started_at_ms) / 1000)
        return Load(seconds=max(0.0, whole.seconds - passed_s), accepted=whole.accepted)


def _both(one: Accepted, other: frozenset[str]) -> frozenset[str]:
    return other if one is None else one & other


def _count(gpus: Counter[str], accepted: Accepted) -> int:
    return sum(count for catalogue, count in gpus.items() if accepted is None or catalogue in accepted)
