"""A tick of the reconciler: what one of its steps stumbles over, even every time, keeps no other from being done."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import update

from core.errors import LedgerUnavailable
from core.ledger.database.tables import jobs
from core.records.job import QUEUED
from core.settings import Settings
from tasks import reconcile as maintenance
from tasks.messaging.app import make_app
from tasks.reconcile import STEPS, reconcile, take_steps
from tasks.runtime import Runtime, equip
from tests.ledger_moves import claimed


@pytest.fixture
def runtime(sqlite_settings: Settings) -> Iterator[Runtime]:
    """What the reconciler works with."""
    runtime = equip(make_app(sqlite_settings, "api"), sqlite_settings)
    yield runtime
    runtime.close()


@pytest.mark.parametrize("stumbling", range(len(STEPS)), ids=lambda number: STEPS[number].__name__)
@pytest.mark.parametrize("error", [AttributeError, LedgerUnavailable])
def test_each_step_is_done_whatever_another_stumbles_over(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, stumbling: int, error: type[Exception]
) -> None:
    done: list[int] = []

    def step(number: int) -> Any:
        def do(_runtime: Runtime) -> None:
            if number == stumbling:
                raise error("of ours")
            done.append(number)

        return do

    monkeypatch.setattr(maintenance, "STEPS", tuple(step(number) for number in range(len(STEPS))))
    take_steps(runtime)
    assert done == [number for number in range(len(STEPS)) if number != stumbling]


def test_what_cannot_be_taken_back_keeps_no_other_job(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claims = [claimed(runtime.ledger, instance=f"gpu{number}@left") for number in range(3)]
    lapse(runtime)
    give_back = runtime.ledger.requeue._give_back

    def stumble_over_one(transaction: Any, job_id: str, *arguments: Any, **options: Any) -> Any:
        if job_id == claims[1].job_id:
            raise AttributeError("of ours")
        return give_back(transaction, job_id, *arguments, **options)

    monkeypatch.setattr(runtime.ledger.requeue, "_give_back", stumble_over_one)
    take_steps(runtime)
    statuses = [runtime.ledger.jobs.get(claim.job_id).status for claim in claims]
    assert statuses == [QUEUED, "running", QUEUED]
    assert any(record.exc_info and claims[1].job_id in record.getMessage() for record in caplog.records)


def lapse(runtime: Runtime) -> None:
    with runtime.ledger.database.write() as transaction:
        transaction.connection.execute(update(jobs).values(lease_until_ms=1))


def test_a_tick_does_not_wait_beside_one_that_is_under_way(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may_end = threading.Event(), threading.Event()
    count: list[int] = []

    def wait(_runtime: Runtime) -> None:
        count.append(1)
        begun.set()
        may_end.wait(10)

    monkeypatch.setattr(maintenance, "STEPS", (wait,))
    monkeypatch.setattr(maintenance._last, "ended_s", float("-inf"))
    task = runtime.app.tasks[reconcile.name]
    first = threading.Thread(target=task)
    first.start()
    assert begun.wait(10)
    task()
    assert len(count) == 1
    may_end.set()
    first.join(10)
    task()
    assert len(count) == 1, "of ticks that have piled up the first has done it all"
    monkeypatch.setattr(maintenance._last, "ended_s", time.monotonic() - runtime.settings.reconcile_s)
    task()
    assert len(count) == 2
