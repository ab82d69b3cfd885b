"""A day of a fleet that grows and shrinks, in simulated time: jobs come, GPUs start, run, load, and are given up.

A job goes to an idle GPU that holds its models, the one used last; else to any that is idle, which loads them. A GPU
that is free goes on with what it holds, unless others have waited two loads longer. That is the same under each rule.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from core.scheduling.leaving import hosts_to_leave
from core.scheduling.picture import left_s
from core.scheduling.scaling import Demand, PoolGpu, PoolLine, demands
from core.scheduling.steadiness import History, PoolLimits, remembered, wanted

DAY_S: Final = 86_400.0
START_S: Final = 90.0
WINDOW_S: Final = 60.0
#: How often needs are noted, and how often GPUs are started and given up.
LOOK_S: Final = 5.0
ACT_S: Final = 15.0
MOST: Final = 200
POOL: Final = "-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """Jobs of one kind."""

    name: str
    #: How many of a hundred jobs are of it.
    share: float
    run_s: float
    load_s: float


SORTS: Final = (
    Sort(name="sdxl", share=45, run_s=6, load_s=10),
    Sort(name="sdxl-lora", share=20, run_s=8, load_s=10),
    Sort(name="flux", share=20, run_s=25, load_s=25),
    Sort(name="upscale", share=10, run_s=15, load_s=5),
    Sort(name="video", share=5, run_s=180, load_s=40),
)
MEAN_S: Final = sum(sort.share * sort.run_s for sort in SORTS) / sum(sort.share for sort in SORTS)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job of the day."""

    at_s: float
    sort: int
    run_s: float


def offered_gpus(at_s: float, peak: float) -> float:
    """Return how many GPUs the work that comes at this time of the day would keep busy, batches aside."""
    hour = at_s / 3600
    day = max(0.0, math.sin((hour - 5) / 19 * math.pi)) ** 1.5 if hour >= 5 else 0.0
    evening = 0.35 * math.exp(-((hour - 20) ** 2) / 2)
    # At night one job in some minutes.
    return min(1.0, day * 0.8 + evening) * peak + 0.05


def arrivals(*, peak: float, seed: int) -> list[Arrival]:
    """Return the jobs of a day: at random around the curve, and four batches at once of 400 jobs of one kind."""
    rng = random.Random(seed)
    weights = [sort.share for sort in SORTS]
    found, at_s = [], 0.0
    while True:
        at_s += rng.expovariate(max(offered_gpus(at_s, peak), 0.05) / MEAN_S)
        if at_s >= DAY_S:
            break
        found.append(_job(rng, at_s, rng.choices(range(len(SORTS)), weights)[0]))
    for hour, sort in ((3.0, 0), (9.5, 2), (14.0, 0), (22.5, 3)):
        found.extend(_job(rng, hour * 3600, sort) for _ in range(400))
    return sorted(found, key=lambda job: job.at_s)


def _job(rng: random.Random, at_s: float, sort: int) -> Arrival:
    return Arrival(at_s, sort, SORTS[sort].run_s * rng.lognormvariate(-0.045, 0.3))


@dataclass(slots=True, eq=False)
class SimulatedGpu:
    """One GPU, from when it is asked for until it is gone."""

    number: int
    asked_s: float
    is_up: bool = False
    is_leaving: bool = False
    gone_s: float | None = None
    holds: int | None = None
    #: What it runs, and since when, load included.
    sort: int | None = None
    since_s: float = 0.0
    planned_s: float = 0.0


class Fleet(Protocol):
    """What a rule may look at."""

    now_s: float
    gpus: list[SimulatedGpu]
    queues: tuple[deque[Arrival], ...]


class Rule(Protocol):
    """How many GPUs are wanted, and which go first."""

    name: str

    def look(self, fleet: Fleet) -> None:
        """Take note of what is needed."""

    def wanted(self, fleet: Fleet) -> int:
        """Return how many GPUs there should be."""

    def first_to_go(self, fleet: Fleet, count: int) -> list[SimulatedGpu]:
        """Return the GPUs to give up."""


class Ours:
    """The rule of the product: the functions that it calls."""

    def __init__(self, target_s: float) -> None:
        self.name = f"ours, {target_s:g} s"
        self._target_s = target_s
        self._history: History | None = None

    def look(self, fleet: Fleet) -> None:
        self._history = remembered(self._history, self._demand(fleet).needed, now_s=fleet.now_s, window_s=WINDOW_S)

    def wanted(self, fleet: Fleet) -> int:
        here = sum(not gpu.is_leaving for gpu in fleet.gpus)
        return wanted(
            self._demand(fleet),
            self._history,
            here=here,
            limits=PoolLimits(most=MOST),
            target_s=self._target_s,
            now_s=fleet.now_s,
            window_s=WINDOW_S,
        ).gpus

    def first_to_go(self, fleet: Fleet, count: int) -> list[SimulatedGpu]:
        by_host = {str(gpu.number): gpu for gpu in fleet.gpus}
        waited = frozenset(SORTS[sort].name for sort, queue in enumerate(fleet.queues) if queue)
        return [by_host[each.host] for each in hosts_to_leave(_seen(fleet), {POOL: count}, waited)]

    def _demand(self, fleet: Fleet) -> Demand:
        lines = [
            PoolLine(
                id=number,
                pools=(POOL,),
                jobs=len(queue),
                run_s=SORTS[number].run_s,
                load_s=SORTS[number].load_s,
                models=SORTS[number].name,
                waits_s=fleet.now_s - queue[0].at_s,
            )
            for number, queue in enumerate(fleet.queues)
            if queue
        ]
        return demands(lines, _seen(fleet), target_s=self._target_s, most={POOL: MOST})[POOL]


def _seen(fleet: Fleet) -> list[PoolGpu]:
    now_s = fleet.now_s
    return [
        PoolGpu(
            name=str(gpu.number),
            host=str(gpu.number),
            pool=POOL,
            state="leaving" if gpu.is_leaving else "ready" if gpu.is_up else "starting",
            left_s=None if gpu.sort is None else left_s(gpu.planned_s, now_s - gpu.since_s),
            idle_s=now_s - gpu.since_s if gpu.sort is None and gpu.is_up else None,
            holds=frozenset() if gpu.holds is None else frozenset([SORTS[gpu.holds].name]),
        )
        for gpu in fleet.gpus
    ]


@dataclass(slots=True)
class QueueLength:
    """A replica for so many jobs, waiting and running, as a ScaledObject on a queue has it.

    The autoscaler of Kubernetes changes nothing while it is within a tenth of what is wanted, and goes down to the
    highest of the last window. It does not know which replica is idle: the newest goes, when its job is done.
    """

    each: float
    name: str = ""
    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.name = f"queue length, {self.each:g} for each"

    def look(self, fleet: Fleet) -> None:
        """Nothing is noted between two actions."""

    def wanted(self, fleet: Fleet) -> int:
        here = sum(not gpu.is_leaving for gpu in fleet.gpus)
        jobs = sum(map(len, fleet.queues)) + sum(gpu.sort is not None for gpu in fleet.gpus)
        now = min(MOST, math.ceil(jobs / self.each))
        if here and now and abs(jobs / self.each / here - 1) <= 0.1:
            now = here
        self.seen.append((fleet.now_s, now))
        while self.seen[0][0] < fleet.now_s - WINDOW_S:
            self.seen.popleft()
        return max(now, min(here, max(each for _, each in self.seen)))

    def first_to_go(self, fleet: Fleet, count: int) -> list[SimulatedGpu]:
        there = [gpu for gpu in fleet.gpus if not gpu.is_leaving]
        return sorted(there, key=lambda gpu: -gpu.number)[:count]


@dataclass(slots=True)
class Outcome:
    """What became of a day under one rule."""

    rule: str
    #: When each job came, and how long it waited until its own work began.
    waits: list[tuple[float, float]]
    gpu_hours: float
    starts: int
    most: int
    #: How many GPUs were there, every five minutes.
    gpus: list[int]


class Day:
    """Runs one day under one rule."""

    def __init__(self, jobs: Sequence[Arrival], rule: Rule) -> None:
        self.now_s = 0.0
        self.gpus: list[SimulatedGpu] = []
        self.queues = tuple(deque[Arrival]() for _ in SORTS)
        self._jobs = jobs
        self._rule = rule
        self._idle: dict[int | None, list[SimulatedGpu]] = {}
        #: `(when, number, GPU)`: it is up, or has done its job.
        self._due: list[tuple[float, int, SimulatedGpu]] = []
        self._waits: list[tuple[float, float]] = []
        self._starts = 0
        self._spent_s = 0.0

    def run(self) -> Outcome:
        """Return what became of all jobs."""
        next_job, next_look_s, most = 0, 0.0, 0
        counts: list[int] = []
        while next_job < len(self._jobs) or any(self.queues) or self.gpus:
            job_s = self._jobs[next_job].at_s if next_job < len(self._jobs) else math.inf
            due_s = self._due[0][0] if self._due else math.inf
            self.now_s = min(job_s, due_s, next_look_s)
            if self.now_s == next_look_s:
                self._rule.look(self)
                if next_look_s % ACT_S == 0:
                    self._act()
                most = max(most, len(self.gpus))
                if next_look_s % 300 == 0 and next_look_s < DAY_S:
                    counts.append(len(self.gpus))
                next_look_s += LOOK_S
                if self.now_s > 2 * DAY_S:
                    break
            elif self.now_s == due_s:
                self._free(heapq.heappop(self._due)[2])
            else:
                self._came(self._jobs[next_job])
                next_job += 1
        spent_s = self._spent_s + sum(self.now_s - gpu.asked_s for gpu in self.gpus)
        return Outcome(self._rule.name, self._waits, spent_s / 3600, self._starts, most, counts)

    def _act(self) -> None:
        here = sum(not gpu.is_leaving for gpu in self.gpus)
        gpus = self._rule.wanted(self)
        for _ in range(gpus - here):
            self._starts += 1
            gpu = SimulatedGpu(self._starts, self.now_s)
            self.gpus.append(gpu)
            heapq.heappush(self._due, (self.now_s + START_S, gpu.number, gpu))
        if gpus < here:
            for gpu in self._rule.first_to_go(self, here - gpus):
                gpu.is_leaving = True
                if gpu.sort is None:
                    self._end(gpu)

    def _end(self, gpu: SimulatedGpu) -> None:
        gpu.gone_s = self.now_s
        self._spent_s += self.now_s - gpu.asked_s
        self.gpus.remove(gpu)

    def _came(self, job: Arrival) -> None:
        gpu = self._idle_for(job.sort)
        if gpu is None:
            self.queues[job.sort].append(job)
        else:
            self._begin(gpu, job)

    def _idle_for(self, sort: int) -> SimulatedGpu | None:
        for held in (sort, None, *(other for other in range(len(SORTS)) if other != sort)):
            stack = self._idle.get(held, [])
            while stack:
                gpu = stack.pop()
                if gpu.gone_s is None:
                    return gpu
        return None

    def _begin(self, gpu: SimulatedGpu, job: Arrival) -> None:
        load_s = 0.0 if gpu.holds == job.sort else SORTS[job.sort].load_s
        gpu.holds = gpu.sort = job.sort
        gpu.since_s, gpu.planned_s = self.now_s, load_s + SORTS[job.sort].run_s
        self._waits.append((job.at_s, self.now_s + load_s - job.at_s))
        heapq.heappush(self._due, (self.now_s + load_s + job.run_s, gpu.number, gpu))

    def _free(self, gpu: SimulatedGpu) -> None:
        if gpu.gone_s is not None:
            return
        gpu.is_up, gpu.sort, gpu.since_s = True, None, self.now_s
        if gpu.is_leaving:
            self._end(gpu)
            return
        job = self._next_for(gpu)
        if job is None:
            self._idle.setdefault(gpu.holds, []).append(gpu)
        else:
            self._begin(gpu, job)

    def _next_for(self, gpu: SimulatedGpu) -> Arrival | None:
        oldest = min((queue for queue in self.queues if queue), key=lambda queue: queue[0].at_s, default=None)
        if oldest is None:
            return None
        own = self.queues[gpu.holds] if gpu.holds is not None else None
        if own and own[0].at_s - oldest[0].at_s <= 2 * SORTS[oldest[0].sort].load_s:
            return own.popleft()
        return oldest.popleft()
