"""Places for uploads: a share for each endpoint, less for those that have not answered, none for those that fail."""

from __future__ import annotations

import contextlib
import threading

import pytest

from core.errors import UploadFailed
from tasks.outputs import endpoints
from tasks.outputs.endpoints import BREAK_AFTER, FIRST_BREAK_S, ROOM, SHARE, UNPROVEN_ROOM, EndpointRests, Endpoints


class Clock:
    """A clock that a test sets."""

    now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(endpoints, "time", clock)
    monkeypatch.setattr(endpoints, "WAIT_S", 0.0)
    return clock


def use(places: Endpoints, name: str, *, is_well: bool | None) -> bool:
    """One upload from beginning to end; returns whether its endpoint was unproven."""
    with places.passage(name) as passage:
        passage.is_well = is_well
        return passage.is_unproven


def fill(places: Endpoints, stack: contextlib.ExitStack, name: str) -> int:
    """Begin as many uploads to an endpoint as it may have."""
    for number in range(ROOM + 1):
        try:
            stack.enter_context(places.passage(name))
        except (EndpointRests, UploadFailed):
            return number
    raise AssertionError("no limit")


@pytest.mark.usefixtures("clock")
def test_an_endpoint_that_has_not_answered_gets_one_upload_and_then_its_share() -> None:
    places = Endpoints()
    with contextlib.ExitStack() as stack:
        passage = stack.enter_context(places.passage("http://new"))
        assert passage.is_unproven
        with pytest.raises(EndpointRests, match="enough other uploads to the bucket's endpoint"):
            use(places, "http://new", is_well=True)

        passage.answered()

        assert fill(places, stack, "http://new") == SHARE - 1
    assert use(places, "http://new", is_well=True), "it has taken no file yet"
    assert not use(places, "http://new", is_well=True)


@pytest.mark.usefixtures("clock")
def test_however_many_endpoints_hang_those_that_answer_find_room() -> None:
    places = Endpoints()
    assert use(places, "http://good", is_well=True)
    with contextlib.ExitStack() as stack:
        for number in range(UNPROVEN_ROOM):
            assert fill(places, stack, f"http://hole{number}") == 1
        with pytest.raises(UploadFailed, match="enough other uploads are under way"):
            use(places, "http://hole", is_well=None)

        assert fill(places, stack, "http://good") == ROOM - UNPROVEN_ROOM


@pytest.mark.usefixtures("clock")
def test_endpoints_that_answer_and_take_nothing_leave_room() -> None:
    places = Endpoints()
    assert use(places, "http://good", is_well=True)
    with contextlib.ExitStack() as stack:
        for number in range(UNPROVEN_ROOM):
            stack.enter_context(places.passage(f"http://hole{number}")).answered()
        with pytest.raises(UploadFailed, match="enough other uploads are under way"):
            use(places, "http://hole", is_well=None)

        assert fill(places, stack, "http://good") == ROOM - UNPROVEN_ROOM


def test_one_that_never_answered_is_left_alone_at_once_and_for_longer_each_time(clock: Clock) -> None:
    places = Endpoints()
    for break_s in (FIRST_BREAK_S, 2 * FIRST_BREAK_S, 4 * FIRST_BREAK_S):
        use(places, "http://hole", is_well=False)
        clock.now_s += break_s - 1
        with pytest.raises(EndpointRests, match="left alone"):
            use(places, "http://hole", is_well=None)
        clock.now_s += 2
    assert use(places, "http://hole", is_well=True)
    assert not use(places, "http://hole", is_well=True)


@pytest.mark.usefixtures("clock")
def test_one_that_used_to_answer_may_fail_a_few_times() -> None:
    places = Endpoints()
    use(places, "http://good", is_well=True)
    for _ in range(BREAK_AFTER):
        use(places, "http://good", is_well=False)

    with pytest.raises(EndpointRests):
        use(places, "http://good", is_well=None)


@pytest.mark.usefixtures("clock")
def test_what_says_nothing_of_the_endpoint_changes_nothing() -> None:
    places = Endpoints()
    for _ in range(3 * BREAK_AFTER):
        assert use(places, "http://new", is_well=None)


@pytest.mark.usefixtures("clock")
def test_endpoints_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "REMEMBERED", 10)
    places = Endpoints()
    for number in range(100):
        use(places, f"http://{number}", is_well=True)

    assert use(places, "http://0", is_well=True), "it is new again"


def test_whoever_waits_goes_on_as_soon_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "WAIT_S", 30.0)
    places = Endpoints()
    done = threading.Event()

    def wait() -> None:
        use(places, "http://new", is_well=True)
        done.set()

    with places.passage("http://new") as passage:
        thread = threading.Thread(target=wait)
        thread.start()
        assert not done.wait(0.05)
        passage.answered()
        assert done.wait(10)
    thread.join(10)
