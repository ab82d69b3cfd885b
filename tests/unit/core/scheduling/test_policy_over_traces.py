"""What holds of the policy whatever comes: random fleets work off random traces, told wrong durations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypothesis import given

from core.scheduling.lines import Decision, Fleet, Gpu, Holders, Line
from core.scheduling.policy import OVERTAKING, decide
from tests.scheduling_simulation import TICK_S, Simulation, Taken
from tests.simulated_fleet import SimulatedJob
from tests.unit.core.scheduling.random_fleets import QUICK, RandomFleet, fleets

#: Exact in binary floating point, as all times of the traces are.
JUMP_S = 2.0**20


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One decision, and what it was made of."""

    gpu: Gpu
    lines: list[Line]
    fleet: Fleet
    now_s: float
    decision: Decision | None

    def is_left_to_others(self, line: Line) -> bool:
        """Whether GPUs that hold a line's models will have done its work about as soon as this one could begin it."""
        if not line.models or line.models in self.gpu.holds or line.models not in self.fleet.holders:
            return False
        holders = self.fleet.holders[line.models]
        before = [each for each in self.lines if each.models == line.models and each.priority >= line.priority]
        backlog_s = (holders.free_s + sum(each.waiting * each.run_s for each in before)) / holders.gpus
        loads = 1 + self.fleet.busy / self.fleet.gpus
        return backlog_s <= loads * self.gpu.usual_load_s and not self.is_passed_over(line, self.now_s)

    def is_passed_over(self, line: Line, instead_s: float) -> bool:
        """Whether a line's head came so long before what is taken instead that it may not be."""
        return instead_s - line.since_s > OVERTAKING * self.gpu.usual_load_s


class Watched:
    """The policy, and every decision it made."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def __call__(
        self, gpu: Gpu, lines: Sequence[Line], fleet: Fleet, *, now_s: float, used_s: Mapping[str, float] | None = None
    ) -> Decision | None:
        decision = decide(gpu, lines, fleet, now_s=now_s, used_s=used_s)
        # What the simulation knows of holders changes as it goes on.
        holders = {line.models: fleet.holders[line.models] for line in lines if line.models in fleet.holders}
        then = Fleet(holders=holders, gpus=fleet.gpus, busy=fleet.busy)
        self.asked.append(Asked(gpu=gpu, lines=list(lines), fleet=then, now_s=now_s, decision=decision))
        return decision


def decisions(fleet: RandomFleet) -> list[Asked]:
    watched = Watched()
    fleet.run(watched)
    return watched.asked


def times(taken: Sequence[Taken], before_s: float = 0.0) -> list[tuple[int, float, float]]:
    return [(each.gpu, each.job.at_s - before_s, each.taken_s - before_s) for each in taken]


class TestEachJob:
    @QUICK
    @given(fleets(tenants=True, deadlines=True))
    def test_runs_once(self, fleet: RandomFleet) -> None:
        taken = fleet.run(decide)
        assert Counter(each.job for each in taken) == Counter(fleet.jobs)
        assert all(each.job.gpus is None or each.gpu in each.job.gpus for each in taken)

    @QUICK
    @given(fleets())
    def test_begins_after_what_came_before_and_what_may_overtake_it(self, fleet: RandomFleet) -> None:
        """Whatever durations the policy was told, and even if only one GPU can run the job.

        From `overtaken_s` on no GPU that can run it idles while it waits, nor takes jobs of its level that came later.
        """
        at_most = max(job.run_s for job in fleet.jobs) + fleet.load_s
        for each in fleet.run(decide):
            overtaken_s = each.job.at_s + OVERTAKING * fleet.believed_load_s
            before_s = sum(
                job.run_s + fleet.load_s
                for job in fleet.jobs
                if job.priority > each.job.priority or (job.priority == each.job.priority and job.at_s <= overtaken_s)
            )
            assert each.taken_s <= overtaken_s + TICK_S + at_most + before_s


class TestEachDecision:
    @QUICK
    @given(fleets(tenants=True, deadlines=True))
    def test_is_a_line_that_was_offered(self, fleet: RandomFleet) -> None:
        for asked in decisions(fleet):
            assert asked.decision is None or any(asked.decision.line is line for line in asked.lines)

    @QUICK
    @given(fleets(tenants=True, deadlines=True))
    def test_says_the_truth_about_the_load(self, fleet: RandomFleet) -> None:
        for asked in decisions(fleet):
            if asked.decision is None:
                continue
            is_warm = not asked.decision.line.models or asked.decision.line.models in asked.gpu.holds
            assert asked.decision.load_s == (0.0 if is_warm else asked.gpu.usual_load_s)
            assert asked.decision.why in (
                "deadline",
                "warm" if is_warm else "relief" if asked.decision.line.models in asked.fleet.holders else "unheld",
            )

    @QUICK
    @given(fleets())
    def test_is_to_idle_only_if_all_that_waits_is_left_to_others(self, fleet: RandomFleet) -> None:
        for asked in decisions(fleet):
            if asked.decision is None:
                assert all(asked.is_left_to_others(line) for line in asked.lines)

    @QUICK
    @given(fleets(deadlines=True))
    def test_is_for_a_lower_level_only_if_all_above_is_left_to_others(self, fleet: RandomFleet) -> None:
        for asked in decisions(fleet):
            if asked.decision is not None:
                above = [line for line in asked.lines if line.priority > asked.decision.line.priority]
                assert all(asked.is_left_to_others(line) for line in above)

    @QUICK
    @given(fleets())
    def test_passes_nobody_over_for_what_came_long_after(self, fleet: RandomFleet) -> None:
        for asked in decisions(fleet):
            if asked.decision is not None:
                taken = asked.decision.line
                level = [line for line in asked.lines if line.priority == taken.priority]
                assert not any(asked.is_passed_over(line, taken.since_s) for line in level)


class TestClock:
    @QUICK
    @given(fleets(tenants=True, deadlines=True))
    def test_a_jump_changes_no_decision(self, fleet: RandomFleet) -> None:
        assert times(fleet.later(JUMP_S).run(decide), JUMP_S) == times(fleet.run(decide))


class TestStarvation:
    """What the bound above forbids, at its plainest."""

    def test_a_model_always_in_demand_does_not_keep_its_gpu_for_ever(self) -> None:
        popular = [SimulatedJob(at_s=second, models="a", run_s=2, expected_s=2) for second in range(400)]
        rare = SimulatedJob(at_s=0.5, models="b", run_s=2, expected_s=2)
        simulation = Simulation(decide, gpus=1, resident=1, load_s=5)
        taken = simulation.run(sorted([*popular, rare], key=lambda job: job.at_s))
        begun_s = next(each.begun_s for each in taken if each.job is rare)
        assert begun_s < 2 * OVERTAKING * 5 + 20

    def test_a_job_that_never_ends_does_not_keep_the_others_of_its_model(self) -> None:
        endless = SimulatedJob(at_s=0, models="a", run_s=100_000, expected_s=2)
        behind = SimulatedJob(at_s=1, models="a", run_s=2, expected_s=2)
        taken = Simulation(decide, gpus=2, resident=1, load_s=5).run([endless, behind])
        assert taken[1].taken_s <= 1 + OVERTAKING * 5 + TICK_S


def test_holders_without_a_gpu_are_nobody() -> None:
    decision = decide(Gpu(), [Line(id=1, models="a")], Fleet(holders={"a": Holders(gpus=0)}), now_s=0)
    assert decision is not None
    assert decision.why == "unheld"
