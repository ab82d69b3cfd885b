"""The fleet at one moment, read from the ledger for the scheduling policy: lines, who holds what, and GPUs that ask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from sqlalchemy import CompoundSelect, Connection, and_, bindparam, case, func, literal, null, select, union_all

from core.clock import now_ms
from core.ledger.database.tables import instances, residents
from core.ledger.durations import DEFAULT_S, gpu_kind
from core.ledger.instances import HEALTHY, SILENCE_MS
from core.ledger.models.yields import StoredYields, yields_of
from core.ledger.scheduling.gates import NO_GATES, GatesOfLines
from core.ledger.scheduling.learned import USUAL_LOAD_S, Costs, LearnedCosts
from core.ledger.scheduling.lines import Lines, WaitingLine
from core.ledger.scheduling.presence import SORT_COLUMNS, read_sorts, sort_of
from core.ledger.scheduling.reach import Sort
from core.ledger.scheduling.used import NO_TURNS, read_used
from core.scheduling.gates import Gate, GateKey, Slots
from core.scheduling.lines import Decision, Fleet, Gpu, Holders, Line, ModelSet
from core.scheduling.policy import decide
from core.scheduling.residency import USUAL_BYTES, ModelFile, Residency


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRow:
    """An instance, as far as the policy looks at it. One that is not registered may be anything."""

    name: str
    worker: str | None = None
    state: str = HEALTHY
    kind: str = ""
    device: str | None = None
    catalogue: str | None = None
    pool: str | None = None
    vram_bytes: int | None = None
    memory_bytes: int | None = None
    #: `[[name, bytes or null], ...]` of the model files it holds, the most recently used first.
    held: Sequence[tuple[str, int | None]] | None = None
    free_at_ms: int | None = None
    #: Model files whose jobs it begins no more, as `yields_of` reads them.
    yields: StoredYields | None = None
    has_queue: bool = False
    loads: int = 0
    loading_s: float = 0.0
    loads_day: int = 0

    @property
    def residency(self) -> Residency:
        """The model files that it is likely to hold."""
        files = tuple(ModelFile(name=name, size_bytes=size or USUAL_BYTES) for name, size in self.held or ())
        return Residency(files=files, budget_bytes=self.memory_bytes or 0)

    @property
    def sort(self) -> Sort:
        """What makes it able to run a line or not."""
        return sort_of(self.catalogue, self.pool, self.vram_bytes, self.device, self.kind)

    @property
    def given_up(self) -> frozenset[str]:
        """The model files whose jobs it begins no more: they make room for others on its host."""
        return frozenset(each.name for each in yields_of(self.yields))

    @property
    def sizes(self) -> dict[str, int]:
        """The sizes of those files, where they are known."""
        return {name: size for name, size in self.held or () if size is not None}


GPU_COLUMNS = tuple(instances.c[field.name] for field in fields(GpuRow))
#: An instance that is healthy and was heard of lately, in statements that are built once.
IS_ALIVE = and_(instances.c.state == HEALTHY, instances.c.heartbeat_at_ms > bindparam("heard_since_ms"))
_ALIVE = select(instances.c.name, *SORT_COLUMNS).where(IS_ALIVE)
_IS_BUSY = instances.c.free_at_ms > bindparam("now")
_LEFT_MS = case((_IS_BUSY, instances.c.free_at_ms - bindparam("now")), else_=0)
_HOLDERS = (
    select(residents.c.models, *SORT_COLUMNS, func.count().label("gpus"), func.sum(_LEFT_MS).label("left_ms"))
    .select_from(residents.join(instances, residents.c.instance == instances.c.name))
    # What makes room on its host for other files is not counted on by others either; it has jobs again soon.
    .where(IS_ALIVE, instances.c.yields.is_(None))
    .group_by(residents.c.models, *SORT_COLUMNS)
)
_HELD_BY = (
    select(instances.c.name, residents.c.models, *SORT_COLUMNS)
    .select_from(residents.join(instances, residents.c.instance == instances.c.name))
    .where(IS_ALIVE, instances.c.name.in_(bindparam("names", expanding=True)))
)
_EVERYBODY = select(
    literal("*").label("models"),
    *(null().label(column.name) for column in SORT_COLUMNS),
    func.count().label("gpus"),
    func.sum(case((_IS_BUSY, 1), else_=0)).label("left_ms"),
).where(IS_ALIVE)
_FLEET = union_all(_HOLDERS, _EVERYBODY)
_mine = residents.alias("mine")
#: The same of what one instance holds.
_AROUND_ONE = union_all(
    _HOLDERS.where(residents.c.models.in_(select(_mine.c.models).where(_mine.c.instance == bindparam("instance")))),
    _EVERYBODY,
)
NO_FILES: Final = frozenset[str]()
#: For a decision that does not depend on others.
NO_FLEET = Fleet()


class Loads(Mapping[ModelSet, float]):
    """How long each set of models takes to load on one kind of GPU, looked up when it is asked for."""

    def __init__(self, costs: Costs, kind: str, models_of: Mapping[ModelSet, ModelSet]) -> None:
        self._load_s = costs.load_s
        self._kind = kind
        self._models_of = models_of

    def __getitem__(self, work: ModelSet) -> float:
        return self._load_s(self._models_of[work], self._kind)

    def get(self, work: ModelSet, default: Any = None) -> Any:
        """Return the seconds, or the default for models that no line needs."""
        models = self._models_of.get(work)
        return default if models is None else self._load_s(models, self._kind)

    def __iter__(self) -> Iterator[ModelSet]:
        return iter(self._models_of)

    def __len__(self) -> int:
        return len(self._models_of)


class HoldersAroundOne(Mapping[ModelSet, Holders]):
    """Who holds what, where at first one GPU asks for what it holds itself: only that is read, until it asks for more.

    Parameters:
      known: the holders of `mine`.
      read_all: called at most once.
    """

    def __init__(
        self, known: Mapping[ModelSet, Holders], mine: Set[ModelSet], read_all: Callable[[], Mapping[ModelSet, Holders]]
    ) -> None:
        self._known = known
        self._mine: Set[ModelSet] | None = mine
        self._read_all = read_all

    def get(self, models: ModelSet, default: Any = None) -> Any:
        """Return the holders of a model set, or the default where there are none."""
        if self._mine is not None and models not in self._mine:
            self._known, self._mine = self._read_all(), None
        return self._known.get(models, default)

    def __getitem__(self, models: ModelSet) -> Holders:
        found: Holders | None = self.get(models)
        if found is None:
            raise KeyError(models)
        return found

    def __iter__(self) -> Iterator[ModelSet]:
        return iter(self._read_all())

    def __len__(self) -> int:
        return len(self._read_all())


class Picture:
    """Lines and GPUs at one moment. It may be played forward: `take` is what a decision changes.

    The fleet is read when a decision first depends on it: not where all that an instance can run is warm there. Lines
    behind a gate that is closed are left out.
    """

    def __init__(
        self,
        connection: Connection,
        lines: Lines,
        learned: LearnedCosts,
        waiting: Sequence[WaitingLine],
        gates: GatesOfLines = NO_GATES,
    ) -> None:
        self._connection = connection
        self._now_ms = now_ms()
        self.now_s = self._now_ms / 1000
        self._reach = lines.reach
        self._costs = learned.of(connection, self._reach.model_sets)
        self._lines = lines.drawn(waiting, self._costs)
        self._gates = gates
        self._slots = Slots(gates)
        self._leave_out(line_id for line_id in gates if not self._slots.is_open(line_id))
        self._used = NO_TURNS
        if lines.has_tenants:
            self._used = read_used(connection, [line for line in waiting if line.id in self._lines], self._now_ms)
        self._fleet: Fleet | None = None
        self._heard = {"heard_since_ms": self._now_ms - SILENCE_MS}
        #: Whether instances that lost what waits were left out, see `count_without`.
        self.is_told_of_losses = False
        #: The names of the healthy instances of each sort.
        self._alive: dict[Sort, list[str]] | None = None
        #: Lines that are kept off nothing, because no other GPUs could run them.
        self._without_choice: frozenset[int] | None = None
        self._off: dict[Sort, frozenset[int]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits any more."""
        return not self._lines

    @property
    def fleet(self) -> Fleet:
        """Who holds what, and how many work."""
        if self._fleet is None:
            self._fleet = self._read(_FLEET)
        return self._fleet

    def gates_of(self, line: Line) -> tuple[Gate, ...]:
        """Return what the jobs of a line go through to begin."""
        return self._gates.get(line.id, ())

    def behind(self, keys: Iterable[GateKey]) -> Collection[int]:
        """Return the lines behind any of these gates."""
        return self._slots.lines_of(keys)

    def files_of(self, line: Line) -> tuple[str, ...]:
        """Return the model files that the jobs of a line load."""
        return self._reach.files_of(line.id)

    def run_s_of(self, line: Line, kind: str, *, known_s: float | None, told_s: float | None) -> float:
        """Return how long one job of a line runs on a kind of GPU, as `Averages.expect` does.

        Parameters:
          known_s: how long those of its shape do, or of its template.
          told_s: what its client said.
        """
        if known_s is None:
            known_s = self._costs.known_run_s(self._reach.models_of[line.models], (kind,))
        if known_s is None:
            known_s = told_s
        return DEFAULT_S if known_s is None else known_s

    def gpu(self, row: GpuRow, *, free_s: float = 0.0) -> Gpu:
        """Return an instance as the policy sees it.

        Parameters:
          free_s: until it has done what it has claimed.
        """
        held = row.residency
        holds, at_risk = self._reach.held(held.names, held.at_risk())
        return Gpu(
            holds=holds,
            at_risk=at_risk,
            load_s=Loads(self._costs, gpu_kind(row.device, row.kind), self._reach.models_of),
            usual_load_s=USUAL_LOAD_S,
            free_s=free_s,
        )

    def lines_for(self, row: GpuRow) -> list[Line]:
        """Return the lines that an instance can run."""
        able, off = self._reach.able(row.sort), self._kept_off(row.sort)
        if off:
            able -= off
        given_up = row.given_up if row.yields else NO_FILES
        return [
            line
            for line in self._lines.values()
            if line.id in able and (not given_up or given_up.isdisjoint(self.files_of(line)))
        ]

    def _kept_off(self, sort: Sort) -> frozenset[int]:
        """The lines that leave instances of a sort to others; there are others for those of them that wait."""
        off = self._reach.kept_off(sort)
        if not off or off.isdisjoint(self._lines):
            return off
        known = self._off.get(sort)
        if known is None:
            if self._without_choice is None:
                self._without_choice = self._reach.without_choice(read_sorts(self._connection, self._now_ms))
            known = self._off[sort] = off - self._without_choice
        return known

    def suits_another(self, line_id: int, instance: str) -> bool:
        """Return whether a healthy instance beside this one may run a line."""
        if self._alive is None:
            self._alive = {}
            for name, *columns in self._connection.execute(_ALIVE, self._heard):
                self._alive.setdefault(sort_of(*columns), []).append(name)
        return any(
            line_id in self._reach.able(sort) - self._kept_off(sort)
            for sort, names in self._alive.items()
            if names != [instance]
        )

    def waiting_in(self, line_id: int) -> int:
        """Return how many jobs wait in a line."""
        return self._lines[line_id].waiting if line_id in self._lines else 0

    def count_without(self, of_no_use: Mapping[str, Collection[int]]) -> None:
        """Count instances no more among those that hold the models of some lines, by their names."""
        self.is_told_of_losses = True
        if not of_no_use:
            return
        held = self._connection.execute(_HELD_BY, {**self._heard, "names": list(of_no_use)})
        holders = dict(self.fleet.holders)
        for name, models, *columns in held:
            works = set(self._reach.works(models, sort_of(*columns)))
            wanted = {self._lines[line_id].models for line_id in of_no_use[name] if line_id in self._lines}
            for work in works & wanted & holders.keys():
                holders[work] = replace(holders[work], gpus=max(0, holders[work].gpus - 1))
        self._fleet = replace(self.fleet, holders=holders)

    def decide(self, gpu: Gpu, lines: Iterable[Line]) -> Decision | None:
        """Return what an instance takes next; None for nothing."""
        return decide(gpu, lines, self.fleet, now_s=self.now_s, used_s=self._used.seconds)

    def decide_for(self, row: GpuRow, gpu: Gpu, lines: Collection[Line]) -> Decision | None:
        """Return what one instance takes next, and read no more of the fleet than that depends on."""
        if self._fleet is not None:
            return self.decide(gpu, lines)
        held = gpu.holds
        if all(line.models in held and line.start_by_s is None for line in lines):
            return decide(gpu, lines, NO_FLEET, now_s=self.now_s, used_s=self._used.seconds)
        near = self._read(_AROUND_ONE, instance=row.name)
        around = HoldersAroundOne(near.holders, held | gpu.at_risk, lambda: self.fleet.holders)
        return decide(gpu, lines, replace(near, holders=around), now_s=self.now_s, used_s=self._used.seconds)

    def take(self, decision: Decision) -> None:
        """Play a decision: one job fewer waits, and one GPU more is at work."""
        line, before = decision.line, self.fleet
        self._used = self._used.more(line.tenant, decision.load_s + line.run_s)
        if line.waiting > 1:
            self._lines[line.id] = replace(line, waiting=line.waiting - 1)
        else:
            self._lines.pop(line.id, None)
        self._leave_out(self._slots.take(line.id))
        held_by = before.holders.get(line.models, Holders(gpus=0))
        is_new = decision.why != "warm" and decision.load_s > 0
        now_held_by = Holders(gpus=held_by.gpus + is_new, free_s=held_by.free_s + decision.load_s + line.run_s)
        self._fleet = Fleet(
            holders={**before.holders, line.models: now_held_by}, gpus=before.gpus, busy=before.busy + 1
        )

    def _leave_out(self, line_ids: Iterable[int]) -> None:
        for line_id in line_ids:
            self._lines.pop(line_id, None)

    def _read(self, query: CompoundSelect[Any], **more: str) -> Fleet:
        now = self._now_ms
        rows = self._connection.execute(query, {"now": now, **self._heard, **more}).all()
        holders: dict[ModelSet, Holders] = {}
        everybody = (0, 0)
        works = self._reach.works
        for models, *columns, gpus, left_ms in rows:
            if models == "*":
                everybody = (gpus, int(left_ms or 0))
                continue
            sort = sort_of(*columns)
            for work in works(models, sort, self._kept_off(sort)):
                before = holders.get(work)
                holders[work] = (
                    Holders(gpus=gpus, free_s=int(left_ms) / 1000)
                    if before is None
                    else Holders(gpus=before.gpus + gpus, free_s=before.free_s + int(left_ms) / 1000)
                )
        return Fleet(holders=holders, gpus=max(1, everybody[0]), busy=everybody[1])
