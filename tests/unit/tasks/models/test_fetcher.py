"""What is told of a file that comes along: how much of it is there, how fast, and what is learned from that."""

from __future__ import annotations

import pytest

from core.records.model_file import ModelCopy, ModelFile
from tasks.models import fetcher
from tasks.models.fetcher import Progress

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
    monkeypatch.setattr(fetcher, "time", made)
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
