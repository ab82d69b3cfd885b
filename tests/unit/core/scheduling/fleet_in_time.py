"""A fleet that works through its lines by the policy, counted plainly: the reality that forecasts are held against.

It asks the whole policy with all lines, each idle GPU after each event, and counts the fleet anew for each decision.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from core.scheduling.lines import Fleet, Gpu, Holders, Line, ModelSet
from core.scheduling.picture import FleetGpu, Picture, WaitingLine
from core.scheduling.policy import decide
from core.scheduling.shares import decayed


@dataclass(kw_only=True)
class RealGpu:
    name: str
    room: int
    load_s: float
    held: list[ModelSet] = field(default_factory=list)
    can_run: frozenset[int] | None = None
    busy: bool = False
    #: When it is free as far as one expects, and indeed.
    expected_at_s: float = 0.0
    free_at_s: float = 0.0
    #: What a job takes at least from any moment on, where jobs take longer than expected.
    least_s: float = 0.0

    def gpu(self, now_s: float) -> Gpu:
        return Gpu(
            holds=frozenset(self.held),
            at_risk=frozenset(self.held[self.room - 1 :]),
            usual_load_s=self.load_s,
            free_s=max(self.least_s, self.expected_at_s - now_s) if self.busy else 0.0,
        )


@dataclass(kw_only=True)
class RealJob:
    number: int
    came_s: float
    start_by_s: float | None = None


class FleetInTime:
    def __init__(self, gpus: list[RealGpu], *, used_s: Mapping[str, float] | None = None, now_s: float = 0.0) -> None:
        self.gpus = gpus
        self.now_s = now_s
        self.kinds: dict[int, Line] = {}
        self.jobs: dict[int, list[RealJob]] = {}
        self._used = None if used_s is None else {tenant: (used, now_s) for tenant, used in used_s.items()}
        self._freed = [(gpu.free_at_s, place) for place, gpu in enumerate(gpus) if gpu.busy]
        heapq.heapify(self._freed)
        #: By the number of the job: when it was taken, and when its own work began.
        self.taken_s: dict[int, float] = {}
        self.began_s: dict[int, float] = {}

    def lines(self) -> list[WaitingLine]:
        return [
            WaitingLine(
                line=Line(
                    id=kind.id,
                    priority=kind.priority,
                    tenant=kind.tenant,
                    models=kind.models,
                    run_s=kind.run_s,
                    waiting=len(jobs),
                    since_s=jobs[0].came_s,
                    start_by_s=min((job.start_by_s for job in jobs if job.start_by_s is not None), default=None),
                ),
                came_s=tuple(job.came_s for job in jobs[1:]),
                start_by_s={place: job.start_by_s for place, job in enumerate(jobs) if job.start_by_s is not None},
            )
            for kind in self.kinds.values()
            if (jobs := self.jobs[kind.id])
        ]

    def picture(self) -> Picture:
        return Picture(
            now_s=self.now_s,
            lines=tuple(self.lines()),
            gpus=tuple(
                FleetGpu(
                    name=gpu.name,
                    gpu=gpu.gpu(self.now_s),
                    busy=gpu.busy,
                    can_run=gpu.can_run,
                    recent=tuple(gpu.held),
                    room=gpu.room,
                )
                for gpu in self.gpus
            ),
            used_s=self._used_s(),
        )

    def add(self, kind: Line, job: RealJob) -> None:
        self.kinds.setdefault(kind.id, kind)
        self.jobs.setdefault(kind.id, []).append(job)

    def work_until(self, until_s: float, took_s: Callable[[int, Line], float]) -> None:
        """Let GPUs take jobs until a time; `took_s` says how long a job's own work takes in truth."""
        self._ask_idle(took_s)
        while self._freed and self._freed[0][0] <= until_s:
            self.now_s, place = heapq.heappop(self._freed)
            self._expire()
            self.gpus[place].busy = False
            self._ask(self.gpus[place], place, took_s)
            self._ask_idle(took_s)
        if until_s < float("inf"):
            self.now_s = until_s

    def _expire(self) -> None:
        for jobs in self.jobs.values():
            jobs[:] = [job for job in jobs if job.start_by_s is None or job.start_by_s >= self.now_s]

    def _ask_idle(self, took_s: Callable[[int, Line], float]) -> None:
        moved = True
        while moved:
            moved = False
            for place, gpu in enumerate(self.gpus):
                if not gpu.busy:
                    moved = self._ask(gpu, place, took_s) or moved

    def _ask(self, gpu: RealGpu, place: int, took_s: Callable[[int, Line], float]) -> bool:
        waiting = [each.line for each in self.lines() if gpu.can_run is None or each.line.id in gpu.can_run]
        decision = decide(gpu.gpu(self.now_s), waiting, self._fleet(), now_s=self.now_s, used_s=self._used_s())
        if decision is None:
            return False
        line, jobs = decision.line, self.jobs[decision.line.id]
        job = jobs[0]
        if decision.takes_nearest_deadline and line.start_by_s is not None:
            job = next(each for each in jobs if each.start_by_s == line.start_by_s)
        jobs.remove(job)
        if line.models:
            gpu.held = [line.models, *(each for each in gpu.held if each != line.models)][: gpu.room]
        self.taken_s[job.number] = self.now_s
        self.began_s[job.number] = self.now_s + decision.load_s
        gpu.busy = True
        gpu.expected_at_s = self.now_s + (decision.load_s + line.run_s)
        gpu.free_at_s = self.now_s + (decision.load_s + took_s(job.number, line))
        heapq.heappush(self._freed, (gpu.free_at_s, place))
        if self._used is not None:
            used_s, at_s = self._used.get(line.tenant, (0.0, self.now_s))
            charged_s = decayed(used_s, self.now_s - at_s) + decision.load_s + line.run_s
            self._used[line.tenant] = charged_s, self.now_s
        return True

    def _fleet(self) -> Fleet:
        holders: dict[ModelSet, Holders] = {}
        for gpu in self.gpus:
            mine = {kind.models for kind in self.kinds.values() if gpu.can_run is None or kind.id in gpu.can_run}
            for models in gpu.held:
                if models not in mine and any(kind.models == models for kind in self.kinds.values()):
                    continue
                old = holders.get(models, Holders(gpus=0))
                holders[models] = Holders(gpus=old.gpus + 1, free_s=old.free_s + gpu.gpu(self.now_s).free_s)
        return Fleet(holders=holders, gpus=len(self.gpus), busy=sum(gpu.busy for gpu in self.gpus))

    def _used_s(self) -> dict[str, float] | None:
        if self._used is None:
            return None
        return {tenant: decayed(used_s, self.now_s - at_s) for tenant, (used_s, at_s) in self._used.items()}
