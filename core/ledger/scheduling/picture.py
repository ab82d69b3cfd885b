"""The fleet at one moment, read from the ledger for the scheduling policy: lines, who holds what, and GPUs that ask."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, case, func, literal, null, select, union_all

from core.clock import now_ms
from core.ledger.database.tables import instances, residents
from core.ledger.durations import gpu_kind
from core.ledger.instances import HEALTHY, SILENCE_MS
from core.ledger.scheduling.learned import USUAL_LOAD_S, LearnedCosts
from core.ledger.scheduling.lines import LineKind, Lines, WaitingLine
from core.scheduling.lines import Decision, Fleet, Gpu, Holders, Line, ModelSet
from core.scheduling.policy import decide
from core.scheduling.residency import ModelFile, Residency


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
    #: `[[name, bytes], ...]` of the model files it holds, the most recently used first.
    held: Sequence[tuple[str, int]] | None = None
    free_at_ms: int | None = None
    has_queue: bool = False
    loads: int = 0
    loading_s: float = 0.0
    loads_day: int = 0

    @property
    def residency(self) -> Residency:
        """The model files that it is likely to hold."""
        files = tuple(ModelFile(name=name, size_bytes=size) for name, size in self.held or ())
        return Residency(files=files, budget_bytes=self.memory_bytes or 0)

    def may_run(self, line: LineKind) -> bool:
        """Return whether it can run the jobs of a line."""
        return line.runs_on(catalogue=self.catalogue, pool=self.pool, vram_bytes=self.vram_bytes)


GPU_COLUMNS = tuple(instances.c[field.name] for field in fields(GpuRow))
#: What makes instances alike for a line.
_SORT = (instances.c.catalogue, instances.c.pool, instances.c.vram_bytes)
_IS_ALIVE = and_(instances.c.state == HEALTHY, instances.c.heartbeat_at_ms > bindparam("heard_since_ms"))
_IS_BUSY = instances.c.free_at_ms > bindparam("now")
_LEFT_MS = case((_IS_BUSY, instances.c.free_at_ms - bindparam("now")), else_=0)
_HOLDERS = (
    select(residents.c.models, *_SORT, func.count().label("gpus"), func.sum(_LEFT_MS).label("left_ms"))
    .select_from(residents.join(instances, residents.c.instance == instances.c.name))
    .where(_IS_ALIVE)
    .group_by(residents.c.models, *_SORT)
)
_EVERYBODY = select(
    literal("*").label("models"),
    *(null().label(column.name) for column in _SORT),
    func.count().label("gpus"),
    func.sum(case((_IS_BUSY, 1), else_=0)).label("left_ms"),
).where(_IS_ALIVE)
_FLEET = union_all(_HOLDERS, _EVERYBODY)


class Picture:
    """Lines and GPUs at one moment. It may be played forward: `take` is what a decision changes."""

    def __init__(self, connection: Connection, lines: Lines, learned: LearnedCosts, waiting: Sequence[WaitingLine]):
        now = now_ms()
        self.now_s = now / 1000
        self.kinds = {line.id: line.kind for line in waiting}
        self._known_kinds = lines.kinds()
        self._costs = learned.of(connection, {line.kind.models for line in waiting})
        self._lines = {line.id: self._line(line) for line in waiting}
        self._read_fleet(connection, now)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits any more."""
        return not self._lines

    def gpu(self, row: GpuRow, *, free_s: float = 0.0) -> Gpu:
        """Return an instance as the policy sees it.

        Parameters:
          free_s: until it has done what it has claimed.
        """
        held = row.residency
        names = held.names
        kind = gpu_kind(row.device, row.kind)
        risky = held.at_risk()
        at_risk = (
            {
                each.models
                for each in self._known_kinds
                if each.files and names.issuperset(each.files) and risky & set(each.files)
            }
            if risky
            else set()
        )
        load_s = {each.work: self._costs.load_s(each.models, kind) for each in self.kinds.values() if each.files}
        load_s |= {models: self._costs.load_s(models, kind) for models in at_risk}
        return Gpu(
            holds=frozenset(each.work for each in self.kinds.values() if names.issuperset(each.files)),
            at_risk=frozenset(at_risk),
            load_s=load_s,
            usual_load_s=USUAL_LOAD_S,
            free_s=free_s,
        )

    def lines_for(self, row: GpuRow) -> list[Line]:
        """Return the lines that an instance can run."""
        return [line for line in self._lines.values() if row.may_run(self.kinds[line.id])]

    def decide(self, gpu: Gpu, lines: Iterable[Line]) -> Decision | None:
        """Return what an instance takes next; None for nothing."""
        return decide(gpu, lines, self.fleet, now_s=self.now_s)

    def take(self, decision: Decision) -> None:
        """Play a decision: one job fewer waits, and one GPU more is at work."""
        line = decision.line
        self._put(line, line.waiting - 1)
        gpus, free_s = self._holders.get(line.models, (0, 0.0))
        is_new = decision.why != "warm" and decision.load_s > 0
        self._holders[line.models] = (gpus + is_new, free_s + decision.load_s + line.run_s)
        self._busy += 1
        self.fleet = self._fleet()

    def drop(self, line: Line) -> None:
        """Leave a line out: none of its jobs could be had."""
        self._put(line, 0)

    def seconds_of(self, decision: Decision) -> float:
        """Return how long a GPU will be at work on what it takes, expected."""
        return decision.load_s + decision.line.run_s

    def _put(self, line: Line, waiting: int) -> None:
        if waiting < 1:
            self._lines.pop(line.id, None)
            return
        self._lines[line.id] = Line(
            id=line.id,
            priority=line.priority,
            tenant=line.tenant,
            models=line.models,
            waiting=waiting,
            since_s=line.since_s,
            run_s=line.run_s,
            start_by_s=line.start_by_s,
        )

    def _line(self, waiting: WaitingLine) -> Line:
        kind = waiting.kind
        return Line(
            id=waiting.id,
            priority=kind.priority,
            tenant=kind.tenant,
            models=kind.work,
            waiting=waiting.waiting,
            since_s=waiting.head_ms / 1000,
            run_s=self._costs.run_s(kind.models),
            start_by_s=None if waiting.start_by_ms is None else waiting.start_by_ms / 1000,
        )

    def _read_fleet(self, connection: Connection, now: int) -> None:
        rows = connection.execute(_FLEET, {"now": now, "heard_since_ms": now - SILENCE_MS}).all()
        self._gpus, self._busy = 0, 0
        by_models: dict[ModelSet, list[Row[Any]]] = defaultdict(list)
        for row in rows:
            if row.models == "*":
                self._gpus, self._busy = row.gpus, int(row.left_ms or 0)
            else:
                by_models[row.models].append(row)
        self._holders: dict[ModelSet, tuple[int, float]] = {
            models: (sum(row.gpus for row in found), sum(int(row.left_ms) for row in found) / 1000)
            for models, found in by_models.items()
        }
        for kind in self.kinds.values():
            if kind.work == kind.models or kind.work in self._holders:
                continue
            able = [
                row
                for row in by_models.get(kind.models, ())
                if kind.runs_on(catalogue=row.catalogue, pool=row.pool, vram_bytes=row.vram_bytes)
            ]
            if able:
                self._holders[kind.work] = (sum(row.gpus for row in able), sum(int(row.left_ms) for row in able) / 1000)
        self.fleet = self._fleet()

    def _fleet(self) -> Fleet:
        holders = {models: Holders(gpus=gpus, free_s=free_s) for models, (gpus, free_s) in self._holders.items()}
        return Fleet(holders=holders, gpus=max(1, self._gpus), busy=self._busy)
