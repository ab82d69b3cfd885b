"""A fleet that takes jobs by some rule of scheduling, in simulated time: events, no processes, no database.

One GPU works on one job at a time and keeps the model sets that it used last. GPUs that idle are asked when a job
comes, when one ends, and every `TICK_S`, as the reconciler does.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from core.scheduling.lines import Decision, Fleet, Gpu, Line
from core.scheduling.shares import decayed
from tests.simulated_fleet import HoldersNow, IdleGpus, SimulatedGpu, SimulatedJob, WaitingJobs

#: How often idle GPUs are asked although nothing has happened.
TICK_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of a job."""

    job: SimulatedJob
    gpu: int
    taken_s: float
    #: When its own work began: after the load, if there was one.
    begun_s: float
    decision: Decision


class Rule(Protocol):
    """What decides, called as `core.scheduling.policy.decide` is."""

    def __call__(
        self, gpu: Gpu, lines: Sequence[Line], fleet: Fleet, *, now_s: float, used_s: Mapping[str, float] | None = None
    ) -> Decision | None: ...


def trace(
    *, jobs: int, gpus: int, models: int, offered: float, seed: int, mean_s: float = 4.0, sigma: float = 0.5
) -> list[SimulatedJob]:
    """Return jobs that come at random, of lognormal duration, their models by a 1/rank popularity.

    Parameters:
      offered: seconds of work that come for each second of a GPU, loads not counted.
    """
    rng = random.Random(seed)
    names = [f"model{rank}" for rank in range(models)]
    weights = [1 / (rank + 1) for rank in range(models)]
    at_s, mu = 0.0, math.log(mean_s) - sigma * sigma / 2
    made = []
    for _ in range(jobs):
        at_s += rng.expovariate(offered * gpus / mean_s)
        name = rng.choices(names, weights)[0]
        made.append(SimulatedJob(at_s=at_s, models=name, run_s=rng.lognormvariate(mu, sigma), expected_s=mean_s))
    return made


class Simulation:
    """One run of a trace.

    Parameters:
      resident: how many model sets a GPU holds.
      believed_load_s: what the rule is told that a load takes.
      warm_asked_first: a job that comes is shown to idle GPUs that hold its models first.
      is_uniform: every GPU can run every job, all of one level and tenant: then of the GPUs that idle only one of a
        kind need be asked, which makes thousands of them affordable.
      tenant_weights: none means that tenants are not told apart.
    """

    def __init__(
        self,
        rule: Rule,
        *,
        gpus: int,
        resident: int,
        load_s: float,
        believed_load_s: float | None = None,
        warm_asked_first: bool = True,
        is_uniform: bool = False,
        tenant_weights: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        self._rule = rule
        self._resident = resident
        self._load_s = load_s
        self._believed_load_s = load_s if believed_load_s is None else believed_load_s
        self._warm_asked_first = warm_asked_first
        self._is_uniform = is_uniform
        self._gpus = [SimulatedGpu(number, self._believed_load_s) for number in range(gpus)]
        self._idle = IdleGpus(gpus, random.Random(seed))
        self._holders = HoldersNow()
        self._queues: dict[tuple[Any, ...], WaitingJobs] = {}
        self._needs: dict[int, frozenset[int] | None] = {}
        self._numbers = 0
        self._weights = tenant_weights
        self._used: dict[str, tuple[float, float]] = {}
        self._events: list[tuple[float, int, str, SimulatedGpu | None, int]] = []
        self._sequence = 0
        self._now_s = 0.0
        self.taken: list[Taken] = []
        #: When the last job ended.
        self.ended_s = 0.0

    def run(self, jobs: Sequence[SimulatedJob]) -> list[Taken]:
        """Return what became of each job, in the order in which they were taken."""
        coming, ticks_at_s = 0, math.inf
        while coming < len(jobs) or self._events or (self._queues and ticks_at_s < math.inf):
            next_s = min(
                jobs[coming].at_s if coming < len(jobs) else math.inf,
                self._events[0][0] if self._events else math.inf,
                ticks_at_s,
            )
            self._now_s = self._holders.now_s = next_s
            if coming < len(jobs) and jobs[coming].at_s == next_s:
                self._come(jobs[coming])
                coming += 1
            elif self._events and self._events[0][0] == next_s:
                self._happen()
            else:
                self._settle(None)
                ticks_at_s = math.inf
            if not (self._queues and len(self._idle)):
                ticks_at_s = math.inf
            elif ticks_at_s == math.inf:
                ticks_at_s = self._now_s + TICK_S
        return self.taken

    def _come(self, job: SimulatedJob) -> None:
        key = (job.priority, job.tenant, job.models, job.gpus)
        queue = self._queues.get(key)
        if queue is None:
            self._numbers += 1
            queue = self._queues[key] = WaitingJobs(self._numbers)
            self._needs[self._numbers] = job.gpus
        queue.add(job)
        self._settle(job.models)

    def _happen(self) -> None:
        _, _, what, gpu, run = heapq.heappop(self._events)
        assert gpu is not None
        if gpu.runs != run:
            return
        if gpu.free_at_s is not None:
            self._holders.work(gpu.held, gpu.free_at_s, -1)
            gpu.free_at_s = None
        if what == "overdue":
            return
        gpu.runs += 1
        gpu.is_busy = False
        self._idle.add(gpu)
        self.ended_s = self._now_s
        if self._queues:
            self._ask(gpu)
        self._settle(None)

    def _settle(self, models: str | None) -> None:
        """Ask idle GPUs until none takes anything; `models` are those of the job that came, if one did."""
        while self._queues and len(self._idle):
            numbers = self._one_of_a_kind(models) if self._is_uniform else self._in_order(models)
            if not any(self._ask(self._gpus[number]) for number in numbers):
                return

    def _one_of_a_kind(self, models: str | None) -> list[int]:
        """One that holds the models, if there is one, and any."""
        some = [self._idle.any()]
        holding = self._idle.holding.get(models) if models is not None else None
        if holding:
            some.insert(0 if self._warm_asked_first else 1, next(iter(holding)))
        return some

    def _in_order(self, models: str | None) -> list[int]:
        numbers = self._idle.shuffled()
        if models is not None and self._warm_asked_first:
            numbers.sort(key=lambda number: models not in self._gpus[number].held)
        return numbers

    def _ask(self, gpu: SimulatedGpu) -> bool:
        lines = [queue.line for queue in self._queues.values() if queue.gpus is None or gpu.number in queue.gpus]
        if not lines:
            return False
        fleet = Fleet(holders=self._holders, gpus=len(self._gpus), busy=len(self._gpus) - len(self._idle))
        decision = self._rule(gpu.asks, lines, fleet, now_s=self._now_s, used_s=self._used_s())
        if decision is not None:
            self._take(gpu, decision)
        return decision is not None

    def _used_s(self) -> dict[str, float] | None:
        if self._weights is None:
            return None
        return {
            tenant: decayed(used_s, self._now_s - at_s) / self._weights[tenant]
            for tenant, (used_s, at_s) in self._used.items()
        }

    def _take(self, gpu: SimulatedGpu, decision: Decision) -> None:
        line = decision.line
        key = (line.priority, line.tenant, line.models, self._needs[line.id])
        queue = self._queues[key]
        job = queue.take(nearest_deadline=decision.takes_nearest_deadline)
        if not len(queue):
            del self._queues[key]
        self._idle.remove(gpu)
        is_warm = job.models in gpu.held
        held = [job.models, *(each for each in gpu.held if each != job.models)][: self._resident]
        for models in set(gpu.held) - set(held):
            self._holders.hold(models, -1)
        if not is_warm:
            self._holders.hold(job.models, 1)
        gpu.holds_now(held, self._resident)
        begun_s = self._now_s + (0.0 if is_warm else self._load_s)
        gpu.is_busy = True
        expected_s = (0.0 if is_warm else self._believed_load_s) + job.expected_s
        gpu.free_at_s = self._now_s + expected_s
        self._holders.work(held, gpu.free_at_s, 1)
        self._push(gpu.free_at_s, "overdue", gpu)
        self._push(begun_s + job.run_s, "end", gpu)
        if self._weights is not None:
            used_s, at_s = self._used.get(job.tenant, (0.0, self._now_s))
            self._used[job.tenant] = (decayed(used_s, self._now_s - at_s) + expected_s, self._now_s)
        self.taken.append(Taken(job=job, gpu=gpu.number, taken_s=self._now_s, begun_s=begun_s, decision=decision))

    def _push(self, at_s: float, what: str, gpu: SimulatedGpu) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (at_s, self._sequence, what, gpu, gpu.runs))
