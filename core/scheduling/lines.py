"""What the policy looks at: lines of waiting jobs, the GPU that asks, and the fleet around it.

All times are seconds on one clock, whichever; all durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

#: Names a set of model files. Jobs without any have `NO_MODELS`, which every GPU holds.
ModelSet: TypeAlias = str
NO_MODELS: Final = ""

#: Why a GPU takes a line: it holds its models; no GPU does; those that do are too busy; a deadline comes near.
Why: TypeAlias = Literal["warm", "unheld", "relief", "deadline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Waiting jobs that the policy need not tell apart. The oldest of them is its head."""

    id: int
    #: Larger goes first.
    priority: int = 0
    tenant: str = ""
    models: ModelSet = NO_MODELS
    #: How many jobs wait in it, at least 1.
    waiting: int = 1
    #: When its head came.
    since_s: float = 0.0
    #: Expected duration of one of its jobs on a GPU that holds its models.
    run_s: float = 1.0
    #: The nearest time by which one of its jobs has to have begun.
    start_by_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """The GPUs that hold a model set, or are loading it."""

    gpus: int
    #: Until they are free, summed over them.
    free_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU that asks what to take, or soon will."""

    #: Model sets whose files it holds, all of them.
    holds: frozenset[ModelSet] = frozenset()
    #: The held model sets that a load would push out.
    at_risk: frozenset[ModelSet] = frozenset()
    #: How long it takes to make a model set resident here, where that was learned; else `usual_load_s`.
    load_s: Mapping[ModelSet, float] = field(default_factory=dict)
    usual_load_s: float = 10.0
    #: Until it is free itself; 0 for one that asks because it is idle.
    free_s: float = 0.0

    def holds_models_of(self, line: Line) -> bool:
        """Return whether a job of this line runs here without a load."""
        return not line.models or line.models in self.holds

    def load_s_of(self, line: Line) -> float:
        """Return the expected duration of a load, were a job of this line to run here next."""
        return 0.0 if self.holds_models_of(line) else self.load_s.get(line.models, self.usual_load_s)


#: Of more idle GPUs than so many, one that loads is hardly missed, however many others work.
PLENTY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The healthy GPUs at one moment, the one that asks included."""

    holders: Mapping[ModelSet, Holders] = field(default_factory=dict)
    #: How many there are, and how many of them work.
    gpus: int = 1
    busy: int = 0

    @property
    def scarcity(self) -> float:
        """How scarce idle GPUs are: 1 where all work, and 0 where all idle; nearly that too where very many idle."""
        if self.busy >= self.gpus:
            return 1.0
        return self.busy / self.gpus * min(1.0, PLENTY / (self.gpus - self.busy))


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The line that a GPU takes a job of."""

    line: Line
    why: Why
    #: Its job with the nearest deadline is taken, instead of its head.
    takes_nearest_deadline: bool = False
    #: How long the GPU loads models before the job's own work begins, expected.
    load_s: float = 0.0
