"""From what a pool needs at one moment to what it wants: up at once, down only when it was too much for a while.

What was needed is remembered for an idle window, as the highest of each twelfth of it, and a pool wants the highest of
all. So no GPU is given up that was needed within the window, whichever of them had the job: jobs that come one by one
and go to GPUs in turns leave none of them idle for long, and still few of them are needed. Where nobody has looked for
a while, what was needed is not known, and nothing is given up until it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.scheduling.scaling import Demand

#: Parts of the window of which the highest need is kept.
PARTS = 12
#: Nobody has looked: for so long, or for half of the window where that is longer.
GAP_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """How many GPUs a pool may have."""

    least: int = 0
    #: None: any number.
    most: int | None = None

    def clamp(self, gpus: int) -> int:
        """Return the nearest number that is allowed."""
        gpus = max(gpus, self.least)
        return gpus if self.most is None else min(gpus, self.most)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What one pool needed of late."""

    #: It was looked at again and again since then, and at last then, in seconds.
    since_s: float
    at_s: float
    #: The highest need of each part of the window, by the number of the part.
    peaks: Mapping[int, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {"since_s": self.since_s, "at_s": self.at_s, "peaks": [[*each] for each in self.peaks.items()]}

    @classmethod
    def from_json(cls, value: Any) -> History:
        """Read what `to_json` wrote. Raises KeyError, TypeError, ValueError: it is something else."""
        peaks = {int(part): int(needed) for part, needed in value["peaks"]}
        return cls(since_s=float(value["since_s"]), at_s=float(value["at_s"]), peaks=peaks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How many GPUs a pool should have, and why."""

    gpus: int
    reason: str


def remembered(history: History | None, needed: int, *, now_s: float, window_s: float) -> History:
    """Return the history with what is needed now."""
    part_s = window_s / PARTS
    if history is None or is_broken(history, now_s=now_s, window_s=window_s):
        return History(since_s=now_s, at_s=now_s, peaks={int(now_s // part_s): needed})
    part = int(now_s // part_s)
    kept = {each: peak for each, peak in history.peaks.items() if (each + 1) * part_s > now_s - window_s}
    return History(since_s=history.since_s, at_s=now_s, peaks={**kept, part: max(needed, kept.get(part, 0))})


def is_broken(history: History, *, now_s: float, window_s: float) -> bool:
    """Whether nobody has looked for so long that what was needed meanwhile is not known, or the clock was set back."""
    return not 0 <= now_s - history.at_s <= max(GAP_S, window_s / 2)


def wanted(
    demand: Demand,
    history: History | None,
    *,
    here: int,
    limits: PoolLimits,
    target_s: float,
    now_s: float,
    window_s: float,
) -> Wanted:
    """Return what a pool wants.

    Parameters:
      here: how many of its GPUs take jobs, or soon will.
    """
    is_known = history is not None and not is_broken(history, now_s=now_s, window_s=window_s)
    kept = max(history.peaks.values(), default=0) if history is not None and is_known else 0
    is_watched = history is not None and is_known and now_s - history.since_s >= window_s
    gpus = max(demand.needed, kept)
    why = _why(demand, kept, target_s, window_s)
    if not is_watched and gpus < here:
        gpus = here
        why = f"{_needed(demand)} What was needed in the last {window_s:g} s is not known yet, so none is given up."
    allowed = limits.clamp(gpus)
    if allowed < gpus or demand.beyond:
        why += f" It may have no more than {limits.most}."
    elif allowed > gpus:
        why += f" It keeps at least {limits.least}."
    return Wanted(gpus=allowed, reason=why)


def _needed(demand: Demand) -> str:
    jobs = f"{demand.jobs} {'job waits' if demand.jobs == 1 else 'jobs wait'}, {demand.work_s:.0f} s of work."
    return jobs if demand.jobs else "No job waits that more GPUs would help."


def _why(demand: Demand, kept: int, target_s: float, window_s: float) -> str:
    gpus = f"{demand.needed} {'GPU' if demand.needed == 1 else 'GPUs'}"
    if kept > demand.needed:
        return f"{_needed(demand)} {gpus} would do now, but {kept} were needed within the last {window_s:g} s."
    if demand.jobs:
        return f"{_needed(demand)} With {gpus} all of them begin within {target_s:g} s, starts aside."
    return f"{_needed(demand)} {gpus} {'works' if demand.needed == 1 else 'work'}."
