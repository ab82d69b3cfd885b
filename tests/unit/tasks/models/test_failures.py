"""When a model file that could not be fetched is tried again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.errors import ModelRefused, ModelUnavailable
from core.records.model_file import ModelFile
from tasks.models import failures
from tasks.models.failures import FIRST_PAUSE_S, LONGEST_PAUSE_S, ROOM_PAUSE_S, Failures

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
    monkeypatch.setattr(failures, "time", made)
    return made


def rests_s(known: Failures, clock: Clock, *errors: ModelUnavailable | ModelRefused) -> list[float]:
    return [known.add(ENTRY, error).not_before_s - clock.now_s for error in errors]


def never(_size_bytes: int) -> bool:
    """Whether there is room."""
    return False


def test_each_pause_is_twice_as_long(clock: Clock) -> None:
    passing = rests_s(Failures("here"), clock, *[ModelUnavailable("no")] * 8)
    assert passing == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert rests_s(Failures("here"), clock, ModelRefused("no"), ModelRefused("no")) == [20.0, 40.0]


def test_a_source_is_asked_again_when_it_says_within_limits(clock: Clock) -> None:
    asked = [ModelUnavailable("busy", asked_pause_s=seconds) for seconds in (7.0, 0.0, 10**6)]
    assert rests_s(Failures("here"), clock, *asked) == [7.0, FIRST_PAUSE_S, LONGEST_PAUSE_S]


def test_it_is_due_when_its_pause_is_over_or_its_entry_was_mended(clock: Clock) -> None:
    known = Failures("here")
    assert known.is_due(ENTRY, never)
    failure = known.add(ENTRY, ModelUnavailable("no"))
    assert (failure.copy.state, failure.copy.error, failure.copy.host) == ("failed", "no", "here")
    assert not known.is_due(ENTRY, never)
    assert known.is_due(replace(ENTRY, source="https://b.example/x"), never)
    clock.now_s += FIRST_PAUSE_S
    assert known.is_due(ENTRY, never)


def test_it_is_due_when_its_token_was_entered_anew(clock: Clock) -> None:
    entry = replace(ENTRY, token="hub")
    known = Failures("here")
    known.know_tokens({"hub": 1, "other": 1})
    known.add(entry, ModelRefused("it asks for another token"))
    known.know_tokens({"hub": 1, "other": 2})
    assert not known.is_due(entry, never)
    known.know_tokens({"hub": 2, "other": 2})
    assert known.is_due(entry, never)
    assert clock.now_s == 1000.0


def test_what_lacked_nothing_but_room_is_due_when_there_is_some(clock: Clock) -> None:
    known, asked = Failures("here"), list[int]()

    def has_room(size_bytes: int) -> bool:
        asked.append(size_bytes)
        return len(asked) > 1

    known.add(ENTRY, ModelUnavailable("no room", lacks_room_bytes=7))
    assert known.hopeless() == set()
    assert not known.is_due(ENTRY, has_room)
    assert asked == [], "it has failed in this moment"
    clock.now_s += ROOM_PAUSE_S
    assert [known.is_due(ENTRY, has_room) for _ in range(2)] == [False, True]
    assert asked == [7, 7]
    known.add(ENTRY, ModelUnavailable("its source is away"))
    assert known.hopeless() == {ENTRY.name}
    clock.now_s += ROOM_PAUSE_S
    assert not known.is_due(ENTRY, lambda _size_bytes: True)
