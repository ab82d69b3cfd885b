"""What is told of a file that comes along: how much of it is there, how fast, and what is learned from that."""

from __future__ import annotations

import pytest

from core.records.model_file import ModelCopy, ModelFile
from tasks.models import pace
from tasks.models.pace import Progress

ENTRY = ModelFile(path="checkpoints/x.sft", source="https://a.example/x", sha256="a" * 64)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def test_it_is_told_once_a_second_with_the_speed_of_late(clock: Clock) -> None:
    told: list[ModelCopy] = []
    watch = Progress("here", ENTRY, told.append)
    watch.begin()
    # Slow for ten seconds, then fast.
    done = 0
    for step in range(40):
        done += 10 if step < 20 else 1000
        watch.tell(done, 50_000)
        clock.now_s += 0.5
    first, *others = told
    assert (first.state, first.done_bytes, first.bytes_s, first.size_bytes) == ("fetching", 0, 0.0, None)
    assert len(others) == 20
    slow, fast = others[5], others[-1]
    assert slow.bytes_s == pytest.approx(20.0)
    assert fast.bytes_s == pytest.approx(2000.0)
    assert (fast.done_bytes, fast.size_bytes) == (200 + 19 * 1000, 50_000)


def test_what_an_earlier_fetch_had_left_is_not_learned_from(clock: Clock) -> None:
    watch = Progress("here", ENTRY, lambda _copy: None)
    watch.tell(7_000, 10_000)
    clock.now_s += 2.0
    watch.tell(8_000, 10_000)
    clock.now_s += 4.0
    watch.tell(10_000, 10_000)
    learned: list[tuple[int, float]] = []
    watch.learn(lambda size, seconds: learned.append((size, seconds)))
    assert learned == [(3_000, 6.0)]


def test_a_file_of_which_nothing_was_told_teaches_nothing(clock: Clock) -> None:
    learned: list[tuple[int, float]] = []
    Progress("here", ENTRY, lambda _copy: None).learn(lambda size, seconds: learned.append((size, seconds)))
    assert learned == [(0, 0.0)], "which is too little to be noted"
    assert clock.now_s == 1000.0


def coming(clock: Clock, bytes_s: float, seconds: float, size: int | None = 10**9) -> Progress:
    """A file of which some was there, and that has come for so long at this speed."""
    watch = Progress("here", ENTRY, lambda _copy: None)
    for step in range(int(2 * seconds)):
        clock.now_s += 0.5
        watch.tell(5_000_000 + int(bytes_s * step / 2), size)
    return watch


@pytest.mark.parametrize(
    ("bytes_s", "seconds", "slow"),
    [(0.2, 2, (False, False)), (0.2, 10, (True, False)), (0.2, 40, (True, True)), (50e3, 40, (False, False))],
)
def test_a_source_that_hardly_sends_is_slow_and_at_last_too_slow(
    clock: Clock, bytes_s: float, seconds: float, slow: tuple[bool, bool]
) -> None:
    watch = coming(clock, bytes_s, seconds)
    assert (watch.is_slow, watch.is_too_slow) == slow


def test_a_source_that_says_nothing_is_slow(clock: Clock) -> None:
    watch = Progress("here", ENTRY, lambda _copy: None)
    clock.now_s += 5.0
    assert (watch.is_slow, watch.is_too_slow) == (True, False)
    clock.now_s += 30.0
    assert watch.is_too_slow
    assert watch.came_bytes(30.0) == 0


def test_a_source_that_ends_after_a_good_while_is_too_slow(clock: Clock) -> None:
    watch = coming(clock, 10e6, 60)
    clock.now_s += 31.0
    assert watch.is_too_slow
    assert watch.came_bytes(30.0) == 0


def test_what_is_all_there_is_not_slow_however_long_it_is_hashed(clock: Clock) -> None:
    watch = coming(clock, 0.0, 10, size=5_000_000)
    clock.now_s += 100.0
    assert (watch.is_slow, watch.is_too_slow, watch.is_nearly_there) == (False, False, True)


def test_nine_tenths_are_nearly_all(clock: Clock) -> None:
    assert [coming(clock, 0.0, 1, size).is_nearly_there for size in (5_100_000, 6_000_000, None)] == [
        True,
        False,
        False,
    ]
