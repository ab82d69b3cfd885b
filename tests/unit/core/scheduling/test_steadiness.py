"""What a pool wants: up at once, down after the idle window, never up and down again for the same need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core.scheduling.scaling import Demand
from core.scheduling.steadiness import PARTS, History, PoolLimits, Wanted, remembered, wanted
from tests.unit.core.scheduling.random_fleets import QUICK

WINDOW_S = 60.0
LOOK_S = 5.0


def want(needed: int, history: History | None, *, here: int, now_s: float, **limits: int) -> Wanted:
    return wanted(
        Demand(jobs=needed, needed=needed),
        history,
        here=here,
        limits=PoolLimits(**limits),
        target_s=30.0,
        now_s=now_s,
        window_s=WINDOW_S,
    )


def watched(needs: list[int], *, start_s: float = 1_000.0) -> tuple[History | None, float]:
    """A pool that was looked at every five seconds; returns its history, and the time of the last look."""
    history, now_s = None, start_s
    for needed in needs:
        now_s += LOOK_S
        history = remembered(history, needed, now_s=now_s, window_s=WINDOW_S)
    return history, now_s


class TestWanted:
    def test_up_at_once(self) -> None:
        history, now_s = watched([0] * 20)

        assert want(7, history, here=0, now_s=now_s).gpus == 7

    def test_down_when_the_window_has_passed(self) -> None:
        history, now_s = watched([7] * 20)

        for number in range(40):
            now_s += LOOK_S
            history = remembered(history, 1, now_s=now_s, window_s=WINDOW_S)
            found = want(1, history, here=7, now_s=now_s)
            assert found.gpus == (7 if (number + 1) * LOOK_S < WINDOW_S else found.gpus)
        assert found.gpus == 1
        assert found.reason == "1 job waits, 0 s of work. With 1 GPU all of them begin within 30 s, starts aside."

    def test_a_peak_between_others_is_kept(self) -> None:
        history, now_s = watched([1] * 20 + [5] + [1] * 6)

        found = want(1, history, here=5, now_s=now_s)

        assert found.gpus == 5
        assert "1 GPU would do now, but 5 were needed within the last 60 s." in found.reason

    def test_nothing_is_given_up_that_nobody_has_watched(self) -> None:
        assert want(1, None, here=9, now_s=5_000.0).gpus == 9
        short, now_s = watched([1] * 5)
        assert want(1, short, here=9, now_s=now_s).gpus == 9
        stale, now_s = watched([1] * 30)
        found = want(1, stale, here=9, now_s=now_s + 31.0)
        assert found.gpus == 9
        assert "is not known yet" in found.reason

    def test_a_clock_that_was_set_back_begins_anew(self) -> None:
        history, now_s = watched([3] * 30)

        anew = remembered(history, 1, now_s=now_s - 3_600, window_s=WINDOW_S)

        assert anew.since_s == now_s - 3_600
        assert want(1, anew, here=3, now_s=now_s - 3_600).gpus == 3

    def test_limits_go_before_all(self) -> None:
        history, now_s = watched([0] * 30)

        assert want(0, history, here=0, now_s=now_s, least=2).gpus == 2
        assert want(50, history, here=0, now_s=now_s, most=8).gpus == 8
        assert "no more than 8" in want(50, history, here=0, now_s=now_s, most=8).reason
        # Also where there are more than allowed, watched or not.
        assert want(0, None, here=12, now_s=now_s, most=8).gpus == 8

    def test_it_is_kept_as_text(self) -> None:
        history, _ = watched([1, 5, 2])

        assert history is not None
        assert History.from_json(history.to_json()) == history


@QUICK
@given(st.lists(st.integers(0, 50), min_size=1, max_size=120))
def test_it_is_the_highest_need_of_the_window_and_of_not_much_more(needs: list[int]) -> None:
    history, now_s = watched(needs)
    here = 60 if len(needs) * LOOK_S <= WINDOW_S else 0

    found = want(needs[-1], history, here=here, now_s=now_s).gpus

    looks = int(WINDOW_S / LOOK_S)
    assert found >= max(needs[-looks:])
    if here:
        assert found == here
    else:
        assert found <= max(needs[-looks - 3 :])


@QUICK
@given(st.lists(st.integers(0, 50), min_size=1, max_size=200))
def test_what_is_remembered_has_a_bound(needs: list[int]) -> None:
    history, _ = watched(needs)

    assert history is not None
    assert len(history.peaks) <= PARTS + 1


@QUICK
@given(st.lists(st.integers(0, 20), min_size=30, max_size=120))
def test_whoever_follows_it_never_stops_a_gpu_that_was_needed_within_the_window(needs: list[int]) -> None:
    """A host is started and stopped as wanted; what is stopped was not needed for a window."""
    history, now_s, here, seen = None, 1_000.0, 0, []
    for needed in needs:
        now_s += LOOK_S
        seen.append(needed)
        history = remembered(history, needed, now_s=now_s, window_s=WINDOW_S)
        gpus = want(needed, history, here=here, now_s=now_s).gpus
        if gpus < here:
            assert max(seen[-int(WINDOW_S / LOOK_S) :]) <= gpus
        here = gpus
        assert here >= needed
