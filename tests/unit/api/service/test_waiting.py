"""Waiting in one process: who is woken, by what, and what happens when notices or the ledger fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator

import pytest

from api.service.waiting import Hub
from core.errors import LedgerUnavailable, NotFound
from core.messaging.notices import Notice
from core.records.job import QUEUED, RUNNING, SUCCEEDED, Job, Status
from core.records.progress import Progress
from tests.makers import job_record


class Jobs:
    """A ledger of jobs that only have a status and an event number."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[Status, int]] = {"a": (QUEUED, 1), "b": (QUEUED, 1)}
        self.is_away = False
        self.queries = 0

    def states(self, job_ids: Collection[str]) -> dict[str, tuple[Status, int]]:
        self.queries += 1
        if self.is_away:
            raise LedgerUnavailable("away")
        return {job_id: self.rows[job_id] for job_id in job_ids if job_id in self.rows}

    def many(self, job_ids: Collection[str]) -> dict[str, Job]:
        return {job_id: self.get(job_id) for job_id in job_ids if job_id in self.rows}

    def get(self, job_id: str) -> Job:
        if self.is_away:
            raise LedgerUnavailable("away")
        if job_id not in self.rows:
            raise NotFound(job_id)
        status, seq = self.rows[job_id]
        return job_record(status, id=job_id, last_seq=seq)


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def hub(jobs: Jobs) -> Iterator[Hub]:
    hub = Hub(jobs.states, jobs.many, poll_s=0.2)
    yield hub
    hub.close()


@pytest.fixture
def slow_hub(jobs: Jobs) -> Iterator[Hub]:
    hub = Hub(jobs.states, jobs.many, poll_s=60.0)
    yield hub
    hub.close()


def wait(hub: Hub, jobs: Jobs, job_id: str = "a", abandoned: bool = False) -> Job | None:
    return hub.until_done(lambda: jobs.get(job_id), jobs.get(job_id), is_abandoned=lambda: abandoned)


def end_soon(hub: Hub, jobs: Jobs, *, notify: bool) -> threading.Timer:
    def end() -> None:
        jobs.rows["a"] = (SUCCEEDED, 5)
        if notify:
            hub.notify(Notice(job_id="a", kind="status", seq=5, status=SUCCEEDED))

    timer = threading.Timer(0.1, end)
    timer.start()
    return timer


def test_a_notice_wakes_at_once(slow_hub: Hub, jobs: Jobs) -> None:
    timer = end_soon(slow_hub, jobs, notify=True)
    began = time.monotonic()

    job = wait(slow_hub, jobs)

    timer.join()
    assert job is not None
    assert job.status == SUCCEEDED
    assert time.monotonic() - began < 30.0, "before the next poll"
    assert slow_hub.waiting == 0, "nobody is left in line"


def test_a_lost_notice_costs_one_poll(hub: Hub, jobs: Jobs) -> None:
    timer = end_soon(hub, jobs, notify=False)

    job = wait(hub, jobs)

    timer.join()
    assert job is not None
    assert job.status == SUCCEEDED


def test_what_happened_before_standing_in_line_is_seen(slow_hub: Hub, jobs: Jobs) -> None:
    before = jobs.get("a")
    jobs.rows["a"] = (SUCCEEDED, 5)

    job = slow_hub.until_done(lambda: jobs.get("a"), before, is_abandoned=lambda: False)

    assert job is not None
    assert job.status == SUCCEEDED


def test_a_ledger_that_is_away_is_waited_for(hub: Hub, jobs: Jobs) -> None:
    before = jobs.get("a")
    jobs.is_away = True

    def return_ended() -> None:
        jobs.rows["a"] = (SUCCEEDED, 5)
        jobs.is_away = False

    timer = threading.Timer(0.5, return_ended)
    timer.start()

    job = hub.until_done(lambda: jobs.get("a"), before, is_abandoned=lambda: False)

    timer.join()
    assert job is not None
    assert job.status == SUCCEEDED


def test_an_abandoned_wait_ends(slow_hub: Hub, jobs: Jobs) -> None:
    assert wait(slow_hub, jobs, abandoned=True) is None
    assert slow_hub.waiting == 0


def test_a_removed_job_ends_the_wait(hub: Hub, jobs: Jobs) -> None:
    before = jobs.get("a")
    timer = threading.Timer(0.1, jobs.rows.pop, args=("a",))
    timer.start()

    with pytest.raises(NotFound):
        hub.until_done(lambda: jobs.get("a"), before, is_abandoned=lambda: False)
    timer.join()


def test_one_query_serves_all_waiters(hub: Hub, jobs: Jobs) -> None:
    with hub.watch("a") as first, hub.watch("a") as second, hub.watch("b") as third:
        jobs.rows["a"] = (RUNNING, 2)
        assert first.wait(30.0)
        assert second.wait(30.0)
        assert (first.seq, second.seq) == (2, 2)
        assert third.wait(30.0), "its first number was news too"
        polls = jobs.queries
        assert not third.wait(0.5), "nothing new"
        assert jobs.queries - polls <= 4


def test_progress_wakes_only_those_who_want_it(slow_hub: Hub) -> None:
    with slow_hub.watch("a", live=True) as live, slow_hub.watch("a") as plain:
        for value in (0.1, 0.2):
            slow_hub.notify(Notice(job_id="a", kind="progress", data={"value": value}))
        slow_hub.notify(Notice(job_id="a", kind="preview", data={"node_id": "1"}))
        slow_hub.notify(Notice(job_id="b", kind="status", seq=9))
        assert live.wait(30.0)
        assert (live.take_progress(), live.take_progress()) == (Progress(value=0.2), None)
        assert live.take_preview() == {"node_id": "1"}
        assert not plain.wait(0.05)


def test_who_stands_in_line_is_told_once_a_second_that_the_queue_has_moved(hub: Hub) -> None:
    looks: list[float] = []

    def look_at() -> bool:
        looks.append(time.monotonic())
        return True

    hub.before_moves(look_at)
    with hub.watch("a", live=True) as waiting, hub.watch("b", live=True) as running:
        assert waiting.wait(5), "the backstop says once what it found"
        assert running.wait(5)
        waiting.is_in_line = True
        for seq in range(50):
            hub.notify(Notice(job_id=f"other-{seq}", kind="status", seq=2, status=RUNNING))
        assert waiting.wait(5)
        assert len(looks) == 1, "one look serves all"
        assert not waiting.wait(0.6), "nothing has moved since, and the backstop's own look is no move"
        hub.notify(Notice(job_id="other", kind="progress", data={}))
        assert not waiting.wait(0.6)
        assert not running.wait(0)
    assert len(looks) == 1


def test_a_move_is_told_when_the_ledger_is_back(hub: Hub) -> None:
    is_away = threading.Event()
    is_away.set()

    def look() -> bool:
        if is_away.is_set():
            raise LedgerUnavailable("away")
        return True

    hub.before_moves(look)
    with hub.watch("a", live=True) as waiting:
        assert waiting.wait(5), "the backstop says once what it found"
        waiting.is_in_line = True
        hub.notify(Notice(job_id="other", kind="status", seq=2, status=RUNNING))
        assert not waiting.wait(0.6)
        is_away.clear()
        assert waiting.wait(5)


def test_a_move_is_told_later_when_another_look_would_be_too_dear(hub: Hub) -> None:
    is_due = threading.Event()
    hub.before_moves(is_due.is_set)
    with hub.watch("a", live=True) as waiting:
        assert waiting.wait(5), "the backstop says once what it found"
        waiting.is_in_line = True
        hub.notify(Notice(job_id="other", kind="status", seq=2, status=RUNNING))
        assert not waiting.wait(0.6)
        is_due.set()
        assert waiting.wait(5)


def test_clients_are_counted_one_by_one_and_jobs_once(slow_hub: Hub) -> None:
    with slow_hub.watch("a"), slow_hub.watch("a"), slow_hub.watch("b"):
        assert (slow_hub.clients, slow_hub.waiting) == (3, 2)

    assert slow_hub.clients == 0
