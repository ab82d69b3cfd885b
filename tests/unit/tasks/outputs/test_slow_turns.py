"""Turns that take long while the storage is away, or is there."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from core.storage.marker import StorageMarker
from tasks.outputs import slow_turns
from tasks.outputs.slow_turns import SlowTurns
from tests.makers import BrokerlessRuntime
from tests.waiting import until


@pytest.fixture
def slow(runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowTurns]:
    monkeypatch.setattr(slow_turns, "SUSPECT_S", 0.1)
    monkeypatch.setattr(slow_turns, "LOOK_S", 0.02)
    assert runtime.storage.problem() is None
    slow = SlowTurns(runtime.storage)
    yield slow
    slow.close()


def go_away(storage: StorageMarker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_what_is_wrong", lambda: "It is not mounted.")


def test_the_jobs_of_all_that_wait_are_told_once(
    runtime: BrokerlessRuntime, slow: SlowTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with slow.watched(lambda: told.append("a")), slow.watched(lambda: told.append("b")):
        go_away(runtime.storage, monkeypatch)
        until(lambda: len(told) == 2, what="the words")
        assert not threading.Event().wait(0.3)
    assert sorted(told) == ["a", "b"]


def test_a_storage_that_is_only_slow_is_not_blamed(runtime: BrokerlessRuntime, slow: SlowTurns) -> None:
    told: list[str] = []
    with slow.watched(lambda: told.append("a")):
        assert not threading.Event().wait(0.4)
    assert told == []


def test_turns_that_end_soon_ask_nothing(
    runtime: BrokerlessRuntime, slow: SlowTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(runtime.storage, "problem", lambda **given: asked.append(given["within_s"]))
    for _ in range(5):
        with slow.watched(lambda: None):
            pass
    assert not threading.Event().wait(0.3)
    assert asked == []
