"""A fork waits for those who use SQLite, keeps new ones out, and finds no connection open."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast
from weakref import WeakSet

import pytest
from sqlalchemy import Engine

from core.ledger.database import fork_guard
from core.ledger.database.fork_guard import close_at_fork, using_sqlite

#: Something that is to happen happens within this time, and what is not to happen has not within the other.
SOON_S, A_WHILE_S = 5.0, 0.05


class IdleConnections:
    """An engine, as far as a fork is concerned."""

    def __init__(self) -> None:
        self.closed = 0
        #: Whether new users were kept out by then.
        self.was_shut: list[bool] = []

    def dispose(self) -> None:
        self.closed += 1
        self.was_shut.append(fork_guard._gate._forking)


@pytest.fixture(autouse=True)
def gate(monkeypatch: pytest.MonkeyPatch) -> fork_guard._Gate:
    """A gate and engines of the test's own."""
    gate = fork_guard._Gate()
    monkeypatch.setattr(fork_guard, "_gate", gate)
    monkeypatch.setattr(fork_guard, "_engines", WeakSet())
    return gate


@pytest.fixture
def in_thread() -> Iterator[Callable[[Callable[[], Any]], threading.Event]]:
    """Do something in a thread of its own; returns what is set when that is done."""
    threads: list[threading.Thread] = []

    def begin(step: Callable[[], Any]) -> threading.Event:
        done = threading.Event()

        def run() -> None:
            step()
            done.set()

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return done

    yield begin
    for thread in threads:
        thread.join(SOON_S)


def use(gate: fork_guard._Gate) -> None:
    with gate.using():
        pass


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.levelno == logging.WARNING for record in caplog.records)


def test_a_fork_goes_ahead_where_nobody_uses_it(gate: fork_guard._Gate, caplog: pytest.LogCaptureFixture) -> None:
    use(gate)
    gate.close()
    assert warnings(caplog) == 0


def test_it_waits_for_those_inside(gate: fork_guard._Gate, caplog: pytest.LogCaptureFixture, in_thread: Any) -> None:
    is_inside, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with gate.using(), gate.using():
            is_inside.set()
            leave.wait(SOON_S)

    in_thread(stay)
    assert is_inside.wait(SOON_S)
    closed = in_thread(gate.close)
    assert not closed.wait(A_WHILE_S)
    leave.set()
    assert closed.wait(SOON_S), "nobody told it that the last had left"
    assert warnings(caplog) == 0


def test_it_does_not_wait_for_ever(
    gate: fork_guard._Gate, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_guard, "TIMEOUT_S", A_WHILE_S)
    begun_s = time.monotonic()
    with gate.using():
        gate.close()
    assert A_WHILE_S <= time.monotonic() - begun_s < SOON_S
    assert warnings(caplog) == 1


def test_new_ones_are_kept_out_until_it_is_over(gate: fork_guard._Gate, in_thread: Any) -> None:
    gate.close()
    entered = in_thread(lambda: use(gate))
    assert not entered.wait(A_WHILE_S)
    gate.open()
    assert entered.wait(SOON_S)
    assert in_thread(lambda: use(gate)).wait(SOON_S)


def test_one_that_left_is_new_again(gate: fork_guard._Gate, in_thread: Any) -> None:
    shut = threading.Event()

    def twice() -> None:
        use(gate)
        gate.close()
        shut.set()
        use(gate)

    entered = in_thread(twice)
    assert shut.wait(SOON_S)
    assert not entered.wait(A_WHILE_S)
    gate.open()
    assert entered.wait(SOON_S)


def test_who_is_inside_already_goes_on(gate: fork_guard._Gate, monkeypatch: pytest.MonkeyPatch, in_thread: Any) -> None:
    monkeypatch.setattr(fork_guard, "TIMEOUT_S", 0.0)

    def go_on() -> None:
        with gate.using():
            gate.close()
            use(gate)
            use(gate)

    assert in_thread(go_on).wait(SOON_S)


def test_an_error_inside_leaves_it_too(gate: fork_guard._Gate, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError), using_sqlite():
        raise KeyError
    gate.close()
    assert warnings(caplog) == 0


def test_a_fork_finds_no_connection_open_and_the_child_a_gate_of_its_own(gate: fork_guard._Gate) -> None:
    idle = IdleConnections()
    close_at_fork(cast(Engine, idle))
    pid = os.fork()
    if pid == 0:
        os._exit(0 if fork_guard._gate is not gate and not fork_guard._gate._forking else 1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (idle.closed, idle.was_shut) == (1, [True])
    assert fork_guard._gate is gate
    assert not gate._forking
