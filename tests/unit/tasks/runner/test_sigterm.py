"""A block that SIGTERM does not end, and after which the process ends all the same."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import pytest

from tasks.runner.sigterm import IDLE_S, SPARE_S, spared_from_sigterm


@dataclass
class Timer:
    """A timer that never fires; the test reads what it was to do."""

    seconds: float
    function: Any
    args: tuple[int, ...]
    daemon: bool = False
    is_started: bool = False

    def start(self) -> None:
        self.is_started = True


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Timer]:
    made: list[Timer] = []

    def make(seconds: float, function: Any, args: tuple[int, ...]) -> Timer:
        made.append(Timer(seconds, function, args))
        return made[-1]

    monkeypatch.setattr("tasks.runner.sigterm.threading.Timer", make)
    return made


def test_it_waits_for_what_the_main_process_grants(timers: list[Timer]) -> None:
    with spared_from_sigterm(10.0):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert [timer.seconds for timer in timers] == [10.0 + SPARE_S], "once"
    assert [timer.seconds for timer in timers] == [10.0 + SPARE_S, IDLE_S]
    for timer in timers:
        assert (timer.function, timer.args) == (os._exit, (1,))
        assert timer.daemon
        assert timer.is_started


def test_without_a_signal_nothing_ends(timers: list[Timer]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with spared_from_sigterm(10.0):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    assert timers == []


def test_an_error_in_the_block_gives_the_signal_back(timers: list[Timer]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), spared_from_sigterm(10.0):
        raise KeyError
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_times_are_those_of_the_documents() -> None:
    assert (SPARE_S, IDLE_S) == (15.0, 5.0)
