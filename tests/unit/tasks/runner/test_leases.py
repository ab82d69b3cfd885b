"""Leases: what a renewal hears, and which prompts it stops."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from core.errors import ComfyUnavailable, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.records.job import QUEUED, RUNNING
from tasks.runner.leases import Leases
from tests.ledger_moves import claimed
from tests.makers import NAME, Prompt, StoppedClock


@pytest.fixture
def leases(ledger: Ledger) -> Iterator[Leases]:
    """Renewed only when the test says so."""
    leases = Leases(ledger, renew_s=3600)
    yield leases
    leases.close()


def hold(leases: Leases, claim: Claim, error: Exception | None = None) -> Prompt:
    """Hold a claim whose prompt is posted; `error` is what its interrupt raises."""
    prompt = Prompt()
    prompt.interrupt_error = error
    leases.hold(claim).watch(prompt.as_handle())
    return prompt


def test_a_job_that_is_to_be_cancelled_is_stopped_and_no_other(leases: Leases, ledger: Ledger) -> None:
    """The net under an interrupt that was lost on its way."""
    canceled, other = claimed(ledger), claimed(ledger, "gpu1@here")
    prompts = [hold(leases, claim) for claim in (canceled, other)]
    ledger.jobs.cancel(canceled.job_id)
    leases.renew()
    leases.renew()
    assert [prompt.interrupted for prompt in prompts] == [2, 0], "again each time: an interrupt can be missed"


def test_a_job_that_was_taken_back_is_stopped_and_said(
    leases: Leases, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    taken, other = claimed(ledger), claimed(ledger, "gpu1@here")
    prompts = [hold(leases, claim) for claim in (taken, other)]
    ledger.requeue.release(taken, reason="taken")
    leases.renew()
    assert [prompt.interrupted for prompt in prompts] == [1, 0]
    assert f"job {taken.job_id} attempt 1 was taken from us" in caplog.text
    assert other.job_id not in caplog.text


def test_a_renewed_lease_does_not_lapse(leases: Leases, ledger: Ledger, clock: StoppedClock) -> None:
    claim = claimed(ledger)
    hold(leases, claim)
    clock.pass_ms(3_600_000)
    leases.renew()
    assert ledger.requeue.take_back_lapsed() == {}
    assert ledger.jobs.get(claim.job_id).status == RUNNING


def test_what_was_dropped_is_renewed_no_more(leases: Leases, ledger: Ledger, clock: StoppedClock) -> None:
    claim = claimed(ledger)
    prompt = hold(leases, claim)
    leases.drop(claim)
    leases.drop(claim)
    clock.pass_ms(3_600_000)
    leases.renew()
    assert ledger.requeue.take_back_lapsed() == {claim.job_id: QUEUED}
    assert prompt.interrupted == 0


def test_two_attempts_at_one_job_are_held_apart(leases: Leases, ledger: Ledger) -> None:
    first = claimed(ledger)
    old = hold(leases, first)
    ledger.requeue.release(first, reason="taken")
    second = ledger.claims.claim(NAME, named=first.job_id)
    assert second is not None
    hold(leases, second)
    leases.drop(second)
    leases.renew()
    assert old.interrupted == 1


@pytest.mark.parametrize("error", [ComfyUnavailable("away"), AttributeError("of ours")])
def test_one_that_cannot_be_stopped_keeps_no_other(
    leases: Leases, ledger: Ledger, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    claims = [claimed(ledger, f"gpu{number}@here") for number in range(3)]
    prompts = [hold(leases, claim, error) for claim in claims]
    for claim in claims:
        ledger.jobs.cancel(claim.job_id)
    leases.renew()
    assert [prompt.interrupted for prompt in prompts] == [1, 1, 1]
    assert "interrupt failed" in caplog.text or "of ours" in caplog.text


def test_a_ledger_that_is_away_stops_nothing(
    leases: Leases, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(_claims: object) -> None:
        raise LedgerUnavailable("away")

    prompt = hold(leases, claimed(ledger))
    monkeypatch.setattr(ledger.claims, "renew", away)
    leases.renew()
    assert prompt.interrupted == 0
    assert "leases not renewed: away" in caplog.text


def test_without_leases_the_ledger_is_left_alone(
    leases: Leases, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(ledger.claims, "renew", asked.append)
    leases.renew()
    assert asked == []


class TestStop:
    def test_what_is_posted_after_it_was_stopped_is_stopped_then(self, leases: Leases, ledger: Ledger) -> None:
        lease = leases.hold(claimed(ledger))
        lease.stop()
        prompt = Prompt()
        lease.watch(prompt.as_handle())
        assert prompt.interrupted == 1

    def test_what_is_posted_otherwise_runs_on(self, leases: Leases, ledger: Ledger) -> None:
        prompt = Prompt()
        lease = leases.hold(claimed(ledger))
        lease.watch(prompt.as_handle())
        assert prompt.interrupted == 0
        lease.stop()
        assert prompt.interrupted == 1

    def test_only_an_absent_instance_is_forgiven(self, leases: Leases, ledger: Ledger) -> None:
        prompt = Prompt()
        prompt.interrupt_error = AttributeError("of ours")
        lease = leases.hold(claimed(ledger))
        lease.watch(prompt.as_handle())
        with pytest.raises(AttributeError):
            lease.stop()


def test_the_thread_renews_by_itself_and_ends(ledger: Ledger) -> None:
    leases = Leases(ledger, renew_s=3600)
    life = leases._loop.life
    leases.close()
    leases._loop.join(10)
    assert life.name == "leases"
    assert leases._loop.is_ending


def test_before_there_is_a_prompt_something_else_is_done(leases: Leases, ledger: Ledger) -> None:
    claim, stopped = claimed(ledger), []
    lease = leases.hold(claim)
    ledger.jobs.cancel(claim.job_id)
    leases.renew()
    lease.on_early_stop = lambda: stopped.append(1)
    leases.renew()
    assert stopped == [1]
    prompt = Prompt()
    lease.watch(prompt.as_handle())
    assert (prompt.interrupted, stopped) == (1, [1])


def test_a_claim_can_be_asked_for(leases: Leases, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, canceled, taken = (claimed(ledger, f"gpu{number}@here") for number in range(3))
    ledger.jobs.cancel(canceled.job_id)
    ledger.requeue.release(taken, reason="taken")
    assert [leases.is_held(claim) for claim in (goes_on, canceled, taken)] == [True, False, False]

    def away(_claims: object) -> dict[str, str]:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(ledger.claims, "renew", away)
    assert leases.is_held(taken), "nobody can tell, and its result will be refused"


def test_a_recall_is_heeded_at_once_where_no_prompt_is_posted_yet(leases: Leases, ledger: Ledger) -> None:
    waiting, posted = claimed(ledger), claimed(ledger, "gpu1@here")
    prompt, stopped = hold(leases, posted), threading.Event()
    leases.hold(waiting).on_early_stop = stopped.set
    ledger.jobs.cancel(waiting.job_id)
    ledger.jobs.cancel(posted.job_id)

    leases.recall("of nobody")
    leases.recall(posted.prompt_id)
    assert not stopped.wait(0.3), "that one is interrupted by whoever recalls it"
    leases.recall(waiting.prompt_id)

    assert stopped.wait(20)
    assert prompt.interrupted == 1, "whoever looks, looks at all"
