"""The whole fleet at one moment: its GPUs, and all that waits for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from core.scheduling.gates import Gate, GateKey
from core.scheduling.lines import Gpu, Line, ModelSet

#: What takes longer than expected is expected to take at least so much longer, as a share of what was expected.
OVERRUN = 0.25


def left_s(expected_s: float, passed_s: float) -> float:
    """Return how long something that runs takes on, in seconds: it is never as good as done."""
    return max(expected_s - passed_s, OVERRUN * expected_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """How model files come along that jobs wait for."""

    sentence: str
    #: Until all of them are there; None where that is not known.
    left_s: float | None = None
    #: The GPUs that can run the jobs then, by their names.
    gpus: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingLine:
    """A line, and what is known of the jobs behind its head."""

    line: Line
    #: When the jobs behind the head came: the next ones one by one, the last entry being the newest job. Those that are
    #: left out came evenly between the last two entries; with none at all, all came with the head.
    came_s: tuple[float, ...] = ()
    #: By which time jobs have to have begun that have a deadline, by their index in the line (the head is 0). Where it
    #: is empty, the line's `start_by_s` is its head's.
    start_by_s: Mapping[int, float] = field(default_factory=dict)
    #: How long each of the first jobs takes, as far as that is known; the others take as long as the line says.
    run_s: tuple[float, ...] = ()
    #: What its jobs ask of a GPU, for a sentence: "they need ...". Empty where it cannot be said.
    needs: str = ""
    #: GPUs that could run its jobs and take none, by their states: `{"drained": 3}`. Known where no other could.
    away: Mapping[str, int] = field(default_factory=dict)
    #: GPUs whose memory did not suffice, for a sentence, while its jobs wait for others. Empty where there are none.
    outgrown: str = ""
    #: Of jobs whose model files are fetched, because no GPU has them, or for GPUs more than have them.
    fetching: Fetching | None = None
    #: What its jobs go through to begin.
    gates: tuple[Gate, ...] = ()

    def run_s_of(self, index: int) -> float:
        """Return how long one of its jobs takes, in seconds; the head has index 0."""
        return self.run_s[index] if index < len(self.run_s) else self.line.run_s

    def came(self, index: int) -> float:
        """Return when one of its jobs came, in seconds; the head has index 0."""
        known = (self.line.since_s, *self.came_s)
        if index < len(known) - 1:
            return known[index]
        newest = self.line.waiting - 1
        if index >= newest:
            return known[-1]
        if len(known) == 1:
            return known[0]
        last = len(known) - 2
        return known[last] + (known[-1] - known[last]) * (index - last) / (newest - last)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetGpu:
    """A healthy GPU that takes jobs."""

    name: str
    #: What it holds once it is free: of what it loads just now, too.
    gpu: Gpu = field(default_factory=Gpu)
    busy: bool = False
    #: The gates of the jobs that it has now, of each job its own.
    slots: tuple[GateKey, ...] = ()
    #: Ids of the lines it can run; None: all. GPUs that are alike had better share one set.
    can_run: frozenset[int] | None = None
    #: The held model sets, the most recently used first. Those left out were used before, those at risk at last.
    recent: tuple[ModelSet, ...] = ()
    #: How many model sets it holds at most. None: as many as now, if a load would push one out, else one more.
    room: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What a forecast begins with."""

    now_s: float
    lines: tuple[WaitingLine, ...] = ()
    #: In the order in which idle ones ask.
    gpus: tuple[FleetGpu, ...] = ()
    #: GPU seconds of late of each tenant, divided by its weight. None: tenants take no turns.
    used_s: Mapping[str, float] | None = None
    #: Of tenants, where it is not 1.
    weights: Mapping[str, float] = field(default_factory=dict)
    #: The files of each model set, for sentences.
    files: Mapping[ModelSet, tuple[str, ...]] = field(default_factory=dict)
