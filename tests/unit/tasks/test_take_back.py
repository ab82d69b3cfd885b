"""Jobs of a lost worker are taken back and sent on their way."""

from __future__ import annotations

import pytest

from core.records.job import CANCELED, QUEUED
from tasks.take_back import take_back
from tests.ledger_moves import claimed, lapse
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
