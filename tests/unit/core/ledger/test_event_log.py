"""Logs of jobs that have ended a while ago, folded into one row each, and read as they were."""

from __future__ import annotations

import pytest
from sqlalchemy import func, insert, select

from core.ledger import Ledger, event_log
from core.ledger.database.tables import events
from core.ledger.event_log import BEFORE, REST_MS, JobEvent
from core.records.job import CANCELED, DELIVERING, QUEUED, RUNNING, SUCCEEDED
from tests.ledger_moves import claimed, submit, succeeded
from tests.makers import StoppedClock


def rows_of(ledger: Ledger, job_id: str) -> int:
    with ledger.database.read() as connection:
        return connection.execute(select(func.count()).where(events.c.job_id == job_id)).scalar_one()


def fold(ledger: Ledger) -> None:
    while ledger.event_folding.fold():
        continue


@pytest.fixture
def begun(ledger: Ledger, clock: StoppedClock) -> Ledger:
    """A ledger whose logs are folded from now on."""
    assert ledger.event_folding.fold() == 0
    clock.pass_ms(1_000)
    return ledger


def test_a_log_is_read_as_it_was_from_any_event_on(begun: Ledger, clock: StoppedClock) -> None:
    job_id = succeeded(begun, files=2).job_id
    log = begun.jobs.events(job_id)
    assert [event.data.get("status", "output") for event in log] == [
        *(QUEUED, RUNNING, DELIVERING, "output", "output", SUCCEEDED)
    ]
    clock.pass_ms(REST_MS + 1)

    fold(begun)

    assert rows_of(begun, job_id) == 1
    for after in range(len(log) + 1):
        assert begun.jobs.events(job_id, after_seq=after) == log[after:]
        assert begun.jobs.events(job_id, after_seq=after, limit=2) == log[after : after + 2]
    # Once more changes nothing.
    fold(begun)
    assert begun.jobs.events(job_id) == log


def test_logs_of_jobs_that_ended_a_moment_ago_or_not_at_all_stay_as_they_are(
    begun: Ledger, clock: StoppedClock
) -> None:
    first = succeeded(begun).job_id
    clock.pass_ms(REST_MS // 2)
    waits, runs, young = submit(begun).id, claimed(begun).job_id, succeeded(begun).job_id
    clock.pass_ms(REST_MS // 2 + 1)

    fold(begun)

    assert [rows_of(begun, each) for each in (first, waits, runs, young)] == [1, 1, 2, 5]
    begun.jobs.cancel(waits)
    clock.pass_ms(REST_MS + 1)
    fold(begun)
    assert [rows_of(begun, each) for each in (waits, young)] == [1, 1]
    assert [event.data["status"] for event in begun.jobs.events(waits)] == [QUEUED, CANCELED]


def test_many_that_end_in_the_same_moment_are_all_folded(
    begun: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "_NEXT", event_log._NEXT.limit(3))
    monkeypatch.setattr(event_log, "LOOKED_AT", 3)
    ended = [succeeded(begun).job_id]
    clock.pass_ms(1)
    ended += [succeeded(begun).job_id for _ in range(2)]
    clock.pass_ms(1)
    ended += [succeeded(begun).job_id for _ in range(3)]
    clock.pass_ms(REST_MS + 1)

    fold(begun)

    assert [rows_of(begun, each) for each in ended] == [1] * 6


def test_what_ended_before_anybody_folded_stays_as_it_is(ledger: Ledger, clock: StoppedClock) -> None:
    job_id = succeeded(ledger).job_id
    clock.pass_ms(REST_MS + 1)

    fold(ledger)

    assert rows_of(ledger, job_id) == 5


def test_an_event_after_the_end_is_read_behind_those_that_were_folded(begun: Ledger, clock: StoppedClock) -> None:
    job_id = succeeded(begun).job_id
    log = begun.jobs.events(job_id)
    clock.pass_ms(REST_MS + 1)
    fold(begun)
    late = JobEvent(seq=len(log) + 1, type="output", data={"asset_id": "x"}, at_ms=clock.now_ms)
    with begun.database.write() as transaction:
        transaction.connection.execute(insert(events).values(job_id=job_id, **vars(late)))

    assert begun.jobs.events(job_id) == [*log, late]
    assert not any(BEFORE in event.data for event in begun.jobs.events(job_id))
