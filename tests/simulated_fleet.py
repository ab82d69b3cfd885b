"""What a simulated fleet consists of: jobs that wait, GPUs, who holds what, and who idles."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from core.scheduling.lines import Gpu, Holders, Line


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedJob:
    """A job of a trace: when it comes, and what it takes."""

    at_s: float
    models: str
    run_s: float
    #: What the rule is told it takes.
    expected_s: float
    priority: int = 0
    tenant: str = ""
    start_by_s: float | None = None
    #: The GPUs that can run it; None means any.
    gpus: frozenset[int] | None = None


class WaitingJobs:
    """The jobs of one line, and the line as the rule sees it."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._jobs: deque[SimulatedJob] = deque()
        self._line: Line | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: SimulatedJob) -> None:
        self._jobs.append(job)
        self._line = None

    def take(self, *, nearest_deadline: bool) -> SimulatedJob:
        self._line = None
        if not nearest_deadline:
            return self._jobs.popleft()
        job = min(self._jobs, key=lambda each: math.inf if each.start_by_s is None else each.start_by_s)
        self._jobs.remove(job)
        return job

    @property
    def gpus(self) -> frozenset[int] | None:
        return self._jobs[0].gpus

    @property
    def line(self) -> Line:
        if self._line is None:
            head = self._jobs[0]
            start_by_s = None
            if head.start_by_s is not None:
                start_by_s = min(job.start_by_s for job in self._jobs if job.start_by_s is not None)
            self._line = Line(
                id=self._number,
                priority=head.priority,
                tenant=head.tenant,
                models=head.models,
                waiting=len(self._jobs),
                since_s=head.at_s,
                run_s=head.expected_s,
                start_by_s=start_by_s,
            )
        return self._line


class SimulatedGpu:
    """One GPU: what it holds, the most recently used first, and until when it is expected to work."""

    def __init__(self, number: int, believed_load_s: float) -> None:
        self.number = number
        self.held: list[str] = []
        self.is_busy = False
        self.free_at_s: float | None = None
        self.runs = 0
        self._load_s = believed_load_s
        self.asks = Gpu(usual_load_s=believed_load_s)

    def holds_now(self, held: list[str], resident: int) -> None:
        self.held = held
        at_risk = frozenset(held[resident - 1 :])
        self.asks = Gpu(holds=frozenset(held), at_risk=at_risk, usual_load_s=self._load_s)


class HoldersNow(Mapping[str, Holders]):
    """The holders of each model set, kept up to date event by event."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._gpus: dict[str, int] = {}
        self._working: dict[str, int] = {}
        self._free_at_s: dict[str, float] = {}

    def __getitem__(self, models: str) -> Holders:
        working = self._working.get(models, 0)
        free_s = max(0.0, self._free_at_s[models] - working * self.now_s) if working else 0.0
        return Holders(gpus=self._gpus[models], free_s=free_s)

    def get(self, models: str, default: Any = None) -> Any:
        return self[models] if models in self._gpus else default

    def __contains__(self, models: object) -> bool:
        return models in self._gpus

    def __iter__(self) -> Iterator[str]:
        return iter(self._gpus)

    def __len__(self) -> int:
        return len(self._gpus)

    def hold(self, models: str, by: int) -> None:
        count = self._gpus.get(models, 0) + by
        if count:
            self._gpus[models] = count
        else:
            del self._gpus[models]

    def work(self, held: list[str], free_at_s: float, by: int) -> None:
        for models in held:
            self._working[models] = self._working.get(models, 0) + by
            self._free_at_s[models] = self._free_at_s.get(models, 0.0) + by * free_at_s if self._working[models] else 0


class IdleGpus:
    """The GPUs that idle, to pick from in any order."""

    def __init__(self, numbers: int, rng: random.Random) -> None:
        self._all = list(range(numbers))
        self._place = {number: number for number in range(numbers)}
        self._rng = rng
        self.holding: dict[str, dict[int, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def any(self) -> int:
        return self._all[self._rng.randrange(len(self._all))]

    def shuffled(self) -> list[int]:
        return self._rng.sample(self._all, len(self._all))

    def add(self, gpu: SimulatedGpu) -> None:
        self._place[gpu.number] = len(self._all)
        self._all.append(gpu.number)
        for models in gpu.held:
            self.holding.setdefault(models, {})[gpu.number] = None

    def remove(self, gpu: SimulatedGpu) -> None:
        place, last = self._place.pop(gpu.number), self._all.pop()
        if last != gpu.number:
            self._all[place] = last
            self._place[last] = place
        for models in gpu.held:
            del self.holding[models][gpu.number]
