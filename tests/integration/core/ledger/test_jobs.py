"""The ledger as clients see it, on SQLite and on PostgreSQL: submit, look up, list, cancel, secrets, webhooks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select

from core.errors import IdempotencyKeyReuse, NotFound, RequestIdReuse, StaleAttempt
from core.ledger import Change, Ledger
from core.ledger.claims import Claim
from core.ledger.database.access_tables import idempotency_keys
from core.ledger.database.tables import deliveries, events, jobs, secrets
from core.records.job import CANCELED, CANCELING, DELIVERING, QUEUED, RUNNING, SUCCEEDED, Job, new_job_id
from core.settings import Settings
from tests.ledger_moves import (
    ERROR,
    WEBHOOK,
    check_log,
    claimed,
    generated,
    in_parallel,
    lapse,
    secrets_of,
    set_columns,
    submit,
    succeeded,
)


def _count(ledger: Ledger, table: Any, job_id: str) -> int:
    column = table.c.id if table is jobs else table.c.job_id
    with ledger.database.read() as connection:
        return connection.execute(select(func.count()).select_from(table).where(column == job_id)).scalar_one()


def test_a_job_comes_back_as_it_was_submitted(ledger: Ledger) -> None:
    metadata = {"name": "\u00e9\U0001f600", "deep": [1, None, {"x": 0.1}]}
    webhook = replace(WEBHOOK, base_url="http://me")

    job = submit(
        ledger, contract="generate", priority=-3, metadata=metadata, expected_time_s=2.5, request_id="mine",
        webhook=webhook, timeout_s=90.0, graph_text='{"1":{"class_type":"\u00e9"}}', nodes_total=4,
    )  # fmt: skip

    assert ledger.jobs.get(job.id) == job
    assert ledger.jobs.get_by_request_id("mine") == ledger.jobs.get_by_request_id(job.id) == job
    assert ledger.jobs.graph(job.id) == '{"1":{"class_type":"\u00e9"}}'
    assert (job.status, job.attempt, job.last_seq, job.outputs) == (QUEUED, 0, 1, ())
    assert (job.metadata, job.webhook, job.timeout_s, job.nodes_total) == (metadata, webhook, 90.0, 4)
    assert check_log(ledger, job.id) == [QUEUED]


def test_what_is_not_there_is_not_found(ledger: Ledger) -> None:
    absent = new_job_id()

    for ask in (ledger.jobs.get, ledger.jobs.get_by_request_id, ledger.jobs.graph, ledger.jobs.cancel):
        with pytest.raises(NotFound, match=absent):
            ask(absent)
    with pytest.raises(NotFound):
        ledger.outputs.asset(absent)
    assert ledger.jobs.events(absent) == []
    assert secrets_of(ledger, absent) == {}


def test_one_idempotency_key_is_good_for_one_of_fifty(ledger: Ledger) -> None:
    results = in_parallel(50, lambda _number: submit(ledger, idempotency_key="once", secrets={"webhook_secret": "b"}))

    won = [result for result in results if isinstance(result, Job)]
    assert len(won) == 1
    assert [type(result) for result in results if not isinstance(result, Job)] == [IdempotencyKeyReuse] * 49
    # The losers left nothing behind.
    assert [job.id for job in ledger.jobs.page()] == [won[0].id]
    with ledger.database.read() as connection:
        for table in (events, secrets, idempotency_keys):
            assert connection.execute(select(table.c.job_id)).scalars().all() == [won[0].id]


def test_a_request_id_belongs_to_one_job(ledger: Ledger) -> None:
    results = in_parallel(10, lambda _number: submit(ledger, request_id="mine"))

    assert sorted(type(result).__name__ for result in results) == ["Job"] + ["RequestIdReuse"] * 9
    with pytest.raises(RequestIdReuse, match="'mine'"):
        submit(ledger, request_id="mine", idempotency_key="unused")
    # The key of a submission that was refused for another reason stays good.
    assert submit(ledger, idempotency_key="unused").status == QUEUED


def test_pages_hold_every_job_once_while_new_ones_arrive(ledger: Ledger) -> None:
    ids = [submit(ledger).id for _ in range(23)]
    for job_id in ids[5:15]:
        # Equal times: the order among them is by id, and a page may end in the middle of them.
        set_columns(ledger, job_id, created_at_ms=5_000)

    seen: list[Job] = []
    after = None
    while page := ledger.jobs.page(limit=4, after=after):
        assert len(page) <= 4
        assert not {job.id for job in page} & {job.id for job in seen}
        seen += page
        after = (page[-1].created_at_ms, page[-1].id)
        submit(ledger)

    assert sorted(job.id for job in seen) == sorted(ids)
    assert [(job.created_at_ms, job.id) for job in seen] == sorted(
        ((job.created_at_ms, job.id) for job in seen), reverse=True
    )


def test_a_page_may_be_of_some_statuses_only(ledger: Ledger) -> None:
    queued, running = submit(ledger), claimed(ledger)
    done = succeeded(ledger, files=2)

    assert [job.id for job in ledger.jobs.page(statuses=[QUEUED])] == [queued.id]
    assert {job.id for job in ledger.jobs.page(statuses=[RUNNING, SUCCEEDED])} == {running.job_id, done.job_id}
    (with_outputs,) = ledger.jobs.page(statuses=[SUCCEEDED])
    assert [output.name for output in with_outputs.outputs] == ["out_00000_.png", "out_00001_.png"]


def test_states_of_many_jobs_at_once(ledger: Ledger) -> None:
    queued, running = submit(ledger), claimed(ledger)

    assert ledger.jobs.states([queued.id, running.job_id, new_job_id()]) == {
        queued.id: (QUEUED, 1),
        running.job_id: (RUNNING, 2),
    }
    assert ledger.jobs.states([]) == {}
    assert ledger.jobs.count(QUEUED) == 1
    assert ledger.jobs.count(QUEUED, RUNNING) == 2


def test_cancel_in_every_status(ledger: Ledger) -> None:
    queued = submit(ledger).id
    running = claimed(ledger).job_id
    delivering = generated(ledger).job_id
    ended = succeeded(ledger).job_id

    assert [ledger.jobs.cancel(job_id).status for job_id in (queued, running, delivering, ended)] == [
        CANCELED,
        CANCELING,
        CANCELED,
        SUCCEEDED,
    ]
    # Asking again changes nothing and writes nothing.
    before = ledger.jobs.states([queued, running, delivering, ended])
    for job_id in before:
        ledger.jobs.cancel(job_id)
    assert ledger.jobs.states(before) == before
    assert check_log(ledger, queued) == [QUEUED, CANCELED]
    assert check_log(ledger, running) == [QUEUED, RUNNING, CANCELING]
    assert check_log(ledger, delivering) == [QUEUED, RUNNING, DELIVERING, CANCELED]


def test_what_was_cancelled_cannot_be_claimed_or_delivered(ledger: Ledger) -> None:
    job = submit(ledger)
    ledger.jobs.cancel(job.id)
    assert ledger.claims.claim("gpu0@here", named=job.id) is None

    delivering = generated(ledger)
    ledger.jobs.cancel(delivering.job_id)
    with pytest.raises(StaleAttempt):
        ledger.outputs.pending(delivering.job_id, delivering.attempt)
    with pytest.raises(StaleAttempt):
        ledger.outputs.succeed(delivering.job_id, delivering.attempt, [])
    assert not ledger.outputs.fail(delivering.job_id, delivering.attempt, ERROR)


def test_cancel_races_a_claim(ledger: Ledger) -> None:
    for _ in range(10):
        job = submit(ledger)

        def act(number: int, job: Job = job) -> Job | Claim | None:
            if number % 2:
                return ledger.jobs.cancel(job.id)
            return ledger.claims.claim(f"gpu{number}@here", named=job.id)

        results = in_parallel(6, act)

        claims = [result for result in results if isinstance(result, Claim)]
        assert len(claims) <= 1
        assert {result.status for result in results if isinstance(result, Job)} == {CANCELING if claims else CANCELED}
        assert check_log(ledger, job.id)[-1] == (CANCELING if claims else CANCELED)


def test_cancel_races_the_end_of_the_gpus_part(ledger: Ledger) -> None:
    for _ in range(10):
        claim = claimed(ledger, webhook=WEBHOOK)

        def act(number: int, claim: Claim = claim) -> str:
            if number == 0:
                ledger.claims.generated(claim, [], outputs_reused=False)
                return DELIVERING
            return ledger.jobs.cancel(claim.job_id).status

        results = in_parallel(4, act)

        if any(isinstance(result, StaleAttempt) for result in results):
            assert check_log(ledger, claim.job_id) == [QUEUED, RUNNING, CANCELING]
            assert ledger.claims.canceled(claim)
        assert check_log(ledger, claim.job_id)[-1] == CANCELED
        assert _count(ledger, deliveries, claim.job_id) == 1


def test_cancel_races_a_job_that_is_given_back_and_taken_again(ledger: Ledger) -> None:
    for _ in range(10):
        claim = claimed(ledger)

        def act(number: int, claim: Claim = claim) -> None:
            if number == 0:
                ledger.jobs.cancel(claim.job_id)
            elif number == 1:
                ledger.requeue.release(claim, reason="lost", lost=False)
            else:
                ledger.claims.claim(f"gpu{number}@here", named=claim.job_id)

        in_parallel(5, act)

        # Whoever came first, the wish to cancel is never lost.
        assert check_log(ledger, claim.job_id)[-1] in {CANCELED, CANCELING}


def test_a_webhook_that_cannot_be_recorded_undoes_the_end(ledger: Ledger) -> None:
    # One transaction: with a URL that is none the outbox row cannot be made, so the job must not end either.
    job = submit(ledger, webhook=replace(WEBHOOK, url=5), secrets={"webhook_secret": "a"})  # type: ignore[arg-type]

    with pytest.raises((AttributeError, TypeError)):
        ledger.jobs.cancel(job.id)

    assert check_log(ledger, job.id) == [QUEUED]
    assert secrets_of(ledger, job.id) == {"webhook_secret": "a"}


def test_every_change_is_told_after_its_commit(ledger_settings: Settings) -> None:
    told: list[Change] = []
    seen: list[tuple[str, int]] = []

    def on_change(change: Change) -> None:
        told.append(change)
        # Another connection reads the change already.
        seen.append(reader.jobs.states([change.job_id])[change.job_id])

    reader, writer = Ledger(ledger_settings), Ledger(ledger_settings, on_change=on_change)
    try:
        claim = succeeded(writer, files=2)
        with pytest.raises(StaleAttempt):
            writer.claims.generated(claim, [], outputs_reused=False)
    finally:
        reader.close()
        writer.close()

    assert [(change.status, change.seq) for change in told] == seen
    assert [status for status, _ in seen] == [QUEUED, RUNNING, DELIVERING, SUCCEEDED]


def test_a_lease_that_lapsed_under_a_cancel_ends_canceled(ledger: Ledger) -> None:
    claim = claimed(ledger, webhook=WEBHOOK)
    ledger.jobs.cancel(claim.job_id)
    lapse(ledger, claim.job_id)

    assert ledger.requeue.take_back_lapsed() == {claim.job_id: CANCELED}
    assert check_log(ledger, claim.job_id) == [QUEUED, RUNNING, CANCELING, CANCELED]
    assert [found.event for found in ledger.deliveries.page(job_id=claim.job_id)] == ["job.canceled"]
