"""When a waiting job will begin, its position until then, and why it waits.

The policy is run forward (`core.scheduling.ahead`), so the answer is what GPUs will do if all goes as expected. Assumed
is that no new jobs come: one with a higher priority, or for a model that then becomes more wanted, puts others back.
The run is bounded. What it does not come to is told by the pace that it saw, of the line and of all others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from core.scheduling.ahead import Ahead, Start, run_ahead
from core.scheduling.gates import closed_gate
from core.scheduling.lines import Line, ModelSet
from core.scheduling.picture import Picture, WaitingLine
from core.scheduling.reasons import GATED, Reason, reason_of_gate, reason_of_head, sentence

#: How many jobs a forecast lets begin, one after the other.
STEPS = 500
#: How many lines it looks at, over all decisions: a bound on the time it takes.
LOOKS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a waiting job stands."""

    #: 1: it is the next of all to be taken. None: no GPU takes it as things stand, or its deadline passes first.
    position: int | None = None
    #: Until a GPU takes it.
    taken_in_s: float | None = None
    #: Until its own work begins. A job may begin before one that was taken earlier, for which models are loaded.
    starts_in_s: float | None = None
    #: Whether the forecast came as far as that; else it is told by the pace of its line.
    is_seen: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LineOutlook:
    """What the forecast saw of a line."""

    line: Line
    #: Its jobs that are taken, by their index.
    starts: Mapping[int, Start]
    reason: Reason
    #: Its jobs whose deadline passes, and in how many seconds.
    expiries: Mapping[int, float]
    #: The indexes of both, in order.
    gone: tuple[int, ...]
    #: Beyond the horizon: when the line goes on, and how long from one of its jobs to the next. None: never.
    goes_on_in_s: float | None = None
    gap_s: float = 0.0
    #: Beyond the horizon: how many jobs of other lines wait, and how many of them are taken in a second.
    others: int = 0
    others_pace: float = 0.0
    #: As in `WaitingLine`.
    outgrown: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What becomes of the jobs that wait."""

    lines: Mapping[int, LineOutlook]
    #: The jobs that are taken, in their order, as far as the forecast went.
    starts: tuple[Start, ...]
    horizon_s: float
    files: Mapping[ModelSet, tuple[str, ...]]

    def place(self, line_id: int, index: int = 0, *, passed_s: float = 0.0) -> Place:
        """Return where a job stands; in a line, positions rise with the index but for jobs with deadlines.

        Parameters:
          index: of the job in its line: the head is 0. One beyond its end is taken for its last.
          passed_s: since the forecast was made.
        Raises:
          KeyError: there is no such line.
        """
        found = self._place(line_id, index)
        if found.taken_in_s is None or found.starts_in_s is None:
            return found
        return replace(
            found,
            taken_in_s=max(0.0, found.taken_in_s - passed_s),
            starts_in_s=max(0.0, found.starts_in_s - passed_s),
        )

    def _place(self, line_id: int, index: int) -> Place:
        line = self.lines[line_id]
        index = min(index, line.line.waiting - 1)
        start = line.starts.get(index)
        if start is not None:
            return Place(position=start.rank, taken_in_s=start.taken_in_s, starts_in_s=start.starts_in_s)
        if line.goes_on_in_s is None or index in line.expiries:
            return Place()
        before = index - bisect_right(line.gone, index)
        passes_s = line.goes_on_in_s - self.horizon_s + before * line.gap_s
        others = min(line.others, int(passes_s * line.others_pace))
        in_s = self.horizon_s + passes_s
        position = len(self.starts) + before + 1 + others
        return Place(position=position, taken_in_s=in_s, starts_in_s=in_s, is_seen=False)

    def reason(self, line_id: int, index: int = 0, *, passed_s: float = 0.0) -> Reason:
        """Return why a job waits.

        Parameters:
          passed_s: since the forecast was made.
        Raises:
          KeyError: there is no such line.
        """
        found = self._reason(line_id, index)
        return found if found.in_s is None else replace(found, in_s=max(0.0, found.in_s - passed_s))

    def _reason(self, line_id: int, index: int) -> Reason:
        line = self.lines[line_id]
        if index == 0 or line.reason.code in ("no_gpu", "fetching", "held_back"):
            return line.reason
        if index in line.expiries:
            return Reason(code="expires", models=line.line.models, in_s=line.expiries[index])
        if line.reason.code in GATED:
            start = line.starts.get(index)
            gpu, in_s = None if start is None else start.gpu, self.place(line_id, index).taken_in_s
            return replace(line.reason, gpu=gpu, in_s=in_s)
        return Reason(code="behind", models=line.line.models, in_s=self.place(line_id, index).taken_in_s, before=index)

    def sentence(self, line_id: int, index: int = 0, *, passed_s: float = 0.0) -> str:
        """Return the same in plain English, and first which GPUs are not waited for, although they could run it."""
        why = sentence(self.reason(line_id, index, passed_s=passed_s), self.files)
        outgrown = self.lines[line_id].outgrown
        return f"Ran out of memory on {outgrown}, waits for another kind of GPU. {why}" if outgrown else why


def forecast(picture: Picture, *, steps: int = STEPS, looks: int = LOOKS) -> Forecast:
    """Return what becomes of the jobs in a picture.

    Parameters:
      steps: how many jobs are let begin at most.
      looks: how many lines are looked at, at most, over all decisions.
    """
    ahead = run_ahead(picture, steps=steps, looks=looks)
    return Forecast(
        lines=_LineOutlooks(picture, ahead).all(),
        starts=ahead.starts,
        horizon_s=ahead.horizon_s,
        files=picture.files,
    )


class _LineOutlooks:
    """The outlooks of all lines, out of what a run forward saw."""

    def __init__(self, picture: Picture, ahead: Ahead) -> None:
        self._picture = picture
        self._ahead = ahead
        self._lines = {each.line.id: each.line for each in picture.lines if each.line.waiting > 0}
        self._starts: dict[int, dict[int, Start]] = {line_id: {} for line_id in self._lines}
        self._expiries: dict[int, dict[int, float]] = {line_id: {} for line_id in self._lines}
        self._on_gpu: dict[str, list[Start]] = {}
        for start in ahead.starts:
            self._starts[start.line_id][start.index] = start
            self._on_gpu.setdefault(start.gpu, []).append(start)
        for line_id, index, in_s in ahead.expiries:
            self._expiries[line_id][index] = in_s
        self._can_run = self._count_gpus()
        #: Until a GPU can run each line for which files are fetched.
        self._arrives_s = {
            each.line.id: each.fetching.left_s
            for each in picture.lines
            if each.fetching is not None and each.fetching.left_s is not None and each.fetching.gpus
        }
        shut = {each.line.id for each in picture.lines if any(gate.is_shut for gate in each.gates)}
        self._left = {
            line_id: line.waiting - len(self._starts[line_id]) - len(self._expiries[line_id])
            for line_id, line in self._lines.items()
            if (self._can_run[line_id] or line_id in self._arrives_s) and line_id not in shut
        }
        self._all_left = sum(self._left.values())
        # Where the fleet was idle, many jobs were taken in no time: as if it went on like that for ever.
        gpus = max(1, len(picture.gpus))
        self._seen_s = max(ahead.horizon_s, len(ahead.starts) * ahead.mean_s / gpus, 1e-9)
        self._work_before_s = self._count_work()

    def all(self) -> dict[int, LineOutlook]:
        return {each.line.id: self._outlook(each) for each in self._picture.lines if each.line.id in self._lines}

    def _outlook(self, of: WaitingLine) -> LineOutlook:
        line, ahead = of.line, self._ahead
        starts, expiries = self._starts[line.id], self._expiries[line.id]
        goes_on_in_s: float | None = None
        gap_s = line.run_s
        if self._left.get(line.id) and not ahead.to_the_end:
            goes_on_in_s = ahead.horizon_s
            if not self._can_run[line.id]:
                goes_on_in_s = max(goes_on_in_s, self._arrives_s[line.id])
            if starts:
                gap_s = self._seen_s / len(starts)
            else:
                goes_on_in_s += self._work_before_s[line.id] / len(self._picture.gpus)
        return LineOutlook(
            line=line,
            starts=starts,
            reason=self._reason(of),
            expiries=expiries,
            gone=tuple(sorted([*starts, *expiries])),
            goes_on_in_s=goes_on_in_s,
            gap_s=gap_s,
            others=self._all_left - self._left.get(line.id, 0),
            others_pace=(len(ahead.starts) - len(starts)) / self._seen_s,
            outgrown=of.outgrown,
        )

    def _reason(self, of: WaitingLine) -> Reason:
        line = of.line
        if not self._can_run[line.id]:
            if of.fetching is not None:
                return Reason(code="fetching", models=line.models, needs=of.fetching.sentence, in_s=of.fetching.left_s)
            return Reason(code="no_gpu", models=line.models, needs=of.needs, away=of.away)
        start = self._starts[line.id].get(0)
        if (gate := closed_gate(of.gates)) is not None:
            return reason_of_gate(gate, start, models=line.models)
        if start is not None:
            before = [each for each in self._on_gpu[start.gpu] if each.rank < start.rank]
            return reason_of_head(line, start, before, self._lines)
        if 0 in self._expiries[line.id]:
            return Reason(code="expires", models=line.models, in_s=self._expiries[line.id][0])
        if self._ahead.to_the_end:
            return Reason(code="held_back", models=line.models)
        return Reason(code="far", models=line.models, before=len(self._ahead.starts))

    def _count_gpus(self) -> Counter[int]:
        """How many GPUs can run each line."""
        counts: Counter[int] = Counter()
        for can_run, gpus in Counter(gpu.can_run for gpu in self._picture.gpus).items():
            for line_id in self._lines if can_run is None else can_run:
                counts[line_id] += gpus
        return counts

    def _count_work(self) -> dict[int, float]:
        """The work beyond the horizon that goes before each line: of higher priority, or older."""
        sums: dict[int, float] = {}
        work_s = 0.0
        for line in sorted(self._lines.values(), key=lambda line: (-line.priority, line.since_s, line.id)):
            sums[line.id] = work_s
            work_s += self._left.get(line.id, 0) * line.run_s
        return sums
