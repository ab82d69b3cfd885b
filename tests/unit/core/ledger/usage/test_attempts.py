"""How long an attempt had its GPU, where nobody says: by what the ledger knows of its beginning and its lease."""

from __future__ import annotations

from core.ledger import Ledger
from core.records.job import Job
from core.records.usage import GpuTime
from tests.ledger_moves import ERROR, claimed, generated, lapse, submit
from tests.makers import NAME, StoppedClock, come_up

LEASE_MS = 20_000


def times(job: Job) -> tuple[int, int, int]:
    return job.run_ms, job.load_ms, job.lost_ms


def test_what_its_worker_says_counts(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    claim = claimed(ledger)
    clock.pass_ms(9000)
    ledger.claims.fail(claim, ERROR, spent=GpuTime(run_ms=5000, load_ms=1000))
    assert times(ledger.jobs.get(claim.job_id)) == (5000, 1000, 0)


def test_else_it_is_since_the_ledger_was_told_that_it_began(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    claim = claimed(ledger)
    clock.pass_ms(2000)
    ledger.claims.begun(claim)
    clock.pass_ms(3000)
    ledger.claims.fail(claim, ERROR)
    assert times(ledger.jobs.get(claim.job_id)) == (3000, 0, 0)


def test_on_deck_nothing_is_used(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    claimed(ledger)
    submit(ledger)
    ahead = ledger.claims.claim(NAME, ahead=True)
    assert ahead is not None
    clock.pass_ms(3000)
    ledger.requeue.release(ahead, reason="gone")
    assert times(ledger.jobs.get(ahead.job_id)) == (0, 0, 0)


def test_a_lapsed_lease_was_held_until_it_was_renewed_last(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    claim = claimed(ledger)
    clock.pass_ms(4000)
    ledger.claims.renew([claim])
    clock.pass_ms(LEASE_MS + 60_000)
    assert ledger.requeue.take_back_lapsed()
    assert times(ledger.jobs.get(claim.job_id)) == (0, 0, 4000)


def test_a_dead_process_had_it_until_that_is_known(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    claim = claimed(ledger)
    clock.pass_ms(4000)
    ledger.requeue.expire_leases(NAME)
    assert ledger.requeue.take_back_lapsed()
    assert times(ledger.jobs.get(claim.job_id)) == (0, 0, 4000)


def test_a_clock_that_was_set_back_counts_nothing(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    claim = claimed(ledger)
    clock.pass_ms(-5000)
    ledger.claims.fail(claim, ERROR)
    assert times(ledger.jobs.get(claim.job_id)) == (0, 0, 0)


def test_what_ran_is_lost_with_its_files(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    claim = generated(ledger)
    before = ledger.jobs.get(claim.job_id)
    ledger.requeue.lose_files(claim.job_id, claim.attempt)
    after = ledger.jobs.get(claim.job_id)
    assert times(after) == (0, 0, before.run_ms + before.load_ms)


def test_a_stale_attempt_changes_nothing(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    claim = claimed(ledger)
    lapse(ledger, claim.job_id)
    ledger.requeue.take_back_lapsed()
    before = ledger.jobs.get(claim.job_id)
    assert not ledger.claims.fail(claim, ERROR, spent=GpuTime(run_ms=5000))
    assert ledger.jobs.get(claim.job_id) == before
