"""How many GPUs each pool wants, so that every waiting job begins in time: a pure function of what waits and who works.

Waiting jobs are laid out on the GPUs that are there, on those first that hold their models and that work already. One
GPU goes on taking jobs for `target_s`: whatever it can begin by then, it can do alone. What does not fit is laid out on
GPUs that are not there yet, as many as it takes. Those that work, or were given something, are the ones needed.

How long a GPU takes to start is left out, for nothing makes that shorter; a load of models counts, but for at most half
of the target: where loads take longer than that, a GPU for each job would not help.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from core.scheduling.gates import Gate, Slots
from core.scheduling.lines import ModelSet

#: It takes jobs; it will soon; it is there and serves nothing, for whatever reason; its host is being given back.
GpuState: TypeAlias = Literal["ready", "starting", "away", "leaving"]
#: How much of the target a load may take up, as a share.
LOAD_SHARE = 0.5
#: How many GPUs are looked at for all lines together: a bound on the time it takes. What is left then is laid out on
#: GPUs that are not there yet.
LOOKS = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolGpu:
    """A GPU, as far as scaling looks at it."""

    #: gpu0@host
    name: str
    host: str = ""
    pool: str = ""
    state: GpuState = "ready"
    #: Until it has done what it has claimed, in seconds; None: it has nothing.
    left_s: float | None = None
    #: For how long it has had nothing, about; None where it works or does not answer.
    idle_s: float | None = None
    holds: frozenset[ModelSet] = frozenset()
    #: Ids of the lines that it can run; None: all.
    can_run: frozenset[int] | None = None

    @property
    def serves(self) -> bool:
        """Whether it takes jobs, or is about to."""
        return self.state in ("ready", "starting")

    @property
    def is_busy(self) -> bool:
        """Whether it has a job."""
        return self.left_s is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLine:
    """Waiting jobs that scaling need not tell apart."""

    id: int
    #: Those whose GPUs can run them, or could if they had some; the first is preferred for new ones.
    pools: tuple[str, ...]
    jobs: int = 1
    run_s: float = 1.0
    load_s: float = 0.0
    models: ModelSet = ""
    #: How long its head has waited.
    waits_s: float = 0.0
    gates: tuple[Gate, ...] = ()


@dataclass(slots=True, kw_only=True)
class Demand:
    """What waits for a pool, and what that takes. Filled in while the jobs are laid out."""

    jobs: int = 0
    #: Seconds of work of them, and of the loads of models that they bring.
    run_s: float = 0.0
    load_s: float = 0.0
    #: How long the oldest has waited.
    oldest_s: float = 0.0
    #: Beside these: jobs that a limit of their tenant or batch keeps from beginning, however many GPUs there are.
    gated: int = 0
    #: Of the jobs: those for which the pool may not have enough GPUs.
    beyond: int = 0
    #: GPUs that work or have to, those that are not there yet included.
    needed: int = 0

    @property
    def work_s(self) -> float:
        """Seconds of work that wait, loads included."""
        return self.run_s + self.load_s


def demands(
    lines: Iterable[PoolLine],
    gpus: Sequence[PoolGpu],
    *,
    target_s: float,
    most: Mapping[str, int | None],
    looks: int = LOOKS,
) -> dict[str, Demand]:
    """Return what each pool needs.

    Parameters:
      target_s: every job is to begin within so many seconds.
      most: how many GPUs each pool may have at most, by its name; None: any number. All pools that lines name.
    """
    return _Layout(gpus, target_s, most, looks).lay_out(lines)


@dataclass(slots=True, kw_only=True, eq=False)
class _Place:
    """A GPU, while jobs are laid out on it."""

    pool: str
    #: When it could begin the next job.
    free_s: float = 0.0
    holds: set[ModelSet] = field(default_factory=set)
    is_needed: bool = False


class _Group:
    """The GPUs of a pool that can run the same lines, in the order in which they are given jobs."""

    def __init__(self, pool: str, can_run: frozenset[int] | None) -> None:
        self.pool = pool
        self.can_run = can_run
        #: Taken from the end. Those that work stand there, for they are needed anyway.
        self.places: list[_Place] = []
        self.holders: dict[ModelSet, list[_Place]] = {}

    def add(self, place: _Place) -> None:
        self.places.append(place)
        for models in place.holds:
            self.holders.setdefault(models, []).append(place)

    def takes(self, line: PoolLine) -> bool:
        return self.can_run is None or line.id in self.can_run


class _Layout:
    def __init__(self, gpus: Sequence[PoolGpu], target_s: float, most: Mapping[str, int | None], looks: int) -> None:
        self._target_s = target_s
        self._looks = looks
        self._demands = {pool: Demand() for pool in most}
        serving = [gpu for gpu in gpus if gpu.serves]
        #: How many more GPUs each pool may have.
        self._room: dict[str, float] = {
            pool: math.inf if limit is None else max(0, limit - sum(gpu.pool == pool for gpu in serving))
            for pool, limit in most.items()
        }
        self._groups: dict[str, list[_Group]] = {pool: [] for pool in most}
        #: Of each pool, those that are not there yet and have room left.
        self._new: dict[str, _Group] = {pool: _Group(pool, None) for pool in most}
        found: dict[tuple[str, frozenset[int] | None], _Group] = {}
        # From the end: those that work, the one first that is free first; then idle ones; then those that start.
        for gpu in sorted(serving, key=_last_given):
            self._demands.setdefault(gpu.pool, Demand()).needed += gpu.is_busy
            key = gpu.pool, gpu.can_run
            if key not in found:
                found[key] = _Group(*key)
                self._groups.setdefault(gpu.pool, []).append(found[key])
            found[key].add(_Place(pool=gpu.pool, free_s=gpu.left_s or 0.0, holds=set(gpu.holds), is_needed=gpu.is_busy))

    def lay_out(self, lines: Iterable[PoolLine]) -> dict[str, Demand]:
        # Those first that only few pools can run, so that the others leave them room; then those that came first.
        ordered = sorted(lines, key=lambda line: (len(line.pools), -line.waits_s, line.id))
        slots = Slots({line.id: line.gates for line in ordered if line.gates})
        for line in ordered:
            if not line.pools:
                continue
            left = self._on_what_is_there(line, slots)
            left = self._on_new(line, left, slots)
            home = self._demands[line.pools[0]]
            if left and not slots.is_open(line.id):
                home.gated += left
            elif left:
                self._note(line, line.pools[0], left)
                home.beyond += left
        return self._demands

    def _on_what_is_there(self, line: PoolLine, slots: Slots) -> int:
        """Lay jobs out on GPUs that are there; returns how many are left."""
        left = line.jobs
        for pool in line.pools:
            for group in (*self._groups[pool], self._new[pool]):
                if left and group.takes(line):
                    left = self._on_places(group.holders.get(line.models, []), line, left, slots, group)
                    left = self._on_places(group.places, line, left, slots, group)
        return left

    def _on_places(self, places: list[_Place], line: PoolLine, left: int, slots: Slots, group: _Group) -> int:
        passed: list[_Place] = []
        while places and left and self._looks > 0 and (not line.gates or slots.is_open(line.id)):
            self._looks -= 1
            place = places.pop()
            given = min(left, self._fits(line, place))
            if given:
                left -= given
                self._give(line, place, given, slots, group)
            if place.free_s <= self._target_s:
                passed.append(place)
        places.extend(reversed(passed))
        return left

    def _on_new(self, line: PoolLine, left: int, slots: Slots) -> int:
        """Lay jobs out on GPUs that are not there yet; returns how many no pool may have GPUs for, or no gate lets."""
        for pool in line.pools:
            if not left:
                break
            each = self._fits(line, _Place(pool=pool))
            if not line.gates and each < left:
                # All alike: counted, not laid out one by one.
                whole = int(min(self._room[pool], left // each))
                given = whole * each
                self._room[pool] -= whole
                self._demands[pool].needed += whole
                self._note(line, pool, given, loads=whole)
                left -= given
            while left and self._room[pool] >= 1 and slots.is_open(line.id):
                self._room[pool] -= 1
                place, given = _Place(pool=pool), min(left, each)
                left -= given
                self._give(line, place, given, slots, self._new[pool])
                if place.free_s <= self._target_s:
                    self._new[pool].places.append(place)
        return left

    def _fits(self, line: PoolLine, place: _Place) -> int:
        """Return how many jobs of a line a GPU can begin in time, one after the other."""
        room_s = self._target_s - place.free_s
        if not self._is_held(line, place):
            room_s -= min(line.load_s, LOAD_SHARE * self._target_s)
        return 0 if room_s < 0 else int(room_s / max(line.run_s, 1e-3)) + 1

    def _give(self, line: PoolLine, place: _Place, jobs: int, slots: Slots, group: _Group) -> None:
        loads = not self._is_held(line, place)
        place.free_s += jobs * line.run_s + (line.load_s if loads else 0.0)
        if loads:
            place.holds.add(line.models)
            group.holders.setdefault(line.models, []).append(place)
        if not place.is_needed:
            place.is_needed = True
            self._demands[place.pool].needed += 1
        if line.gates:
            slots.take(line.id)
        self._note(line, place.pool, jobs, loads=int(loads))

    def _note(self, line: PoolLine, pool: str, jobs: int, *, loads: int = 0) -> None:
        if not jobs:
            return
        demand = self._demands[pool]
        demand.jobs += jobs
        demand.run_s += jobs * line.run_s
        demand.load_s += loads * line.load_s
        demand.oldest_s = max(demand.oldest_s, line.waits_s)

    @staticmethod
    def _is_held(line: PoolLine, place: _Place) -> bool:
        return not line.models or line.models in place.holds


def _last_given(gpu: PoolGpu) -> tuple[int, float, str]:
    if gpu.is_busy:
        return 2, -(gpu.left_s or 0.0), gpu.name
    return int(gpu.state == "ready"), 0.0, gpu.name
