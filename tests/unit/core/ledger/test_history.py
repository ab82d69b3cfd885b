"""The last hour in samples: taken now and then, kept for an hour, and waits from what was counted meanwhile."""

from __future__ import annotations

import pytest

from core.ledger import Ledger
from core.ledger.metrics.last_hour import EVERY_MS, FACT, KEPT, WAITS_OF, Sample
from core.records.job_error import JobError
from tests.ledger_moves import claimed, register, submit, succeeded
from tests.makers import StoppedClock


def note(ledger: Ledger) -> Sample:
    while ledger.usage.fold() or ledger.metrics.fold():
        continue
    assert ledger.history.note()
    return ledger.history.read()[-1]


def test_a_sample_has_what_waits_runs_and_works(ledger: Ledger, clock: StoppedClock) -> None:
    register(ledger, "gpu0@test")
    register(ledger, "gpu1@test")
    claimed(ledger, "gpu0@test")
    submit(ledger)
    submit(ledger)
    sample = note(ledger)
    assert sample == Sample(at_ms=clock.now_ms, waiting=2, running=1, gpus=2, busy=1, wait_p95_s=None)


def test_one_is_taken_now_and_then_and_each_is_kept_for_an_hour(ledger: Ledger, clock: StoppedClock) -> None:
    first = note(ledger)
    clock.pass_ms(EVERY_MS - 1)
    assert not ledger.history.note()
    clock.pass_ms(1)
    assert [ledger.history.note(), ledger.history.note()] == [True, False]
    assert ledger.history.read()[0] == first
    for _ in range(KEPT):
        clock.pass_ms(EVERY_MS)
        assert ledger.history.note()
    assert len(ledger.history.read()) == KEPT
    assert ledger.history.read()[0].at_ms == first.at_ms + 2 * EVERY_MS
    clock.pass_ms(KEPT * EVERY_MS)
    assert [sample.at_ms for sample in ledger.history.read()] == [clock.now_ms - KEPT * EVERY_MS]


def test_waits_are_those_of_jobs_that_ended_in_the_five_minutes_before(ledger: Ledger, clock: StoppedClock) -> None:
    assert note(ledger).wait_p95_s is None
    succeeded(ledger)
    clock.pass_ms(EVERY_MS)
    # All that is known of so short a wait is its bucket, from 0 to 0.1 s.
    assert note(ledger).wait_p95_s == pytest.approx(0.095)
    waits = submit(ledger)
    clock.pass_ms(EVERY_MS)
    claim = ledger.claims.claim("gpu0@here", named=waits.id)
    assert claim is not None
    ledger.claims.fail(claim, JobError(code="node_execution_error", message="boom"))
    sample = note(ledger)
    assert sample.wait_p95_s is not None
    assert 10 < sample.wait_p95_s <= 30
    for _ in range(WAITS_OF):
        clock.pass_ms(EVERY_MS)
        sample = note(ledger)
    assert sample.wait_p95_s is None


@pytest.mark.parametrize(
    "noted", ["", "[]", "{}", '{"samples": [{"at": 1}], "waits": []}', '{"samples": [], "waits": [[1]]}']
)
def test_what_another_version_noted_is_no_reason_to_stop(ledger: Ledger, noted: str) -> None:
    ledger.facts.mark(FACT, noted)
    assert ledger.history.read() == []
    note(ledger)
    assert len(ledger.history.read()) == 1
