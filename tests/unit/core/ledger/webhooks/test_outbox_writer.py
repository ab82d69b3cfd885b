"""What a change of a job puts into the outbox: which events, for whom, how often, and what it makes known."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from core.ledger import Change, Ledger
from core.ledger.claims import Claim
from core.ledger.database.rows import JOB_COLUMNS
from core.ledger.database.tables import deliveries, events, jobs
from core.ledger.webhooks import outbox_writer
from core.ledger.webhooks.outbox_writer import announce, drop_progress, is_wanted, receiver_of, record_event
from core.records.job import QUEUED, RUNNING
from core.records.progress import Progress
from core.records.webhook_events import DEFAULT_EVENTS, EVENTS
from tests.ledger_moves import WEBHOOK, claimed, set_columns, submit
from tests.makers import StoppedClock

TELLS_PROGRESS = replace(WEBHOOK, events=("job.progress",))


@pytest.fixture
def changes(ledger: Ledger) -> list[Change]:
    """What becomes known."""
    found: list[Change] = []
    ledger.database.on_change = found.append
    return found


def job_row(ledger: Ledger, job_id: str) -> Any:
    with ledger.database.read() as connection:
        return connection.execute(select(*JOB_COLUMNS).where(jobs.c.id == job_id)).one()


def tell(ledger: Ledger, job_id: str, event: str = "job.completed", seq: int = 7) -> None:
    row = job_row(ledger, job_id)
    with ledger.database.write() as transaction:
        announce(transaction, row, event, seq=seq)


def posts(ledger: Ledger, job_id: str) -> list[Any]:
    query = select(deliveries).where(deliveries.c.job_id == job_id).order_by(deliveries.c.seq)
    with ledger.database.read() as connection:
        return list(connection.execute(query).all())


def progress(ledger: Ledger, claim: Claim, value: float) -> None:
    ledger.claims.progress(claim, Progress(value=value))


def told(ledger: Ledger, claim: Claim) -> list[float]:
    """How far the job was each time it was told, as its log has it."""
    return [event.data["value"] for event in ledger.jobs.events(claim.job_id) if event.type == "progress"]


class TestAnnounce:
    def test_what_is_to_be_sent(self, ledger: Ledger, clock: StoppedClock) -> None:
        webhook = replace(WEBHOOK, url="https://hooks.example/x", timeout_s=3.0)
        job = submit(ledger, webhook=webhook)
        clock.pass_ms(9)
        tell(ledger, job.id)
        (post,) = posts(ledger, job.id)
        assert (post.contract, post.event, post.seq, post.url) == ("v2", "job.completed", 7, webhook.url)
        assert (post.receiver, post.timeout_s, post.state) == ("https://hooks.example:443", 3.0, "pending")
        assert (post.tries, post.tries_before) == (0, 0)
        assert post.next_try_at_ms == post.created_at_ms == post.updated_at_ms == clock.now_ms
        assert json.loads(post.body)["type"] == "job.completed"

    def test_each_has_an_id_of_its_own(self, ledger: Ledger) -> None:
        job = submit(ledger, webhook=WEBHOOK)
        tell(ledger, job.id)
        tell(ledger, job.id)
        assert len({post.id for post in posts(ledger, job.id)}) == 2

    @pytest.mark.parametrize("event", EVENTS)
    def test_only_what_is_wanted(self, ledger: Ledger, event: str) -> None:
        usual, chosen = submit(ledger, webhook=WEBHOOK), submit(ledger, webhook=TELLS_PROGRESS)
        nobody, nowhere = submit(ledger), submit(ledger, webhook=replace(WEBHOOK, url=""))
        wanted = {usual.id: event in DEFAULT_EVENTS, chosen.id: event == "job.progress"}
        wanted |= {nobody.id: False, nowhere.id: False}
        for job_id in wanted:
            set_columns(ledger, job_id, progress=Progress().to_json())
            tell(ledger, job_id, event)
        assert {job_id: is_wanted(job_row(ledger, job_id), event) for job_id in wanted} == wanted
        assert {job_id: bool(posts(ledger, job_id)) for job_id in wanted} == wanted

    def test_an_io_worker_hears_of_it_while_the_job_goes_on(self, ledger: Ledger, changes: list[Change]) -> None:
        job = submit(ledger, webhook=WEBHOOK)
        changes.clear()
        tell(ledger, job.id)
        assert changes == [Change(job_id=job.id, seq=7, status=QUEUED, is_posted=True)]

    def test_the_end_tells_of_itself(self, ledger: Ledger, changes: list[Change]) -> None:
        job = submit(ledger, webhook=WEBHOOK)
        set_columns(ledger, job.id, status="failed")
        changes.clear()
        tell(ledger, job.id)
        assert changes == []
        assert len(posts(ledger, job.id)) == 1


class TestProgress:
    def test_the_first_is_told_when_there_is_something_to_tell(self, ledger: Ledger) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        progress(ledger, claim, 0.049)
        assert told(ledger, claim) == []
        progress(ledger, claim, 0.05)
        assert told(ledger, claim) == [0.05]
        (post,) = posts(ledger, claim.job_id)
        assert (post.event, post.seq) == ("job.progress", 3)
        (event,) = ledger.jobs.events(claim.job_id, after_seq=2)
        assert (event.seq, event.data) == (3, {"value": 0.05, "attempt": 1})
        assert ledger.jobs.get(claim.job_id).last_seq == 3

    def test_then_once_in_five_seconds(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        progress(ledger, claim, 0.25)
        clock.pass_ms(4_999)
        progress(ledger, claim, 0.5)
        assert told(ledger, claim) == [0.25]
        clock.pass_ms(1)
        progress(ledger, claim, 0.5)
        assert told(ledger, claim) == [0.25, 0.5]

    def test_not_twice_in_one_moment(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        progress(ledger, claim, 0.25)
        progress(ledger, claim, 0.5)
        assert told(ledger, claim) == [0.25]
        assert clock.now_ms

    def test_a_clock_that_was_set_back_silences_nobody(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        progress(ledger, claim, 0.25)
        clock.pass_ms(-1)
        progress(ledger, claim, 0.5)
        assert told(ledger, claim) == [0.25, 0.5]

    def test_a_step_further_than_it_was_last(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        for value in (0.25, 0.5, 0.549, 0.5625, 0.25):
            progress(ledger, claim, value)
            clock.pass_ms(5_000)
        assert told(ledger, claim) == [0.25, 0.5, 0.5625]

    def test_exactly_a_step(self, ledger: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outbox_writer, "PROGRESS_STEP", 0.25)
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        for value in (0.25, 0.5):
            progress(ledger, claim, value)
            clock.pass_ms(5_000)
        assert told(ledger, claim) == [0.25, 0.5]

    def test_another_attempt_begins_at_nothing(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        progress(ledger, claim, 0.9)
        ledger.requeue.release(claim, reason="gone")
        again = ledger.claims.claim("gpu1@here", named=claim.job_id)
        assert again is not None
        for value in (0.049, 0.0625):
            clock.pass_ms(5_000)
            progress(ledger, again, value)
        assert told(ledger, claim) == [0.9, 0.0625]

    def test_an_event_that_says_nothing_is_taken_for_a_beginning(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        progress(ledger, claim, 0.9)
        with ledger.database.write() as transaction:
            its = update(events).where(events.c.type == "progress")
            transaction.connection.execute(its.values(data={"attempt": 1}))
        clock.pass_ms(5_000)
        progress(ledger, claim, 0.0625)
        assert ledger.jobs.get(claim.job_id).last_seq == 4

    def test_a_snapshot_that_says_nothing_is_none(self, ledger: Ledger) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        set_columns(ledger, claim.job_id, progress={})
        row = job_row(ledger, claim.job_id)
        with ledger.database.write() as transaction:
            outbox_writer.announce_progress(transaction, row)
        assert told(ledger, claim) == []

    def test_a_webhook_that_does_not_want_it(self, ledger: Ledger) -> None:
        claim = claimed(ledger, webhook=WEBHOOK)
        progress(ledger, claim, 0.5)
        assert told(ledger, claim) == []
        assert ledger.jobs.get(claim.job_id).last_seq == 2

    def test_it_becomes_known(self, ledger: Ledger, changes: list[Change]) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        changes.clear()
        progress(ledger, claim, 0.5)
        assert changes == [Change(job_id=claim.job_id, seq=3, status=RUNNING, is_posted=True)]

    def test_the_newest_takes_the_place_of_what_was_not_told(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = claimed(ledger, webhook=TELLS_PROGRESS)
        progress(ledger, claim, 0.25)
        clock.pass_ms(5_000)
        progress(ledger, claim, 0.5)
        (post,) = posts(ledger, claim.job_id)
        assert json.loads(post.body)["data"]["progress"]["value"] == 0.5


def test_only_progress_that_was_not_told_is_dropped(ledger: Ledger) -> None:
    job, other = (submit(ledger, webhook=replace(WEBHOOK, events=EVENTS)) for _ in range(2))
    for job_id in (job.id, other.id):
        set_columns(ledger, job_id, progress=Progress().to_json())
        tell(ledger, job_id, "job.progress", seq=1)
        with ledger.database.write() as transaction:
            transaction.connection.execute(update(deliveries).where(deliveries.c.seq == 1).values(next_try_at_ms=None))
        tell(ledger, job_id, "job.progress", seq=2)
        tell(ledger, job_id, "job.completed", seq=3)
    with ledger.database.write() as transaction:
        drop_progress(transaction, job.id)
    assert [post.seq for post in posts(ledger, job.id)] == [1, 3]
    assert [post.seq for post in posts(ledger, other.id)] == [1, 2, 3]


def test_an_event_is_recorded_and_becomes_known(ledger: Ledger, changes: list[Change], clock: StoppedClock) -> None:
    job = submit(ledger)
    changes.clear()
    clock.pass_ms(4)
    with ledger.database.write() as transaction:
        record_event(transaction, job.id, 5, "output", {"a": 1}, RUNNING)
        assert changes == []
    (event,) = ledger.jobs.events(job.id, after_seq=1)
    assert (event.seq, event.type, event.data, event.at_ms) == (5, "output", {"a": 1}, clock.now_ms)
    assert changes == [Change(job_id=job.id, seq=5, status=RUNNING)]


@pytest.mark.parametrize(
    ("url", "receiver"),
    [
        ("https://a.example/x?y", "https://a.example:443"),
        ("http://A.example", "http://a.example:80"),
        ("http://a.example:8080/", "http://a.example:8080"),
        ("http://" + "a" * 300, "http://" + "a" * 248),
    ],
)
def test_a_receiver_is_scheme_host_and_port(url: str, receiver: str) -> None:
    assert receiver_of(url) == receiver
