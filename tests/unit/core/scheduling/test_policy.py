"""The backlog rule, clause by clause."""

from __future__ import annotations

from typing import Any

import pytest

from core.scheduling.lines import NO_MODELS, Decision, Fleet, Gpu, Holders, Line
from core.scheduling.policy import OVERTAKING, decide

NOW_S = 1_000.0
LOAD_S = 10.0
SDXL, FLUX, WAN = "sdxl", "flux", "wan"


def line(models: str = SDXL, *, number: int = 1, age_s: float = 1.0, **other: Any) -> Line:
    return Line(id=number, models=models, since_s=NOW_S - age_s, **{"run_s": 4.0, **other})


def gpu(*holds: str, **other: Any) -> Gpu:
    return Gpu(holds=frozenset(holds), usual_load_s=LOAD_S, **other)


def fleet(*, gpus: int = 8, busy: int = 0, **holders: tuple[int, float]) -> Fleet:
    """A fleet of which so many GPUs hold a model set, and are free in so many seconds, summed."""
    held = {models: Holders(gpus=count, free_s=free_s) for models, (count, free_s) in holders.items()}
    return Fleet(holders=held, gpus=gpus, busy=busy)


def taken(asks: Gpu, *lines: Line, among: Fleet | None = None, **other: Any) -> tuple[int, str] | None:
    """Which line is taken, and why."""
    decision = decide(asks, lines, among or fleet(), now_s=NOW_S, **other)
    return None if decision is None else (decision.line.id, decision.why)


class TestWarm:
    def test_nothing_waits(self) -> None:
        assert taken(gpu(SDXL)) is None

    def test_the_oldest_head_of_those_it_holds(self) -> None:
        young, old = line(SDXL, number=1, age_s=1), line(FLUX, number=2, age_s=2)
        assert taken(gpu(SDXL, FLUX), young, old, among=fleet(sdxl=(1, 0), flux=(1, 0))) == (2, "warm")

    def test_goes_before_an_older_one_that_needs_a_load(self) -> None:
        assert taken(gpu(SDXL), line(FLUX, number=1, age_s=50), line(SDXL, number=2)) == (2, "warm")

    def test_jobs_without_models_run_anywhere(self) -> None:
        assert taken(gpu(), line(NO_MODELS)) == (1, "warm")

    def test_costs_no_load(self) -> None:
        decision = decide(gpu(SDXL), [line(SDXL)], fleet(sdxl=(1, 0)), now_s=NOW_S)
        assert decision == Decision(line=line(SDXL), why="warm", load_s=0.0)


class TestCold:
    def test_one_that_nobody_holds_is_taken(self) -> None:
        decision = decide(gpu(SDXL), [line(FLUX)], fleet(sdxl=(1, 0)), now_s=NOW_S)
        assert decision == Decision(line=line(FLUX), why="unheld", load_s=LOAD_S)

    def test_a_learned_load_counts_instead_of_the_usual_one(self) -> None:
        decision = decide(gpu(load_s={FLUX: 33.0}), [line(FLUX)], fleet(), now_s=NOW_S)
        assert decision is not None
        assert decision.load_s == 33.0

    @pytest.mark.parametrize(("free_s", "expected"), [(6.0, None), (6.1, (1, "relief"))])
    def test_it_rather_idles_while_the_backlog_is_within_a_load(self, free_s: float, expected: Any) -> None:
        assert taken(gpu(), line(FLUX), among=fleet(flux=(1, free_s))) == expected

    @pytest.mark.parametrize(("free_s", "expected"), [(16.0, None), (16.1, (1, "relief"))])
    def test_within_two_when_all_others_work(self, free_s: float, expected: Any) -> None:
        assert taken(gpu(), line(FLUX), among=fleet(gpus=8, busy=8, flux=(1, free_s))) == expected

    @pytest.mark.parametrize(
        ("gpus", "busy", "scarcity"),
        [(0, 0, 1.0), (8, 0, 0.0), (8, 2, 0.25 * 4 / 6), (8, 4, 0.5), (8, 7, 0.875), (8, 9, 1.0), (1000, 900, 0.036)],
    )
    def test_idle_gpus_are_scarce_by_their_share_and_their_number(self, gpus: int, busy: int, scarcity: float) -> None:
        assert Fleet(gpus=gpus, busy=busy).scarcity == pytest.approx(scarcity)

    def test_in_a_large_fleet_a_tenth_that_idles_is_plenty(self) -> None:
        waits = line(FLUX), fleet(gpus=8, busy=7, flux=(1, 8.0)), fleet(gpus=1000, busy=900, flux=(1, 8.0))
        assert taken(gpu(), waits[0], among=waits[1]) is None
        assert taken(gpu(), waits[0], among=waits[2]) == (1, "relief")

    def test_all_that_waits_for_the_models_is_their_backlog(self) -> None:
        both = line(FLUX, number=1), line(FLUX, number=2, waiting=2)
        assert taken(gpu(), both[0], among=fleet(flux=(1, 0))) is None
        assert taken(gpu(), *both, among=fleet(flux=(1, 0))) == (1, "relief")

    def test_those_that_hold_the_models_share_it(self) -> None:
        assert taken(gpu(), line(FLUX, waiting=5), among=fleet(flux=(1, 0))) == (1, "relief")
        assert taken(gpu(), line(FLUX, waiting=5), among=fleet(flux=(2, 0))) is None

    def test_of_several_the_one_that_waited_longest(self) -> None:
        assert taken(gpu(), line(FLUX, number=1, age_s=5), line(WAN, number=2, age_s=6)) == (2, "unheld")

    def test_or_has_the_most_work_for_each_gpu_that_would_hold_it(self) -> None:
        many, few = line(FLUX, number=1, age_s=5, waiting=5), line(WAN, number=2, age_s=6)
        assert taken(gpu(), many, few) == (1, "unheld")
        assert taken(gpu(), many, few, among=fleet(flux=(7, 200))) == (2, "unheld")


class TestLeaving:
    """A warm line waits, and a cold one would have to wait long."""

    SHORT, COLD = line(SDXL, number=1), line(FLUX, number=2)

    def test_where_others_work_the_warm_ones_off(self) -> None:
        assert taken(gpu(SDXL), self.SHORT, self.COLD, among=fleet(sdxl=(2, 5))) == (2, "unheld")

    def test_not_where_nobody_else_holds_them(self) -> None:
        assert taken(gpu(SDXL), self.SHORT, self.COLD, among=fleet(sdxl=(1, 0))) == (1, "warm")

    def test_not_where_the_others_need_too_long(self) -> None:
        assert taken(gpu(SDXL), self.SHORT, self.COLD, among=fleet(sdxl=(2, 8.5))) == (2, "unheld")
        assert taken(gpu(SDXL), self.SHORT, self.COLD, among=fleet(sdxl=(2, 8.6))) == (1, "warm")

    def test_not_where_a_load_pushes_out_what_nobody_else_holds(self) -> None:
        asks = gpu(SDXL, WAN, at_risk=frozenset({WAN}))
        assert taken(asks, self.SHORT, self.COLD, among=fleet(sdxl=(2, 5), wan=(1, 0))) == (1, "warm")
        assert taken(asks, self.SHORT, self.COLD, among=fleet(sdxl=(2, 5), wan=(2, 5))) == (2, "unheld")

    def test_its_own_work_is_not_theirs(self) -> None:
        among = fleet(sdxl=(2, 16))
        assert taken(gpu(SDXL), self.SHORT, self.COLD, among=among) == (1, "warm")
        assert taken(gpu(SDXL, free_s=10.0), self.SHORT, self.COLD, among=among) == (2, "unheld")

    def test_takes_a_backlog_of_one_load_more(self) -> None:
        assert taken(gpu(SDXL), self.SHORT, self.COLD, among=fleet(sdxl=(2, 5), flux=(1, 16))) == (1, "warm")
        assert taken(gpu(SDXL), self.SHORT, self.COLD, among=fleet(sdxl=(2, 5), flux=(1, 17))) == (2, "relief")


class TestOvertaking:
    LONG_S = OVERTAKING * LOAD_S

    def test_a_gpu_leaves_its_models_for_a_head_that_came_long_before(self) -> None:
        warm = line(SDXL, number=1, age_s=1)
        assert taken(gpu(SDXL), warm, line(FLUX, number=2, age_s=self.LONG_S + 1)) == (1, "warm")
        assert taken(gpu(SDXL), warm, line(FLUX, number=2, age_s=self.LONG_S + 2)) == (2, "unheld")

    def test_age_alone_does_not_count(self) -> None:
        warm = line(SDXL, number=1, age_s=900)
        assert taken(gpu(SDXL), warm, line(FLUX, number=2, age_s=901)) == (1, "warm")

    def test_a_line_is_not_left_for_ever_to_others_that_should_have_been_free(self) -> None:
        assert taken(gpu(), line(FLUX, age_s=self.LONG_S), among=fleet(flux=(1, 0))) is None
        assert taken(gpu(), line(FLUX, age_s=self.LONG_S + 1), among=fleet(flux=(1, 0))) == (1, "relief")

    def test_nor_does_it_leave_a_head_that_came_long_before(self) -> None:
        cold = line(FLUX, number=2, age_s=1)
        assert taken(gpu(SDXL), line(SDXL, age_s=self.LONG_S + 1), cold, among=fleet(sdxl=(2, 5))) == (2, "unheld")
        assert taken(gpu(SDXL), line(SDXL, age_s=self.LONG_S + 2), cold, among=fleet(sdxl=(2, 5))) == (1, "warm")

    def test_it_goes_before_more_work_that_came_later(self) -> None:
        many = line(SDXL, number=1, age_s=1, waiting=1_000)
        assert taken(gpu(), many, line(FLUX, number=2, age_s=self.LONG_S + 1)) == (1, "unheld")
        assert taken(gpu(), many, line(FLUX, number=2, age_s=self.LONG_S + 2)) == (2, "unheld")


class TestLevels:
    def test_the_higher_one_goes_first_though_it_needs_a_load(self) -> None:
        assert taken(gpu(SDXL), line(SDXL, number=1), line(FLUX, number=2, priority=1)) == (2, "unheld")

    def test_the_lower_one_has_what_the_higher_one_leaves(self) -> None:
        lines = line(SDXL, number=1), line(FLUX, number=2, priority=1)
        assert taken(gpu(SDXL), *lines, among=fleet(flux=(1, 0))) == (1, "warm")

    def test_the_work_of_higher_ones_is_done_before(self) -> None:
        low = line(FLUX, number=1, priority=-1)
        high = line(FLUX, number=2, priority=1, waiting=2, run_s=4.5)
        assert taken(gpu(), low, among=fleet(flux=(1, 0))) is None
        assert taken(gpu(), low, high, among=fleet(flux=(1, 0))) == (1, "relief")

    def test_the_work_of_lower_ones_is_not(self) -> None:
        lines = line(FLUX, number=1, priority=1), line(FLUX, number=2, waiting=2)
        assert taken(gpu(), lines[0], among=fleet(flux=(1, 0))) is None
        assert taken(gpu(), *lines, among=fleet(flux=(1, 0))) == (2, "relief")


class TestTenants:
    LINES = line(SDXL, number=1, tenant="a", age_s=9), line(SDXL, number=2, tenant="b")

    def taken(self, *lines: Line, among: Fleet | None = None, **used_s: float) -> tuple[int, str] | None:
        return taken(gpu(SDXL), *(lines or self.LINES), among=among or fleet(sdxl=(1, 0)), used_s=used_s)

    def test_the_one_that_used_less_has_its_turn(self) -> None:
        assert self.taken(a=100) == (2, "warm")

    def test_within_a_quantum_the_oldest_goes_first(self) -> None:
        assert self.taken(a=4) == (1, "warm")
        assert self.taken(a=4.1) == (2, "warm")

    def test_a_load_is_a_quantum_too(self) -> None:
        cold = line(FLUX, number=2, tenant="b")
        assert self.taken(self.LINES[0], cold, a=LOAD_S) == (1, "warm")
        assert self.taken(self.LINES[0], cold, a=LOAD_S + 1) == (2, "unheld")

    def test_others_have_what_it_leaves(self) -> None:
        cold = line(FLUX, number=2, tenant="b")
        assert self.taken(self.LINES[0], cold, among=fleet(flux=(1, 0)), a=100) == (1, "warm")

    def test_those_that_hold_its_models_do_its_work_before_that_of_others(self) -> None:
        crowd = line(FLUX, number=1, tenant="a", waiting=1_000)
        mine = line(FLUX, number=2, tenant="b")
        assert taken(gpu(), crowd, mine, among=fleet(flux=(1, 0)), used_s={"a": 100}) == (1, "relief")

    def test_a_level_goes_before_a_turn(self) -> None:
        assert self.taken(line(SDXL, number=1, tenant="a", priority=1), self.LINES[1], a=100) == (1, "warm")

    def test_unless_they_are_not_told_apart(self) -> None:
        assert taken(gpu(SDXL), *self.LINES, among=fleet(sdxl=(1, 0)), used_s=None) == (1, "warm")


class TestDeadlines:
    def test_one_that_would_pass_goes_first(self) -> None:
        old = line(SDXL, number=1, age_s=50)
        near = line(SDXL, number=2, start_by_s=NOW_S + 3)
        decision = decide(gpu(SDXL), [old, near], fleet(sdxl=(1, 0)), now_s=NOW_S)
        assert decision == Decision(line=near, why="deadline", takes_nearest_deadline=True)

    def test_one_that_is_far_away_does_not(self) -> None:
        assert taken(gpu(SDXL), line(SDXL, number=1, age_s=50), line(SDXL, number=2, start_by_s=NOW_S + 99)) == (
            1,
            "warm",
        )

    def test_the_nearest_of_several(self) -> None:
        lines = line(SDXL, number=1, start_by_s=NOW_S + 3), line(SDXL, number=2, start_by_s=NOW_S + 2)
        assert taken(gpu(SDXL), *lines) == (2, "deadline")

    def test_a_load_is_reckoned_in(self) -> None:
        warm, cold = line(SDXL, number=1, age_s=50), line(FLUX, number=2, start_by_s=NOW_S + 14)
        assert taken(gpu(SDXL), warm, cold) == (2, "deadline")
        assert taken(gpu(SDXL, load_s={FLUX: 5.0}), warm, cold) == (1, "warm")

    def test_so_is_the_time_until_those_that_hold_its_models_are_free(self) -> None:
        old, near = line(SDXL, number=1, age_s=50), line(FLUX, number=2, start_by_s=NOW_S + 20)
        asks = gpu(SDXL, FLUX)
        assert taken(asks, old, near, among=fleet(flux=(2, 31))) == (1, "warm")
        assert taken(asks, old, near, among=fleet(flux=(2, 32))) == (2, "deadline")

    def test_the_job_itself_is_taken_and_not_the_head(self) -> None:
        near = line(FLUX, start_by_s=NOW_S + 13)
        decision = decide(gpu(), [near], fleet(), now_s=NOW_S)
        assert decision == Decision(line=near, why="deadline", takes_nearest_deadline=True, load_s=LOAD_S)

    def test_inside_a_line_the_job_that_would_miss_its_own_otherwise(self) -> None:
        def takes_it(start_by_s: float) -> bool:
            waits = line(SDXL, waiting=10, start_by_s=NOW_S + start_by_s)
            decision = decide(gpu(SDXL), [waits], fleet(sdxl=(1, 0)), now_s=NOW_S)
            assert decision is not None
            assert decision.why == "warm"
            return decision.takes_nearest_deadline

        assert takes_it(40)
        assert not takes_it(41)

    def test_one_that_has_passed_is_none(self) -> None:
        old, late = line(SDXL, number=1, age_s=50), line(SDXL, number=2, start_by_s=NOW_S - 0.001)
        assert taken(gpu(SDXL), old, late) == (1, "warm")

    @pytest.mark.parametrize("models", [SDXL, FLUX])
    def test_where_they_never_end_a_head_that_waits_for_long_takes_turns_with_them(self, models: str) -> None:
        """Half of the moments are its own, by its age in milliseconds."""

        def takes_head(age_s: float) -> bool:
            old = line(models, number=1, age_s=age_s)
            near = line(SDXL, number=2, start_by_s=NOW_S + 3)
            return taken(gpu(SDXL), old, near, among=fleet(sdxl=(1, 0))) != (2, "deadline")

        long_s = OVERTAKING * LOAD_S
        assert [takes_head(long_s - each / 1000) for each in range(4)] == [False] * 4
        assert [takes_head(long_s + each / 1000) for each in range(1, 5)] == [False, True, False, True]

    def test_so_does_the_head_of_their_own_line(self) -> None:
        def takes_nearest(age_s: float) -> bool:
            decision = decide(gpu(SDXL), [line(SDXL, age_s=age_s, start_by_s=NOW_S + 3)], fleet(), now_s=NOW_S)
            assert decision is not None
            return decision.takes_nearest_deadline

        long_s = OVERTAKING * LOAD_S
        assert [takes_nearest(long_s + each / 1000) for each in range(1, 5)] == [True, False, True, False]

    def test_a_lower_level_does_not_go_first_for_one(self) -> None:
        lines = line(SDXL, number=1, priority=1), line(SDXL, number=2, start_by_s=NOW_S)
        assert taken(gpu(SDXL), *lines) == (1, "warm")
