"""The outbox on each kind of database: what enters it with a change of a job, who sends it, and what follows."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from core.contracts.comfy_v2_events import MAX_BODY_BYTES
from core.errors import NotFound
from core.ledger import Change, Ledger
from core.ledger.claims import Claim
from core.ledger.database.tables import deliveries, delivery_attempts
from core.ledger.webhooks import outbox_writer as announce
from core.ledger.webhooks.outbox import Post, TryResult
from core.records.job import CANCELED, EXPIRED, FAILED, SUCCEEDED
from core.records.output import BucketResult
from core.records.progress import Progress
from core.records.webhook_events import EVENTS
from core.settings import Settings
from tests.ledger_moves import (
    ERROR,
    WEBHOOK,
    check_log,
    claimed,
    generated,
    in_parallel,
    lapse,
    set_columns,
    stored,
    submit,
    succeeded,
)

ALL = replace(WEBHOOK, events=EVENTS)
ARRIVED = TryResult(at_ms=5, duration_ms=7, status_code=204)
BROKEN = TryResult(at_ms=5, duration_ms=7, status_code=500, error="answered 500")
GONE = TryResult(at_ms=5, duration_ms=7, status_code=410, error="answered 410", is_final=True)


def events_of(ledger: Ledger, job_id: str) -> list[str]:
    """What a job's webhook is told, in the order of the numbers."""
    return [found.event for found in sorted(ledger.deliveries.page(job_id=job_id), key=lambda found: found.seq)]


def body_of(ledger: Ledger, delivery_id: str) -> Any:
    with ledger.database.read() as connection:
        text = connection.execute(select(deliveries.c.body).where(deliveries.c.id == delivery_id)).scalar_one()
    return json.loads(text)


def take(ledger: Ledger, job_id: str) -> list[Post]:
    """Begin a try at all that a job has due."""
    return ledger.outbox.take([found.id for found in ledger.outbox.due(job_ids=[job_id])])


def make_due(ledger: Ledger) -> None:
    """As if all pauses, and all holds, had passed."""
    with ledger.database.write() as transaction:
        is_open = deliveries.c.next_try_at_ms.is_not(None)
        transaction.connection.execute(update(deliveries).where(is_open).values(next_try_at_ms=1))


def end_in(ledger: Ledger, end: str, **fields: Any) -> str:
    """A job that came to this end."""
    if end == SUCCEEDED:
        return succeeded(ledger, files=2, **fields).job_id
    if end == FAILED:
        claim = claimed(ledger, **fields)
        ledger.claims.fail(claim, ERROR)
        return claim.job_id
    job_id = submit(ledger, **fields).id
    if end == CANCELED:
        return ledger.jobs.cancel(job_id).id
    set_columns(ledger, job_id, created_at_ms=1)
    assert ledger.requeue.expire_waiting(timeout_s=60) == [job_id]
    return job_id


@pytest.mark.parametrize(
    ("end", "event"),
    [
        (SUCCEEDED, "job.completed"),
        (FAILED, "job.failed"),
        (CANCELED, "job.canceled"),
        (EXPIRED, "job.expired"),
    ],
)
@pytest.mark.parametrize("contract", ["generate", "v2"])
def test_each_end_is_told_once(end: str, event: str, contract: str, ledger: Ledger) -> None:
    job_id = end_in(ledger, end, contract=contract, webhook=WEBHOOK)

    (post,) = take(ledger, job_id)

    assert (post.event, post.contract, post.url, post.receiver) == (
        event,
        contract,
        WEBHOOK.url,
        "http://hooks.example:80",
    )
    assert (post.timeout_s, post.tries, post.webhook) == (5.0, 1, WEBHOOK)
    assert post.seq == ledger.jobs.get(job_id).last_seq
    body = json.loads(post.body)
    outputs = body["output"] if contract == "generate" else body["data"]["outputs"]
    assert len(outputs) == (2 if end == SUCCEEDED else 0)
    if contract == "generate":
        assert (body["id"], body["extra"]) == (job_id, {"user": 7})
    else:
        assert (body["type"], body["data"]["id"], body["data"]["sequence"]) == (event, job_id, post.seq)


def test_what_the_reconciler_ends_is_told_too(ledger: Ledger) -> None:
    claim = claimed(ledger, webhook=WEBHOOK)
    set_columns(ledger, claim.job_id, lost_attempts=2)
    lapse(ledger, claim.job_id)

    assert ledger.requeue.take_back_lapsed() == {claim.job_id: FAILED}

    (found,) = ledger.deliveries.page(job_id=claim.job_id)
    assert found.event == "job.failed"
    assert "Given up after 3" in body_of(ledger, found.id)["data"]["error"]["message"]


def test_only_what_is_wanted_is_told(ledger: Ledger) -> None:
    assert events_of(ledger, succeeded(ledger).job_id) == []
    some = replace(WEBHOOK, events=("job.started", "job.failed"))
    assert events_of(ledger, succeeded(ledger, webhook=some).job_id) == ["job.started"]


def test_the_start_is_told_once_whatever_becomes_of_the_attempt(ledger_settings: Settings) -> None:
    changes: list[Change] = []
    ledger = Ledger(ledger_settings, on_change=changes.append)
    claim = claimed(ledger, webhook=ALL)
    assert [change.is_posted for change in changes] == [False, True], "nobody else would have it sent"
    ledger.requeue.release(claim, reason="lost")
    assert ledger.claims.claim("gpu1@here", named=claim.job_id) is not None

    (found,) = ledger.deliveries.page(job_id=claim.job_id)
    ledger.close()

    assert (found.event, found.seq) == ("job.started", 2)


def progress(ledger: Ledger, claim: Claim, value: float) -> None:
    ledger.claims.progress(claim, Progress(value=value, nodes_total=1))


def test_progress_is_told_now_and_then_the_newest_alone_and_not_after_the_end(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = claimed(ledger, webhook=replace(WEBHOOK, events=("job.progress", "job.completed")))
    for value in (0.01, 0.2, 0.9):
        progress(ledger, claim, value)
    (first,) = ledger.deliveries.page(job_id=claim.job_id)
    assert body_of(ledger, first.id)["data"]["progress"]["value"] == 0.2, "the first, and 5 s have not passed"

    monkeypatch.setattr(announce, "PROGRESS_EVERY_MS", 0)
    progress(ledger, claim, 0.22)
    progress(ledger, claim, 0.3)
    (newest,) = ledger.deliveries.page(job_id=claim.job_id)
    assert body_of(ledger, newest.id)["data"]["progress"]["value"] == 0.3
    assert newest.seq > first.seq

    ledger.claims.generated(claim, [], outputs_reused=False)
    ledger.outputs.succeed(claim.job_id, claim.attempt, [])
    assert events_of(ledger, claim.job_id) == ["job.completed"]
    check_log(ledger, claim.job_id)


def test_progress_that_did_not_arrive_is_not_tried_again(ledger: Ledger) -> None:
    claim = claimed(ledger, webhook=replace(WEBHOOK, events=("job.progress",)))
    progress(ledger, claim, 0.5)
    (post,) = take(ledger, claim.job_id)
    ledger.outbox.record([(post, BROKEN)])
    assert ledger.deliveries.page(job_id=claim.job_id) == []


def test_a_job_whose_webhook_does_not_want_progress_has_no_such_events(ledger: Ledger) -> None:
    claim = claimed(ledger, webhook=WEBHOOK)
    progress(ledger, claim, 0.5)
    assert [event.type for event in ledger.jobs.events(claim.job_id)] == ["status", "status"]


def test_files_that_are_not_in_the_bucket_are_told_beside_the_end(ledger: Ledger) -> None:
    claim = generated(ledger, files=3, webhook=ALL)
    files = [stored(file) for file in ledger.outputs.pending(claim.job_id, claim.attempt).files]
    files[1] = replace(files[1], bucket_result=BucketResult(error="no such bucket"))
    job = ledger.outputs.succeed(claim.job_id, claim.attempt, files)

    assert events_of(ledger, job.id) == ["job.started", "job.delivery_failed", "job.completed"]
    log = {event.seq: event for event in ledger.jobs.events(job.id)}
    found = {each.event: each.seq for each in ledger.deliveries.page(job_id=job.id)}
    assert log[found["job.delivery_failed"]].data == {"asset_id": files[1].id}
    assert found["job.completed"] == job.last_seq
    # All are due: in the order of their numbers.
    ids = {each.id: each.event for each in ledger.deliveries.page(job_id=job.id)}
    make_due(ledger)
    due = ledger.outbox.due(job_ids=[job.id])
    assert [ids[found.id] for found in due] == ["job.started", "job.delivery_failed", "job.completed"]


@pytest.mark.parametrize("contract", ["generate", "v2"])
def test_a_body_is_never_longer_than_it_may_be(contract: str, ledger: Ledger) -> None:
    claim = generated(ledger, files=200, contract=contract, webhook=replace(WEBHOOK, base_url="http://me.example"))
    files = [stored(file) for file in ledger.outputs.pending(claim.job_id, claim.attempt).files]
    ledger.outputs.succeed(claim.job_id, claim.attempt, files)

    (post,) = take(ledger, claim.job_id)

    assert MAX_BODY_BYTES * 0.6 < len(post.body) <= MAX_BODY_BYTES
    body = json.loads(post.body)
    said = body if contract == "generate" else body["data"]
    assert said["truncated"] is True
    assert 10 < len(said["output" if contract == "generate" else "outputs"]) < 200


def test_ten_senders_send_a_webhook_once(ledger: Ledger) -> None:
    job_id = succeeded(ledger, webhook=WEBHOOK).job_id

    taken = [taken for taken in in_parallel(10, lambda _number: take(ledger, job_id)) if taken]

    assert len(taken) == 1
    assert ledger.outbox.due() == []
    assert ledger.deliveries.get(taken[0][0].id).state == "sending"  # type: ignore[index]


def test_what_arrived_has_ended(ledger: Ledger) -> None:
    job_id = succeeded(ledger, webhook=WEBHOOK).job_id
    assert (ledger.outbox.jobs_due(), ledger.deliveries.open_count(job_id)) == ([job_id], 1)
    (post,) = take(ledger, job_id)
    assert (ledger.outbox.jobs_due(), ledger.deliveries.open_count()) == ([], 1)
    ledger.outbox.record([(post, ARRIVED)])

    found = ledger.deliveries.get(post.id)

    assert (found.state, found.tries, found.status_code, found.error) == ("delivered", 1, 204, None)
    assert found.next_try_at_ms is None
    (each,) = found.log
    assert (each.number, each.at_ms, each.duration_ms, each.status_code, each.error) == (
        1,
        5,
        7,
        204,
        None,
    )
    assert ledger.deliveries.open_count() == 0
    make_due(ledger)
    assert take(ledger, job_id) == []


def test_what_failed_is_tried_by_the_schedule_and_then_dead(ledger_settings: Settings) -> None:
    ledger = Ledger(ledger_settings.model_copy(update={"webhook_schedule_s": (10.0, 100.0)}))
    job_id = succeeded(ledger, webhook=WEBHOOK).job_id
    pauses = []
    for _ in range(2):
        (post,) = take(ledger, job_id)
        ledger.outbox.record([(post, BROKEN)])
        found = ledger.deliveries.get(post.id)
        assert found.state == "pending"
        assert found.next_try_at_ms is not None
        pauses.append((found.next_try_at_ms - found.updated_at_ms) / 1000)
        assert take(ledger, job_id) == [], "not before its time"
        make_due(ledger)
    (post,) = take(ledger, job_id)
    ledger.outbox.record([(post, BROKEN)])

    found = ledger.deliveries.get(post.id)
    ledger.close()

    assert pauses == [pytest.approx(10, rel=0.1), pytest.approx(100, rel=0.1)]
    assert (found.state, found.tries, found.next_try_at_ms) == ("dead", 3, None)
    assert [each.error for each in found.log] == ["answered 500"] * 3


def test_gone_is_the_end(ledger: Ledger) -> None:
    job_id = succeeded(ledger, webhook=WEBHOOK).job_id
    (post,) = take(ledger, job_id)
    ledger.outbox.record([(post, GONE)])
    assert ledger.deliveries.get(post.id).state == "dead"


def test_a_webhook_whose_sender_died_is_taken_again(ledger: Ledger) -> None:
    job_id = succeeded(ledger, webhook=WEBHOOK).job_id
    (first,) = take(ledger, job_id)
    make_due(ledger)
    (second,) = take(ledger, job_id)
    assert (second.id, second.tries, second.body) == (first.id, 2, first.body)

    # The first sender was only slow: its word counts neither before nor after the second one's.
    ledger.outbox.record([(first, BROKEN)])
    assert ledger.deliveries.get(first.id).state == "sending"
    ledger.outbox.record([(second, ARRIVED)])
    ledger.outbox.record([(first, BROKEN)])

    found = ledger.deliveries.get(first.id)
    assert (found.state, found.status_code) == ("delivered", 204)
    assert [each.number for each in found.log] == [2]


def test_what_is_given_back_is_due_and_has_its_whole_schedule(ledger_settings: Settings) -> None:
    ledger = Ledger(ledger_settings.model_copy(update={"webhook_schedule_s": (10.0,)}))
    job_id = succeeded(ledger, webhook=WEBHOOK).job_id
    (first,) = take(ledger, job_id)
    ledger.outbox.give_back([first])
    assert [due.id for due in ledger.outbox.due(job_ids=[job_id])] == [first.id]
    (second,) = take(ledger, job_id)
    # What is over counts no more.
    ledger.outbox.give_back([first])
    ledger.outbox.record([(first, ARRIVED)])
    assert ledger.deliveries.get(first.id).state == "sending"
    ledger.outbox.record([(second, BROKEN)])
    found = ledger.deliveries.get(first.id)
    ledger.close()
    assert (found.state, [each.number for each in found.log]) == ("pending", [2])


def test_what_is_put_off_uses_up_no_try(ledger: Ledger) -> None:
    near, far = replace(WEBHOOK, url="https://near.example/a"), replace(WEBHOOK, url="https://far.example:8443/b")
    waiting = [succeeded(ledger, webhook=near).job_id for _ in range(3)]
    sending = take(ledger, waiting[0])
    other = succeeded(ledger, webhook=far).job_id
    until_ms = sending[0].seq + 10**13

    assert ledger.outbox.put_off("https://near.example:443", until_ms=until_ms) == 2

    assert [due.receiver for due in ledger.outbox.due()] == ["https://far.example:8443"]
    assert ledger.outbox.due(except_for=["https://far.example:8443"]) == []
    assert ledger.outbox.jobs_due() == [other]
    found = ledger.deliveries.page(job_id=waiting[1])[0]
    assert (found.state, found.tries, found.next_try_at_ms) == ("pending", 0, until_ms)
    ledger.outbox.record([(sending[0], ARRIVED)])
    assert ledger.deliveries.get(sending[0].id).state == "delivered"


def test_a_replay_begins_anew_and_keeps_the_id_and_the_log(ledger_settings: Settings) -> None:
    ledger = Ledger(ledger_settings.model_copy(update={"webhook_schedule_s": (10.0,)}))
    job_id = succeeded(ledger, webhook=WEBHOOK).job_id
    for _ in range(2):
        (post,) = take(ledger, job_id)
        ledger.outbox.record([(post, BROKEN)])
        make_due(ledger)
    assert ledger.deliveries.get(post.id).state == "dead"

    assert ledger.deliveries.replay(post.id).state == "pending"
    (again,) = take(ledger, job_id)
    assert (again.id, again.body, again.tries) == (post.id, post.body, 3)
    assert ledger.deliveries.replay(post.id).state == "sending", "it is on its way already"
    ledger.outbox.record([(again, BROKEN)])
    found = ledger.deliveries.get(post.id)
    assert found.state == "pending", "it has a whole schedule again"
    assert [each.number for each in found.log] == [1, 2, 3]
    ledger.deliveries.replay(post.id)
    (last,) = take(ledger, job_id)
    ledger.outbox.record([(last, ARRIVED)])
    assert ledger.deliveries.replay(post.id).state == "pending", "also what has arrived"
    ledger.close()


def test_what_is_not_there_cannot_be_shown_or_replayed(ledger: Ledger) -> None:
    for ask in (ledger.deliveries.get, ledger.deliveries.replay):
        with pytest.raises(NotFound, match="no delivery nobody"):
            ask("nobody")


def test_pages_and_purging(ledger: Ledger) -> None:
    jobs = [succeeded(ledger, webhook=WEBHOOK).job_id for _ in range(6)]
    for number, job_id in enumerate(jobs):
        (post,) = take(ledger, job_id)
        if number < 5:
            ledger.outbox.record([(post, GONE if number < 3 else ARRIVED)])
    assert {found.job_id for found in ledger.deliveries.page(state="dead")} == set(jobs[:3])
    assert [found.state for found in ledger.deliveries.page(job_id=jobs[5])] == ["sending"]
    first = ledger.deliveries.page(limit=4)
    second = ledger.deliveries.page(limit=4, after=(first[-1].created_at_ms, first[-1].id))
    assert len({found.id for found in [*first, *second]}) == 6
    assert [len(found.log) for found in ledger.deliveries.page(state="delivered")] == [1, 1]

    assert ledger.deliveries.purge("dead", older_than_ms=60_000) == 0
    assert ledger.deliveries.purge("dead") == 3
    with pytest.raises(ValueError, match="sending"):
        ledger.deliveries.purge("sending")
    assert len(ledger.deliveries.page()) == 3
    with ledger.database.read() as connection:
        assert len(connection.execute(select(delivery_attempts)).all()) == 2


def test_the_longest_due_come_first_and_not_all_at_once(ledger: Ledger) -> None:
    jobs = [succeeded(ledger, webhook=WEBHOOK).job_id for _ in range(5)]
    with ledger.database.write() as transaction:
        for number, job_id in enumerate(jobs):
            transaction.connection.execute(
                update(deliveries).where(deliveries.c.job_id == job_id).values(next_try_at_ms=100 - number)
            )
    assert [due.job_id for due in ledger.outbox.due(limit=3)] == jobs[:1:-1]
    assert ledger.outbox.jobs_due(limit=2) == jobs[:2:-1]
