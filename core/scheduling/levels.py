"""What waits, arranged so that a decision looks at few lines: by what a GPU can run, priority, tenant and models."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from core.scheduling.lines import Gpu, Line, ModelSet
from core.scheduling.picture import WaitingLine


class LineAhead:
    """A line in the forecast, out of which jobs are taken."""

    def __init__(self, of: WaitingLine) -> None:
        self._of = of
        self._head = 0
        #: Indexes of jobs that have left, behind the head.
        self._gone: set[int] = set()
        start_by_s = dict(of.start_by_s)
        if not start_by_s and of.line.start_by_s is not None:
            start_by_s[0] = of.line.start_by_s
        #: Time, line and index of its jobs that have a deadline, the nearest first.
        self.deadlines = sorted(
            (by_s, of.line.id, index) for index, by_s in start_by_s.items() if 0 <= index < of.line.waiting
        )
        self._nearest = 0
        #: Whether its gates let a job of it begin; else it is left out.
        self.is_open = True
        self.id = of.line.id
        self.waiting = of.line.waiting
        self.line = of.line
        if self.deadlines:
            self.line = replace(of.line, start_by_s=self.deadlines[0][0])

    @property
    def stands(self) -> bool:
        """Whether a decision may take a job of it."""
        return self.is_open and self.waiting > 0

    def run_s_of(self, index: int) -> float:
        """Return how long one of its jobs takes."""
        return self._of.run_s_of(index)

    def take(self, *, nearest_deadline: bool) -> int:
        """Take its head, or the job with the nearest deadline, and return the job's index."""
        has_any = self._nearest < len(self.deadlines)
        index = self.deadlines[self._nearest][2] if nearest_deadline and has_any else self._head
        self.drop(index)
        return index

    def drop(self, index: int) -> bool:
        """Let a job leave the line; return whether it was still in it."""
        if index < self._head or index in self._gone:
            return False
        self._gone.add(index)
        while self._head in self._gone:
            self._gone.remove(self._head)
            self._head += 1
        while self._nearest < len(self.deadlines) and self._has_left(self.deadlines[self._nearest][2]):
            self._nearest += 1
        self.waiting -= 1
        self.line = replace(
            self._of.line,
            waiting=self.waiting,
            since_s=self._of.came(self._head),
            start_by_s=self.deadlines[self._nearest][0] if self._nearest < len(self.deadlines) else None,
        )
        return True

    def _has_left(self, index: int) -> bool:
        return index < self._head or index in self._gone


class Level:
    """The lines of one priority that some GPUs can run."""

    def __init__(self, priority: int, *, by_tenant: bool) -> None:
        self.priority = priority
        #: The work that waits for each model set, here and on the levels above.
        self.work_s: dict[ModelSet, float] = {}
        #: The part of it on this level, by tenant.
        self.own_s: dict[str, dict[ModelSet, float]] = {}
        self._by_tenant = by_tenant
        self._alike: dict[str, dict[ModelSet, list[LineAhead]]] = {}
        self._deciding: dict[str, dict[ModelSet, list[Line]]] = {}
        self._quantum_of: list[Line] | None = None
        self._longest_s = 0.0

    def add(self, line: LineAhead) -> None:
        """Let a line stand on this level."""
        models = line.line.models
        tenant = self._tenant(line)
        self._alike.setdefault(tenant, {}).setdefault(models, []).append(line)
        self._deciding.setdefault(tenant, {})[models] = []
        self._quantum_of = None

    def changed(self, line: LineAhead) -> None:
        """Choose anew among the lines that are like this one."""
        tenant, models = self._tenant(line), line.line.models
        alike, deciding = self._alike[tenant], self._deciding[tenant]
        if not line.stands:
            alike[models].remove(line)
            self._quantum_of = None
        deciding[models] = []
        if not alike[models]:
            del deciding[models], alike[models]
            if not deciding:
                del self._deciding[tenant]

    @property
    def tenants(self) -> Collection[str]:
        """Those that have jobs waiting; a single one where they take no turns."""
        return self._deciding.keys()

    def count(self, line: LineAhead, work_s: float) -> None:
        """Count so much more work, or less, of a line that stands here or on a level above."""
        models = line.line.models
        self.work_s[models] = self.work_s.get(models, 0.0) + work_s
        if line.line.priority == self.priority:
            own_s = self.own_s.setdefault(self._tenant(line), {})
            own_s[models] = own_s.get(models, 0.0) + work_s

    def work_s_of(self, tenants: Collection[str]) -> dict[ModelSet, float]:
        """Return the work that waits for each model set, on the levels above and, of these tenants, here."""
        others = [tenant for tenant in self.own_s if tenant not in tenants]
        if not others:
            return self.work_s
        work_s = dict(self.work_s)
        for tenant in others:
            for models, own_s in self.own_s[tenant].items():
                work_s[models] -= own_s
        return work_s

    def deciding(self, tenants: Iterable[str]) -> list[Line]:
        """Return the lines of some tenants on which a decision depends."""
        deciding: list[Line] = []
        for tenant in tenants:
            for models, lines in self._deciding[tenant].items():
                if not lines:
                    lines += _deciding([each.line for each in self._alike[tenant][models]])
                deciding += lines
        return deciding

    def quantum_s(self, gpu: Gpu) -> float:
        """Return the larger of the longest job and the longest load on a GPU."""
        if self._quantum_of is None:
            lines = [each.line for models in self._alike.values() for alike in models.values() for each in alike]
            self._longest_s = max(line.run_s for line in lines)
            self._quantum_of = list({line.models: line for line in lines}.values())
        return max(self._longest_s, max(map(gpu.load_s_of, self._quantum_of)))

    def _tenant(self, line: LineAhead) -> str:
        return line.line.tenant if self._by_tenant else ""


def _deciding(lines: list[Line]) -> list[Line]:
    """Of lines that differ only in what they may run on: the one with the oldest head, and those with deadlines."""
    if len(lines) == 1:
        return lines
    oldest = min(lines, key=lambda line: (line.since_s, line.id))
    return [line for line in lines if line is oldest or line.start_by_s is not None]


class Levels:
    """All that waits; for each set of lines that some GPU can run its levels, made when one first asks."""

    def __init__(self, lines: list[LineAhead], *, by_tenant: bool) -> None:
        self._lines = lines
        self._by_tenant = by_tenant
        self._made: dict[frozenset[int] | None, list[Level]] = {}
        self._with_line: dict[int, list[list[Level]]] = {line.id: [] for line in lines}
        self._jobs: dict[ModelSet, int] = {}
        #: How many lines with jobs want each model set.
        self._sharing: dict[ModelSet, int] = {}
        for line in lines:
            self._jobs[line.line.models] = self._jobs.get(line.line.models, 0) + line.waiting
            self._sharing[line.line.models] = self._sharing.get(line.line.models, 0) + 1
        self._models_of: dict[frozenset[int] | None, frozenset[ModelSet]] = {}
        self._named = frozenset(self._jobs)

    def of(self, can_run: frozenset[int] | None) -> tuple[list[Level], int]:
        """Return the levels of the lines that a GPU can run, the highest first, and how many lines were looked at."""
        levels = self._made.get(can_run)
        if levels is not None:
            return levels, 0
        levels = self._made[can_run] = self._make(can_run)
        return levels, len(self._lines)

    def changed(self, line: LineAhead, *, jobs: int) -> None:
        """Count so many jobs less in a line."""
        models, priority = line.line.models, line.line.priority
        self._jobs[models] -= jobs
        if not line.waiting:
            self._sharing[models] -= 1
        if not line.is_open:
            return
        less_s = jobs * line.line.run_s
        for levels in self._with_line[line.id]:
            for level in levels:
                if level.priority <= priority:
                    level.count(line, -less_s)
                if level.priority == priority:
                    level.changed(line)

    def set_open(self, line: LineAhead, *, is_open: bool) -> None:
        """Leave a line out as if none of its jobs waited, or let it stand again where it did."""
        if line.is_open == is_open:
            return
        line.is_open = is_open
        if not line.waiting:
            return
        priority, work_s = line.line.priority, line.waiting * line.line.run_s
        for levels in self._with_line[line.id]:
            for level in levels:
                if level.priority <= priority:
                    level.count(line, work_s if is_open else -work_s)
                if level.priority == priority and is_open:
                    level.add(line)
                elif level.priority == priority:
                    level.changed(line)

    def waits_for(self, models: ModelSet) -> bool:
        """Return whether any job waits that needs these models."""
        return self._jobs.get(models, 0) > 0

    def is_shared(self, models: ModelSet) -> bool:
        """Return whether jobs of several lines wait for these models."""
        return self._sharing.get(models, 0) > 1

    def counted(self, can_run: frozenset[int] | None, held: frozenset[ModelSet]) -> frozenset[ModelSet]:
        """Return the held model sets without those of which it can run no line although there are some."""
        if can_run is None:
            return held
        mine = self._models_of.get(can_run)
        if mine is None:
            mine = frozenset(line.line.models for line in self._lines if line.id in can_run)
            self._models_of[can_run] = mine
        return held - (self._named - mine) if not held <= mine else held

    def _make(self, can_run: frozenset[int] | None) -> list[Level]:
        by_priority: dict[int, Level] = {}
        mine = [line for line in self._lines if line.waiting and (can_run is None or line.id in can_run)]
        for line in mine:
            priority = line.line.priority
            if priority not in by_priority:
                by_priority[priority] = Level(priority, by_tenant=self._by_tenant)
            if line.is_open:
                by_priority[priority].add(line)
        levels = [by_priority[priority] for priority in sorted(by_priority, reverse=True)]
        for line in mine:
            self._with_line[line.id].append(levels)
            if not line.is_open:
                continue
            work_s = line.waiting * line.line.run_s
            for level in levels:
                if level.priority <= line.line.priority:
                    level.count(line, work_s)
        return levels
