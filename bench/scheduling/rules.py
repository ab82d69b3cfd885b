"""The rules that the scheduling policy is measured against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.scheduling.lines import Decision, Fleet, Gpu, Line
from core.scheduling.policy import decide
from tests.scheduling_simulation import Rule


def first_in_first_out(gpu: Gpu, lines: Sequence[Line], now_s: float) -> Line:
    """Return the oldest job's, whatever it loads: Comfyline's rule of before."""
    del gpu, now_s
    return min(lines, key=_since_s)


def warm_first(gpu: Gpu, lines: Sequence[Line], now_s: float) -> Line:
    """Return the one of the oldest job whose models are held, else of the oldest."""
    return first_in_first_out(gpu, _warm(gpu, lines) or lines, now_s)


def swarm_ui(gpu: Gpu, lines: Sequence[Line], now_s: float) -> Line:
    """Return the one of the oldest job whose models are held, else the one that scores highest by count and age."""
    warm = _warm(gpu, lines)
    if warm:
        return min(warm, key=_since_s)
    return max(lines, key=lambda line: 10 * line.waiting + now_s - line.since_s)


def _since_s(line: Line) -> float:
    return line.since_s


def _warm(gpu: Gpu, lines: Sequence[Line]) -> list[Line]:
    return [line for line in lines if gpu.holds_models_of(line)]


def _always(pick: Callable[[Gpu, Sequence[Line], float], Line]) -> Rule:
    """Return the rule that takes what is picked: it never idles while anything waits, and knows one GPU alone."""

    def rule(
        gpu: Gpu, lines: Sequence[Line], fleet: Fleet, *, now_s: float, used_s: Mapping[str, float] | None = None
    ) -> Decision:
        del fleet, used_s
        line = pick(gpu, lines, now_s)
        return Decision(line=line, why="warm" if gpu.holds_models_of(line) else "unheld", load_s=gpu.load_s_of(line))

    return rule


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRule:
    """A rule as the tables and the picture call it."""

    name: str
    choose: Rule
    #: A job that comes is shown to idle GPUs that hold its models first; else to any.
    warm_asked_first: bool


FIRST_IN: Final = NamedRule(name="first in, first out", choose=_always(first_in_first_out), warm_asked_first=False)
#: A GPU asks, and knows nothing of the others, as with a claim.
WARM: Final = NamedRule(name="warm first", choose=_always(warm_first), warm_asked_first=False)
#: The one place that hands out jobs looks for a GPU that holds the model.
SWARM: Final = NamedRule(name="SwarmUI's", choose=_always(swarm_ui), warm_asked_first=True)
OURS: Final = NamedRule(name="ours", choose=decide, warm_asked_first=False)
RULES: Final = (FIRST_IN, WARM, SWARM, OURS)
