"""The GPUs of a fleet as a forecast looks at them: what they can run and hold, and how long they are at work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, not_, select

from core.ledger.database.tables import instances, jobs
from core.ledger.durations import gpu_kind
from core.ledger.instances import SILENCE_MS, listed_state
from core.ledger.scheduling.learned import USUAL_LOAD_S, Costs
from core.ledger.scheduling.lines import LineKind
from core.ledger.scheduling.picture import GPU_COLUMNS, IS_ALIVE, GpuRow
from core.ledger.scheduling.reach import NONE, Reach, Sort
from core.records.job import LEASED
from core.scheduling.gates import GateKey
from core.scheduling.lines import Gpu, ModelSet
from core.scheduling.picture import FleetGpu
from core.scheduling.residency import USUAL_BYTES

_ALIVE = select(*GPU_COLUMNS).where(IS_ALIVE).order_by(instances.c.name)
_RUNNING = select(
    jobs.c.instance,
    jobs.c.line,
    jobs.c.tenant,
    jobs.c.batch,
    jobs.c.started_at_ms,
    jobs.c.on_deck,
    jobs.c.shape,
    jobs.c.workflow.label("template"),
    jobs.c.expected_time_s,
).where(jobs.c.status.in_(sorted(LEASED)), jobs.c.instance.is_not(None))


_AWAY = select(*GPU_COLUMNS, instances.c.heartbeat_at_ms).where(not_(IS_ALIVE))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job that an instance has claimed."""

    instance: str
    line: int | None
    tenant: str
    batch: str | None
    started_at_ms: int
    #: It stands behind another one, and has not begun.
    on_deck: bool
    shape: str | None
    template: str | None
    expected_time_s: float | None


def read_gpus(connection: Connection, now: int) -> list[GpuRow]:
    """Return the healthy instances, by name."""
    rows = connection.execute(_ALIVE, {"heard_since_ms": now - SILENCE_MS})
    return [GpuRow(**row._mapping) for row in rows]


def read_away(connection: Connection, now: int, at_work: Collection[str]) -> list[GpuRow]:
    """Return the instances that take no jobs, each in the state that it is listed in.

    Parameters:
      at_work: the names of those that run jobs.
    """
    found = []
    for row in connection.execute(_AWAY, {"heard_since_ms": now - SILENCE_MS}):
        values = dict(row._mapping)
        is_silent = values.pop("heartbeat_at_ms") <= now - SILENCE_MS
        state = listed_state(row.state, is_silent=is_silent, is_at_work=row.name in at_work)
        found.append(GpuRow(**{**values, "state": state}))
    return found


def read_running(connection: Connection) -> list[RunningJob]:
    """Return the jobs that instances have claimed."""
    return [RunningJob(**row._mapping) for row in connection.execute(_RUNNING)]


class FleetView:
    """Makes the forecast's GPUs; what many have in common is made once.

    Parameters:
      waiting: the lines that have jobs, by their id.
      known: the kinds of all lines known: what is held for those without jobs is pushed out, too.
      reach: what follows from all these.
      costs: of the models that are waited for.
      without_choice: lines that are not kept off any GPU, because no other could run them.
    """

    def __init__(
        self,
        waiting: Mapping[int, LineKind],
        known: Iterable[LineKind],
        reach: Reach,
        costs: Costs,
        without_choice: frozenset[int] = NONE,
    ) -> None:
        self._waiting = waiting
        self._without_choice = without_choice
        self._reach = reach
        self._costs = costs
        self._files = {kind.work: kind.files for kind in known}
        self._can_run: dict[tuple[Sort, frozenset[str]], frozenset[int] | None] = {}
        self._load_s: dict[str, dict[ModelSet, float]] = {}
        self._gpus: dict[tuple[object, ...], tuple[Gpu, tuple[ModelSet, ...], int]] = {}

    def gpu(self, row: GpuRow, *, left_s: float | None, slots: tuple[GateKey, ...] = ()) -> FleetGpu:
        """Return an instance.

        Parameters:
          left_s: until it has done what it has claimed; None: it is idle.
          slots: the gates of what it has claimed.
        """
        gpu, recent, room = self._alike(row)
        if left_s:
            gpu = replace(gpu, free_s=left_s)
        return FleetGpu(
            name=row.name,
            gpu=gpu,
            busy=left_s is not None,
            slots=slots,
            can_run=self.can_run(row),
            recent=recent,
            room=room,
        )

    def can_run(self, row: GpuRow) -> frozenset[int] | None:
        """Return the waiting lines that an instance can run; None for all of them."""
        key = row.sort, row.given_up
        if key not in self._can_run:
            able = self._takes(row.sort).intersection(self._waiting)
            if row.given_up:
                able = frozenset(each for each in able if row.given_up.isdisjoint(self._waiting[each].files))
            self._can_run[key] = None if len(able) == len(self._waiting) else able
        return self._can_run[key]

    def states_of(self, away: Mapping[tuple[Sort, str], int], line_id: int) -> Counter[str]:
        """Return how many of the instances that take no jobs could run a line, by their states.

        Parameters:
          away: how many there are of each sort in each state.
        """
        states: Counter[str] = Counter()
        for (sort, state), count in away.items():
            if line_id in self._takes(sort):
                states[state] += count
        return states

    def kept_off(self, row: GpuRow) -> frozenset[int]:
        """Return the lines whose jobs would run out of memory on an instance, and that others can run."""
        return self._reach.kept_off(row.sort) - self._without_choice

    def _takes(self, sort: Sort) -> frozenset[int]:
        return self._reach.able(sort) - (self._reach.kept_off(sort) - self._without_choice)

    def _alike(self, row: GpuRow) -> tuple[Gpu, tuple[ModelSet, ...], int]:
        kind = gpu_kind(row.device, row.kind)
        key = kind, row.memory_bytes, tuple((name, size) for name, size in row.held or ())
        if key not in self._gpus:
            self._gpus[key] = self._made(row, kind)
        return self._gpus[key]

    def _made(self, row: GpuRow, kind: str) -> tuple[Gpu, tuple[ModelSet, ...], int]:
        residency = row.residency
        holds, at_risk = self._reach.held(residency.names, residency.at_risk())
        held = {work: self._files[work] for work in holds if self._files.get(work)}
        age = {file.name: place for place, file in enumerate(residency.files)}
        recent = tuple(sorted(held, key=lambda work: (max(age[name] for name in held[work]), work)))
        gpu = Gpu(
            holds=frozenset(held),
            at_risk=frozenset(work for work in held if self._reach.models_of[work] in at_risk),
            load_s=self._loads(kind),
            usual_load_s=USUAL_LOAD_S,
        )
        return gpu, recent, _room(row, list(held.values()))

    def _loads(self, kind: str) -> dict[ModelSet, float]:
        """How long each model set loads on a kind of GPU."""
        if kind not in self._load_s:
            self._load_s[kind] = {
                each.work: self._costs.load_s(each.models, kind) for each in self._waiting.values() if each.files
            }
        return self._load_s[kind]


def _room(row: GpuRow, held: Sequence[tuple[str, ...]]) -> int:
    """How many model sets find room on an instance, if the others are as large as those that it holds."""
    sizes = {file.name: file.size_bytes for file in row.residency.files}
    largest = max((sum(sizes[name] for name in files) for files in held), default=USUAL_BYTES)
    return max(1, (row.memory_bytes or 0) // max(1, largest))
