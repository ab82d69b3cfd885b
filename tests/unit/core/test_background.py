"""Loops: what is unforeseen in a step ends none of them, and each can be asked how it is."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
import time
from collections.abc import Iterator

import pytest

from core import background
from core.background import Life, Loop, failure_of, in_background, lives
from core.errors import ComfyUnavailable, LedgerUnavailable
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_REST_S", 0.01)


@pytest.fixture
def inbox() -> queue.SimpleQueue[str]:
    return queue.SimpleQueue()


@pytest.fixture
def eaten() -> list[str]:
    return []


@pytest.fixture
def eater(inbox: queue.SimpleQueue[str], eaten: list[str]) -> Iterator[Loop]:
    """A loop that consumes a queue and stumbles over everything bad."""

    def eat() -> None:
        item = inbox.get()
        if item == "unforeseen":
            raise AttributeError("'NoneType' object has no attribute 'send'")
        if item == "away":
            raise LedgerUnavailable("The ledger does not answer.")
        if item == "end":
            loop.end()
        eaten.append(item)

    loop = Loop("eater", eat)
    loop.start()
    yield loop
    inbox.put("end")
    loop.join(5)


def put(inbox: queue.SimpleQueue[str], *items: str) -> None:
    for item in items:
        inbox.put(item)


def life_of(name: str) -> Life | None:
    return next((life for life in lives() if life.name == name), None)


def test_a_bad_item_is_logged_whole_and_gone(
    eater: Loop, inbox: queue.SimpleQueue[str], eaten: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    put(inbox, "a", "unforeseen", "b")
    assert eventually(lambda: eaten == ["a", "b"])
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert "no attribute 'send'" in str(record.exc_info[1])


def test_what_is_foreseen_has_one_line(
    eater: Loop, inbox: queue.SimpleQueue[str], eaten: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    put(inbox, "away", "a")
    assert eventually(lambda: eaten == ["a"])
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.getMessage() == "eater: The ledger does not answer."
    assert record.exc_info is None


def test_it_tells_how_it_is(eater: Loop, inbox: queue.SimpleQueue[str], eaten: list[str]) -> None:
    assert life_of("eater") == Life(name="eater", is_alive=True)
    before_s = time.time()
    put(inbox, "unforeseen", "away")
    assert eventually(lambda: eater.life.failures == 2)
    life = life_of("eater")
    assert life is not None
    assert life.is_alive
    assert life.last_error == "LedgerUnavailable"
    assert before_s <= (life.failing_since_s or 0) <= time.time()
    put(inbox, "a")
    assert eventually(lambda: life_of("eater") == Life(name="eater", is_alive=True))


def test_one_that_has_ended_is_not_listed(eater: Loop, inbox: queue.SimpleQueue[str]) -> None:
    put(inbox, "end")
    assert eventually(lambda: not eater.life.is_alive)
    assert life_of("eater") is None
    eater.start()
    assert not eater.life.is_alive, "the end is for good"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_was_ended_from_outside_is_seen_and_begins_again() -> None:
    steps: list[int] = []

    def step() -> None:
        steps.append(1)
        if len(steps) == 1:
            raise SystemExit

    loop = Loop("killed", step, pause_s=0.01)
    loop.start()
    assert eventually(lambda: not loop.life.is_alive)
    life = life_of("killed")
    assert life is not None
    assert not life.is_alive
    loop.start()
    assert eventually(lambda: len(steps) > 2)
    loop.end()


def test_rests_grow_and_a_wake_does_not_cut_them_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_REST_S", 0.1)
    at_s: list[float] = []

    def step() -> None:
        at_s.append(time.monotonic())
        raise AttributeError

    loop = Loop("restless", step, pause_s=None)
    loop.start()
    assert not at_s, "nothing is done before it is woken"

    def has_gone_on() -> bool:
        loop.wake()
        return len(at_s) >= 4

    assert eventually(has_gone_on)
    loop.end()
    gaps = [later - earlier for earlier, later in itertools.pairwise(at_s)]
    assert all(gap >= least for gap, least in zip(gaps, (0.1, 0.2, 0.4), strict=False)), gaps


def test_what_it_was_woken_for_is_tried_again() -> None:
    tries: list[int] = []

    def step() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise AttributeError

    loop = Loop("woken", step, pause_s=None)
    loop.start()
    loop.wake()
    assert eventually(lambda: len(tries) == 3)
    loop.end()


def test_its_end_cuts_pauses_and_rests_short() -> None:
    steps: list[int] = []
    last: list[str] = []

    def finish() -> None:
        last.append(threading.current_thread().name)

    loop = Loop("patient", lambda: steps.append(1), pause_s=60, last=finish)
    loop.start()
    loop.end()
    loop.join(5)
    assert not loop.life.is_alive
    assert not steps
    assert last == ["patient"], "the last deed is the thread's own"


def test_an_errand_is_repeated_until_it_is_done() -> None:
    tries: list[int] = []

    def errand() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ZeroDivisionError

    loop = in_background("errand", errand)
    loop.join(5)
    assert len(tries) == 3
    assert life_of("errand") is None


def test_an_error_that_the_caller_wants_is_passed_on() -> None:
    def away() -> None:
        raise ComfyUnavailable("away")

    with pytest.raises(ComfyUnavailable):
        failure_of(away, "asking", passing=(ComfyUnavailable,))
    assert isinstance(failure_of(away, "asking"), ComfyUnavailable)


def test_it_begins_anew_in_a_forked_child(eater: Loop, inbox: queue.SimpleQueue[str]) -> None:
    steps: list[int] = []
    loop = Loop("forked", lambda: steps.append(1), pause_s=0.01)
    loop.start()
    assert eventually(lambda: bool(steps))
    pid = os.fork()
    if pid == 0:
        # The child has the object, and none of the parent's threads.
        is_clean = not loop.life.is_alive and not lives()
        steps.clear()
        loop.start()
        is_well = eventually(lambda: bool(steps), 5)
        os._exit(0 if is_clean and is_well else 1)
    loop.end()
    assert os.waitpid(pid, 0)[1] == 0
