"""The one way a job changes its status, and what comes with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from core.ledger import Ledger
from core.ledger.database.tables import assets, deliveries, jobs
from core.ledger.transitions import transition
from core.records.job import CANCELED, FAILED, QUEUED, RUNNING, STATUSES, SUCCEEDED, TERMINAL, TRANSITIONS, Status
from core.records.job_error import JobError
from core.records.output import BucketResult
from core.records.progress import Progress
from tests.ledger_moves import WEBHOOK, claimed, generated, secrets_of, set_columns, stored, submit, succeeded
from tests.makers import StoppedClock

EVERYTHING = replace(
    WEBHOOK, events=("job.started", "job.progress", "job.completed", "job.failed", "job.delivery_failed")
)


def move(ledger: Ledger, job_id: str, status: Status, *conditions: Any, **values: Any) -> Any:
    with ledger.database.write() as transaction:
        return transition(transaction, job_id, status, *conditions, **values)


def posts(ledger: Ledger, job_id: str) -> list[tuple[str, int]]:
    """Event and number of each webhook of a job, in order."""
    query = select(deliveries.c.event, deliveries.c.seq).where(deliveries.c.job_id == job_id).order_by(deliveries.c.seq)
    with ledger.database.read() as connection:
        return [(row.event, row.seq) for row in connection.execute(query)]


@pytest.mark.parametrize("before", STATUSES)
def test_only_moves_of_the_life_cycle_are_made(ledger: Ledger, before: Status) -> None:
    for after in STATUSES:
        job = submit(ledger)
        set_columns(ledger, job.id, status=before)
        is_allowed = after in TRANSITIONS[before]
        assert (move(ledger, job.id, after) is not None) is is_allowed
        assert ledger.jobs.get(job.id).status == (after if is_allowed else before)
        assert len(ledger.jobs.events(job.id)) == 1 + is_allowed


def test_a_move_is_an_event_with_what_it_says(ledger: Ledger, clock: StoppedClock) -> None:
    job = submit(ledger)
    clock.pass_ms(4)
    row = move(ledger, job.id, RUNNING, data={"instance": "i"}, attempt=1)
    assert (row.status, row.last_seq, row.attempt, row.updated_at_ms) == (RUNNING, 2, 1, clock.now_ms)
    event = ledger.jobs.events(job.id)[-1]
    assert (event.seq, event.type, event.data) == (2, "status", {"status": RUNNING, "instance": "i"})


def test_every_condition_has_to_hold(ledger: Ledger) -> None:
    job = submit(ledger)
    assert move(ledger, job.id, RUNNING, jobs.c.priority == 0, jobs.c.priority == 1) is None
    assert ledger.jobs.get(job.id).status == QUEUED


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_an_end_starts_retention_and_frees_the_lease(ledger: Ledger, clock: StoppedClock, status: Status) -> None:
    job = submit(ledger)
    before = ledger.jobs.get(job.id)
    set_columns(ledger, job.id, status="delivering" if status == SUCCEEDED else QUEUED, lease_until_ms=9)
    clock.pass_ms(70)
    assert move(ledger, job.id, status).lease_until_ms is None
    after = ledger.jobs.get(job.id)
    assert after.completed_at_ms == clock.now_ms
    assert after.expires_at_ms == before.expires_at_ms + 70
    assert after.files_expire_at_ms == before.files_expire_at_ms + 70


def test_a_move_that_is_no_end_leaves_them(ledger: Ledger, clock: StoppedClock) -> None:
    job = submit(ledger)
    clock.pass_ms(70)
    move(ledger, job.id, RUNNING)
    after = ledger.jobs.get(job.id)
    assert (after.completed_at_ms, after.expires_at_ms) == (None, job.expires_at_ms)


def test_secrets_go_at_the_end(ledger: Ledger) -> None:
    job = submit(ledger, secrets={"api_key_comfy_org": "key"})
    move(ledger, job.id, RUNNING)
    assert secrets_of(ledger, job.id)
    move(ledger, job.id, FAILED)
    assert not secrets_of(ledger, job.id)


class TestWebhooks:
    def test_the_first_start_is_told_and_no_other(self, ledger: Ledger) -> None:
        claim = claimed(ledger, webhook=EVERYTHING)
        assert posts(ledger, claim.job_id) == [("job.started", 2)]
        ledger.requeue.release(claim, reason="gone")
        ledger.claims.claim("gpu1@here", named=claim.job_id)
        assert posts(ledger, claim.job_id) == [("job.started", 2)]

    def test_the_end_is_told_with_its_number(self, ledger: Ledger) -> None:
        claim = succeeded(ledger, webhook=WEBHOOK)
        assert posts(ledger, claim.job_id)[-1] == ("job.completed", ledger.jobs.get(claim.job_id).last_seq)

    def test_without_a_webhook_nothing_is_told(self, ledger: Ledger) -> None:
        assert posts(ledger, succeeded(ledger).job_id) == []

    def test_progress_that_was_not_told_is_news_no_more(self, ledger: Ledger) -> None:
        claim = claimed(ledger, webhook=EVERYTHING)
        ledger.claims.progress(claim, Progress(value=0.5))
        assert "job.progress" in dict(posts(ledger, claim.job_id))
        ledger.claims.fail(claim, JobError(code="x", message="m"))
        assert [event for event, _ in posts(ledger, claim.job_id)] == ["job.started", "job.failed"]

    @pytest.mark.parametrize("missing", [0, 1, None])
    def test_a_file_that_did_not_arrive_is_told_before_the_end(self, ledger: Ledger, missing: int | None) -> None:
        claim = generated(ledger, files=2, webhook=EVERYTHING)
        files = ledger.outputs.pending(claim.job_id, claim.attempt).files
        results = [BucketResult(error="x") if number == missing else BucketResult(url="u") for number in range(2)]
        found = [replace(stored(file), bucket_result=each) for file, each in zip(files, results, strict=True)]
        ledger.outputs.succeed(claim.job_id, claim.attempt, found)
        told = posts(ledger, claim.job_id)
        last = ledger.jobs.get(claim.job_id).last_seq
        before_end = [] if missing is None else [("job.delivery_failed", last - 2 + missing)]
        assert told[1:] == [*before_end, ("job.completed", last)]

    def test_files_are_not_looked_at_where_the_job_failed(self, ledger: Ledger) -> None:
        claim = generated(ledger, files=1, webhook=EVERYTHING)
        (file,) = ledger.outputs.pending(claim.job_id, claim.attempt).files
        with ledger.database.write() as transaction:
            its_file = assets.update().where(assets.c.id == file.id)
            transaction.connection.execute(its_file.values(upload={"error": "x"}))
        move(ledger, claim.job_id, FAILED)
        assert [event for event, _ in posts(ledger, claim.job_id)] == ["job.started", "job.failed"]

    def test_one_that_is_cancelled_keeps_no_secret_without_a_webhook(self, ledger: Ledger) -> None:
        job = submit(ledger, secrets={"api_key_comfy_org": "key"})
        move(ledger, job.id, CANCELED)
        assert not secrets_of(ledger, job.id)
