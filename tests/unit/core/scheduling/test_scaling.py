"""How many GPUs are needed: laid out by hand, and properties that hold whatever waits."""

from __future__ import annotations

import heapq
import math

from hypothesis import given
from hypothesis import strategies as st

from core.scheduling.gates import Gate, GateKey
from core.scheduling.scaling import Demand, PoolGpu, PoolLine, demands
from tests.unit.core.scheduling.random_fleets import QUICK, eighths

POOL = "a"


def need(lines: list[PoolLine], gpus: list[PoolGpu], *, target_s: float = 30.0, most: int | None = None) -> Demand:
    return demands(lines, gpus, target_s=target_s, most={POOL: most})[POOL]


def line(jobs: int, run_s: float, **fields: object) -> PoolLine:
    return PoolLine(**{"id": 1, "pools": (POOL,), "jobs": jobs, "run_s": run_s, **fields})  # type: ignore[arg-type]


def gpu(name: str = "gpu0@a", **fields: object) -> PoolGpu:
    return PoolGpu(**{"name": name, "pool": POOL, **fields})  # type: ignore[arg-type]


class TestLayout:
    def test_nothing_waits(self) -> None:
        assert need([], [gpu(), gpu("gpu1@a", left_s=5.0)]).needed == 1

    def test_a_gpu_begins_jobs_until_the_target(self) -> None:
        # At 0, 10, 20 and 30 s.
        assert need([line(4, 10.0)], []).needed == 1
        assert need([line(5, 10.0)], []).needed == 2

    def test_one_that_works_takes_on_what_it_can_begin_in_time(self) -> None:
        # At 25 s; the second would be at 35 s.
        assert need([line(1, 10.0)], [gpu(left_s=25.0)]).needed == 1
        assert need([line(2, 10.0)], [gpu(left_s=25.0)]).needed == 2
        assert need([line(1, 10.0)], [gpu(left_s=31.0)]).needed == 2

    def test_short_jobs_need_fewer_gpus_than_as_many_long_ones(self) -> None:
        assert need([line(100, 1.0)], []).needed == 4
        assert need([line(100, 60.0)], []).needed == 100

    def test_one_that_starts_counts_as_there(self) -> None:
        assert need([line(8, 10.0)], [gpu(state="starting"), gpu("gpu1@a", state="starting")]).needed == 2

    def test_one_that_serves_nothing_does_not(self) -> None:
        away = [gpu(state="away"), gpu("gpu1@a", state="leaving", left_s=3.0)]

        assert need([line(4, 10.0)], away).needed == 1

    def test_jobs_go_to_who_holds_their_models(self) -> None:
        lines = [line(4, 10.0, models="x", load_s=20.0)]

        assert need(lines, [gpu(holds=frozenset("x"))]).load_s == 0.0
        # A load takes half of the target at most: two begin in time on each.
        cold = need(lines, [gpu()])
        assert (cold.needed, cold.load_s) == (2, 40.0)

    def test_a_load_longer_than_the_target_does_not_bring_a_gpu_for_each_job(self) -> None:
        assert need([line(16, 1.0, models="x", load_s=300.0)], []).needed == 1

    def test_what_only_some_gpus_can_run_is_not_laid_out_on_others(self) -> None:
        lines = [line(1, 10.0), line(1, 10.0, id=2)]

        assert need(lines, [gpu(can_run=frozenset({2}))]).needed == 2
        assert need(lines, [gpu(can_run=frozenset({1, 2}))]).needed == 1

    def test_beyond_the_most_it_is_said(self) -> None:
        found = need([line(10, 60.0)], [gpu(left_s=1.0)], most=3)

        # One on that which works, two new ones.
        assert (found.needed, found.jobs, found.beyond) == (3, 10, 7)

    def test_what_several_pools_can_run_goes_where_there_is_room(self) -> None:
        flexible = line(3, 60.0, pools=("a", "b"))
        pinned = line(1, 60.0, id=2, pools=("b",))

        found = demands([flexible, pinned], [], target_s=30.0, most={"a": 2, "b": None})

        assert (found["a"].needed, found["b"].needed) == (2, 2)

    def test_idle_gpus_of_another_pool_go_before_new_ones(self) -> None:
        there = PoolGpu(name="gpu0@b", pool="b")

        found = demands([line(1, 60.0, pools=("a", "b"))], [there], target_s=30.0, most={"a": None, "b": None})

        assert (found["a"].needed, found["b"].needed) == (0, 1)

    def test_a_gate_lets_only_so_many_gpus_be_of_use(self) -> None:
        gate = Gate(key=GateKey("tenant", "t"), most=5, running=3)

        found = need([line(100, 60.0, gates=(gate,))], [gpu(f"gpu{n}@a", left_s=50.0) for n in range(3)])

        assert (found.needed, found.jobs, found.gated) == (5, 2, 98)

    def test_two_lines_behind_one_gate_share_it(self) -> None:
        gate = Gate(key=GateKey("tenant", "t"), most=2)

        assert need([line(9, 60.0, gates=(gate,)), line(9, 60.0, id=2, gates=(gate,))], []).needed == 2

    def test_the_time_it_takes_has_a_bound(self) -> None:
        # Each line would look at each GPU, and find that it cannot load in time.
        gpus = [gpu(f"gpu{n}@a", left_s=20.0) for n in range(200)]
        lines = [line(1, 1.0, id=n, models=f"m{n}", load_s=15.0) for n in range(200)]

        found = demands(lines, gpus, target_s=30.0, most={POOL: None}, looks=100)[POOL]

        assert found.jobs == 200
        assert found.needed > 200


@st.composite
def fleets(draw: st.DrawFn, *, alike: bool = False) -> tuple[list[PoolLine], list[PoolGpu], float]:
    """Parameters: alike - all GPUs can run all lines."""
    models = st.sampled_from(["", "x", "y", "z"])
    lines = [
        PoolLine(
            id=number,
            pools=(POOL,),
            jobs=draw(st.integers(1, 40)),
            run_s=draw(eighths(1, 90)),
            load_s=draw(eighths(0, 40)),
            models=draw(models),
            waits_s=draw(eighths(0, 100)),
        )
        for number in range(draw(st.integers(0, 6)))
    ]
    gpus = [
        gpu(
            f"gpu{number}@a",
            state=draw(st.sampled_from(["ready", "ready", "starting", "away", "leaving"])),
            left_s=draw(st.none() | eighths(0, 60)),
            holds=draw(st.frozensets(models.filter(bool))),
            can_run=None if alike else draw(st.none() | st.frozensets(st.integers(0, 5))),
        )
        for number in range(draw(st.integers(0, 12)))
    ]
    return lines, gpus, draw(eighths(1, 120))


def _last_begins_s(lines: list[PoolLine], gpus: int) -> float:
    """When the last job begins on so many idle GPUs that hold everything: each takes the next when it is free."""
    free_s = [0.0] * gpus
    last_s = 0.0
    for each in lines:
        for _ in range(each.jobs):
            last_s = heapq.heappop(free_s)
            heapq.heappush(free_s, last_s + each.run_s)
    return last_s


@QUICK
@given(fleets())
def test_all_that_waits_is_counted_once(drawn: tuple[list[PoolLine], list[PoolGpu], float]) -> None:
    lines, gpus, target_s = drawn

    found = need(lines, gpus, target_s=target_s)

    assert found.jobs == sum(each.jobs for each in lines)
    assert math.isclose(found.run_s, sum(each.jobs * each.run_s for each in lines))
    assert found.beyond == found.gated == 0


@QUICK
@given(fleets())
def test_those_that_work_are_needed_and_never_more_than_one_for_each_job(
    drawn: tuple[list[PoolLine], list[PoolGpu], float],
) -> None:
    lines, gpus, target_s = drawn
    busy = sum(each.serves and each.is_busy for each in gpus)

    needed = need(lines, gpus, target_s=target_s).needed

    assert busy <= needed <= busy + sum(each.jobs for each in lines)


@QUICK
@given(fleets())
def test_so_many_begin_every_job_in_time(drawn: tuple[list[PoolLine], list[PoolGpu], float]) -> None:
    lines, _, target_s = drawn
    warm = [PoolLine(id=each.id, pools=each.pools, jobs=each.jobs, run_s=each.run_s) for each in lines]
    equal = [PoolLine(id=each.id, pools=each.pools, jobs=each.jobs, run_s=7.0) for each in lines]

    # In whatever order they are taken, one may have to wait for another that is just begun in time.
    longest_s = max((each.run_s for each in warm), default=0.0)
    assert _last_begins_s(warm, need(warm, [], target_s=target_s).needed) <= target_s + longest_s
    assert _last_begins_s(equal, need(equal, [], target_s=target_s).needed) <= target_s


@QUICK
@given(fleets(), st.integers(1, 5))
def test_a_limit_is_kept(drawn: tuple[list[PoolLine], list[PoolGpu], float], more: int) -> None:
    lines, gpus, target_s = drawn
    most = sum(each.serves for each in gpus) + more

    assert need(lines, gpus, target_s=target_s, most=most).needed <= most


@QUICK
@given(fleets(alike=True))
def test_what_is_needed_suffices_once_it_is_there(drawn: tuple[list[PoolLine], list[PoolGpu], float]) -> None:
    """No flapping: with the GPUs that were asked for on their way, none more are."""
    lines, gpus, target_s = drawn
    needed = need(lines, gpus, target_s=target_s).needed
    serving = sum(each.serves for each in gpus)
    new = [gpu(f"gpu{number}@new", state="starting") for number in range(max(0, needed - serving))]

    assert need(lines, [*gpus, *new], target_s=target_s).needed <= max(needed, serving)
