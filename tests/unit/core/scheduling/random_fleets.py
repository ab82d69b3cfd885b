"""Fleets and traces that hypothesis draws. All their times are multiples of 1/8 s, so that sums of them are exact."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st

from tests.scheduling_simulation import Rule, Simulation, Taken
from tests.simulated_fleet import SimulatedJob

#: In CI the same examples each time.
QUICK = settings(max_examples=20, deadline=None, database=None, derandomize=bool(os.environ.get("CI")))

_LIES = st.sampled_from([0.125, 1.0, 8.0])


@dataclass(frozen=True, kw_only=True)
class RandomFleet:
    """A fleet with a trace; what the policy is told of durations may be wrong by a factor of 8 either way."""

    gpus: int
    resident: int
    load_s: float
    believed_load_s: float
    seed: int
    jobs: Sequence[SimulatedJob]
    tenant_weights: dict[str, float] | None = None

    def run(self, rule: Rule) -> list[Taken]:
        """Return what became of the jobs."""
        return Simulation(
            rule,
            gpus=self.gpus,
            resident=self.resident,
            load_s=self.load_s,
            believed_load_s=self.believed_load_s,
            warm_asked_first=False,
            tenant_weights=self.tenant_weights,
            seed=self.seed,
        ).run(self.jobs)

    def later(self, by_s: float) -> RandomFleet:
        """The same at another time."""

        def moved(job: SimulatedJob) -> SimulatedJob:
            start_by_s = None if job.start_by_s is None else job.start_by_s + by_s
            return replace(job, at_s=job.at_s + by_s, start_by_s=start_by_s)

        return replace(self, jobs=[moved(job) for job in self.jobs])


def eighths(least: int, most: int) -> st.SearchStrategy[float]:
    """Multiples of 1/8 s from one number of seconds to another."""
    return st.integers(8 * least, 8 * most).map(lambda count: count / 8)


@st.composite
def fleets(draw: st.DrawFn, *, tenants: bool = False, deadlines: bool = False) -> RandomFleet:
    """Fleets of up to four GPUs, of which a job may need certain ones, and of up to thirty jobs."""
    gpus = draw(st.integers(1, 4))
    models = draw(st.integers(1, 5))
    load_s = draw(eighths(1, 16))
    factors = draw(st.lists(_LIES, min_size=models, max_size=models))
    some = st.none() | st.sets(st.integers(0, gpus - 1), min_size=1).map(frozenset)
    needs = draw(st.lists(some, min_size=models, max_size=models))
    jobs, at_s = [], 0.0
    # A dense trace, or a sparse one.
    longest_gap_s = draw(st.sampled_from([1, 4, 20]))
    for _ in range(draw(st.integers(1, 30))):
        at_s += draw(eighths(0, longest_gap_s))
        model = draw(st.integers(0, models - 1))
        run_s = draw(eighths(1, 12))
        jobs.append(
            SimulatedJob(
                at_s=at_s,
                models=f"model{model}" if model else "",
                run_s=run_s,
                expected_s=run_s * factors[model],
                priority=draw(st.sampled_from([0, 0, 0, 1, -1])),
                tenant=draw(st.sampled_from("abc")) if tenants else "",
                start_by_s=at_s + draw(eighths(0, 99)) if deadlines and draw(st.booleans()) else None,
                gpus=needs[model],
            )
        )
    return RandomFleet(
        gpus=gpus,
        resident=draw(st.integers(1, 2)),
        load_s=load_s,
        believed_load_s=load_s * draw(_LIES),
        seed=draw(st.integers(0, 9)),
        jobs=jobs,
        tenant_weights={"a": 1.0, "b": 1.0, "c": 4.0} if tenants else None,
    )
