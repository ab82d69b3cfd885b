"""Jobs of a lost worker are taken back and sent on their way."""

from __future__ import annotations

import pytest

from core.records.job import CANCELED, DELIVERING, QUEUED
from core.storage.marker import StorageMarker
from tasks.take_back import take_back, take_back_unstored
from tests.ledger_moves import claimed, generated, lapse, set_columns
from tests.makers import BrokerlessRuntime, StoppedClock


@pytest.mark.usefixtures("clock")
def test_each_gets_the_message_of_what_it_came_to(runtime: BrokerlessRuntime, caplog: pytest.LogCaptureFixture) -> None:
    ledger = runtime.ledger
    lost, canceling, held = (claimed(ledger, f"gpu{number}@here") for number in range(3))
    ledger.jobs.cancel(canceling.job_id)
    for claim in (lost, canceling):
        lapse(ledger, claim.job_id)
    take_back(runtime)
    assert (ledger.jobs.get(lost.job_id).status, ledger.jobs.get(canceling.job_id).status) == (QUEUED, CANCELED)
    assert sorted(runtime.published.sent) == [("notify", canceling.job_id), ("turn", lost.job_id)]
    assert f"job {lost.job_id} was taken back" in caplog.text
    assert held.job_id not in caplog.text


def test_nothing_lapsed_is_nothing_to_publish(runtime: BrokerlessRuntime, clock: StoppedClock) -> None:
    claimed(runtime.ledger)
    take_back(runtime)
    assert runtime.published.sent == []


@pytest.mark.parametrize(
    ("storage_url", "problem", "status"),
    [("s3://bucket", None, QUEUED), ("s3://bucket", "away", DELIVERING), ("", None, DELIVERING)],
)
def test_files_of_a_machine_that_is_gone_are_made_again_where_nobody_else_has_them(
    runtime: BrokerlessRuntime,
    monkeypatch: pytest.MonkeyPatch,
    storage_url: str,
    problem: str | None,
    status: str,
) -> None:
    monkeypatch.setattr(StorageMarker, "problem", lambda _self: problem)
    runtime.settings = runtime.settings.model_copy(update={"storage_url": storage_url})
    claim = generated(runtime.ledger)
    set_columns(runtime.ledger, claim.job_id, generated_at_ms=1)
    runtime.published.sent.clear()

    take_back_unstored(runtime)

    assert runtime.ledger.jobs.get(claim.job_id).status == status
    assert runtime.published.sent == ([("turn", claim.job_id)] if status == QUEUED else [])
