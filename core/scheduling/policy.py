"""The backlog rule: what a GPU takes next.

A GPU keeps to the models it holds, as long as that costs nobody too much. Jobs whose models it lacks are worth a load
only if those that hold them would need much longer for what waits: their *backlog* is the seconds until they are
free, plus the work that waits for them, divided by their number. If the load is not worth it, the GPU rather stays
idle.

How much longer depends on how scarce idle GPUs are: with all of them idle a load costs nothing but its time, with all
at work it takes the GPU from others. So a backlog has to exceed `1 + scarcity` loads. Scarcity is the share of GPUs at
work; where more than a few idle it is less, for in a large fleet one tenth is many.

Expectations can be wrong, and a model that is always in demand could keep its GPUs for ever. So no line is passed over
for jobs that came `OVERTAKING` loads after its head, nor left to others for longer: whatever is expected, a job that
some GPU can run waits for those that came before it or within that time, and for no others. It is the distance to what
is taken instead that counts, not the age alone: an age at which a line is served in any case makes first in, first out
of a full fleet, just when each load takes most from it. Deadlines that are near go first; where they never end, a head
that has waited for as long takes turns with them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from core.scheduling.lines import Decision, Fleet, Gpu, Holders, Line, ModelSet, Why
from core.scheduling.shares import by_turn

#: To leave a model for which jobs wait, the backlog of the others has to exceed so many loads more.
LEAVING = 1.0
#: A model that a GPU leaves has to be worked off by the others within so many loads.
IN_TIME = 1.25
#: No line is passed over for one whose head came so many loads later. With 4, eight GPUs at 0.95 of what they can do
#: waited twice as long as with 10; from 10 on no load up to there was any different.
OVERTAKING = 10.0

_NOBODY = Holders(gpus=0)


def decide(
    gpu: Gpu, lines: Iterable[Line], fleet: Fleet, *, now_s: float, used_s: Mapping[str, float] | None = None
) -> Decision | None:
    """Return what a GPU takes next; None if nothing waits, or if it rather stays idle.

    Levels of priority are gone through from the highest. A lower one has its turn only where each line of the higher
    ones is left to GPUs that will have begun it sooner than this one could. So it is with tenants whose turn it is not.

    Parameters:
      lines: those that this GPU can run.
      used_s: of each tenant, see `core.scheduling.shares.in_turn`.
    """
    levels: dict[int, list[Line]] = defaultdict(list)
    for line in lines:
        levels[line.priority].append(line)
    work_s: dict[ModelSet, float] = defaultdict(float)
    uncounted: list[list[Line]] = []

    def counted() -> Mapping[ModelSet, float]:
        while uncounted:
            for line in uncounted.pop():
                work_s[line.models] += line.waiting * line.run_s
        return work_s

    for priority in sorted(levels, reverse=True):
        for group in _by_turn(gpu, levels[priority], used_s):
            uncounted.append(group)
            decision = decide_among(group, gpu, fleet, counted, now_s=now_s)
            if decision is not None:
                return decision
    return None


def decide_among(
    lines: Sequence[Line], gpu: Gpu, fleet: Fleet, count_work: Callable[[], Mapping[ModelSet, float]], *, now_s: float
) -> Decision | None:
    """Return what a GPU takes of lines of one priority whose tenants have their turn; None: it leaves them to others.

    Parameters:
      lines: of those with the same models, the one with the oldest head and those with deadlines suffice.
      count_work: returns the work that waits for each model set, at this priority and above, of all lines that the GPU
        can run. Most decisions do without.
    """
    return _Look(gpu, fleet, count_work, now_s).choose(lines)


def overtaken_from_s(line: Line, gpu: Gpu) -> float:
    """Return up to when jobs may come that a GPU takes before the head of a line."""
    return line.since_s + OVERTAKING * gpu.load_s.get(line.models, gpu.usual_load_s)


def _by_turn(gpu: Gpu, lines: list[Line], used_s: Mapping[str, float] | None) -> Iterable[list[Line]]:
    """Yield the lines of the tenants whose turn it is, then the others'."""
    tenants = set() if used_s is None else {line.tenant for line in lines}
    if len(tenants) < 2:
        yield lines
        return
    for group in by_turn(tenants, used_s, lambda: max(max(line.run_s, gpu.load_s_of(line)) for line in lines)):
        yield [line for line in lines if line.tenant in group]


class _Look:
    """One look of one GPU at the lines of one level."""

    def __init__(
        self, gpu: Gpu, fleet: Fleet, count_work: Callable[[], Mapping[ModelSet, float]], now_s: float
    ) -> None:
        self._gpu = gpu
        self._holders = fleet.holders
        self._count_work = count_work
        self._now_s = now_s
        self._worth = 1.0 + fleet.scarcity

    def choose(self, lines: Sequence[Line]) -> Decision | None:
        # As little as can be for each line: there may be thousands.
        held = self._gpu.holds
        warm: Line | None = None
        oldest_cold: Line | None = None
        cold: list[Line] = []
        urgent: list[Line] = []
        for line in lines:
            models = line.models
            if line.start_by_s is not None and self._is_urgent(line):
                urgent.append(line)
            if not models or models in held:
                if warm is None or (line.since_s, line.id) < (warm.since_s, warm.id):
                    warm = line
                continue
            cold.append(line)
            if oldest_cold is None or line.since_s < oldest_cold.since_s:
                oldest_cold = line
        if urgent:
            due = next((line for line in (oldest_cold, warm) if line is not None and self._head_is_due(line)), None)
            nearest = min(urgent, key=lambda line: (line.start_by_s, line.id))
            return self._taken(nearest, is_urgent=True) if due is None else self._taken(due)
        chosen = warm
        if warm is None:
            chosen = self._most_in_need(cold, self._worth)
        elif cold and self._may_leave(lines):
            chosen = self._most_in_need(cold, self._worth + LEAVING) or warm
        for passed in (oldest_cold, warm):
            if passed is not None and self._is_overtaken(passed, by=chosen):
                return self._taken(passed)
        return None if chosen is None else self._taken(chosen)

    def _most_in_need(self, cold: Iterable[Line], worth: float) -> Line | None:
        """Return the line that needs one more GPU most, of those whose backlog exceeds so many loads."""
        usual_load_s, load_s_of = self._gpu.usual_load_s, self._gpu.load_s.get
        holders_of, work_s_of, now_s = self._holders.get, self._count_work(), self._now_s
        most: tuple[float, int, Line] | None = None
        for line in cold:
            models = line.models
            holders, work_s = holders_of(models, _NOBODY), work_s_of[models]
            backlog_s = (holders.free_s + work_s) / holders.gpus if holders.gpus else math.inf
            if backlog_s > worth * load_s_of(models, usual_load_s):
                # How much it needs one: the age of its head, and the work that each of them would have.
                need = (now_s - line.since_s + work_s / (holders.gpus + 1), -line.id, line)
                if most is None or need > most:
                    most = need
        return None if most is None else most[-1]

    def _is_overtaken(self, line: Line, *, by: Line | None) -> bool:
        """Whether a line would be passed over for one that came long after; None: for one that may come now."""
        instead_s = self._now_s if by is None else by.since_s
        return instead_s > overtaken_from_s(line, self._gpu)

    def _head_is_due(self, line: Line) -> bool:
        """Whether a head that waited for so long has its turn before deadlines: every second time, as chance has it.

        A function of its age alone, so that the forecast comes to the same.
        """
        return self._is_overtaken(line, by=None) and round((self._now_s - line.since_s) * 1000) % 2 == 0

    def _taken(self, line: Line, *, is_urgent: bool = False) -> Decision:
        is_warm = self._gpu.holds_models_of(line)
        why: Why = "deadline" if is_urgent else "warm"
        if not is_urgent and not is_warm:
            why = "relief" if self._holders.get(line.models, _NOBODY).gpus else "unheld"
        return Decision(
            line=line,
            why=why,
            takes_nearest_deadline=(is_urgent or self._would_miss(line)) and not self._head_is_due(line),
            load_s=self._gpu.load_s_of(line),
        )

    def _backlog_s(self, line: Line) -> float:
        """Until those that hold a line's models have done what waits for them; infinite when nobody holds them."""
        holders = self._holders.get(line.models, _NOBODY)
        if holders.gpus < 1:
            return math.inf
        return (holders.free_s + self._count_work().get(line.models, 0.0)) / holders.gpus

    def _may_leave(self, lines: Iterable[Line]) -> bool:
        """Whether others hold, and work off in time, each model that jobs wait for here or that a load pushes out."""
        gpu = self._gpu
        wanted = {line.models for line in lines if line.models in gpu.holds}
        return all(self._is_worked_off_by_others(models, gpu) for models in wanted | gpu.at_risk if models)

    def _is_worked_off_by_others(self, models: ModelSet, gpu: Gpu) -> bool:
        holders = self._holders.get(models, _NOBODY)
        others = holders.gpus - 1
        if others < 1:
            return False
        work_s = holders.free_s - gpu.free_s + self._count_work().get(models, 0.0)
        return work_s / others <= IN_TIME * gpu.load_s.get(models, gpu.usual_load_s)

    def _is_urgent(self, line: Line) -> bool:
        """Whether its nearest deadline would pass, were this GPU to do something else first."""
        assert line.start_by_s is not None
        if line.start_by_s < self._now_s:
            # It has passed: its job ends, and begins no more.
            return False
        holders = self._holders.get(line.models, _NOBODY)
        until_free_s = holders.free_s / holders.gpus if holders.gpus else 0.0
        return line.start_by_s - self._now_s <= until_free_s + line.run_s + self._gpu.load_s_of(line)

    def _would_miss(self, line: Line) -> bool:
        """Whether its nearest deadline would pass, were its jobs taken one after the other."""
        if line.start_by_s is None:
            return False
        backlog_s = line.waiting * line.run_s if line.models not in self._holders else self._backlog_s(line)
        return line.start_by_s - self._now_s <= backlog_s
