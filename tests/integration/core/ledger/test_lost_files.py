"""Jobs whose files were lost before they were stored: they run again, and nobody ends them with what is not there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.clock import now_ms
from core.contracts.comfy_v2 import progress_view
from core.errors import NotFound, StaleAttempt
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.records.job import DELIVERING, FAILED, QUEUED
from tests.ledger_moves import check_log, generated, produced, register, set_columns, stored

SILENT_S = 60.0


def lost(ledger: Ledger, *, ago_s: float = 2 * SILENT_S) -> Claim:
    """A job whose files have lain on `gpu0@here` for so long; nobody has heard of that instance."""
    claim = generated(ledger)
    set_columns(ledger, claim.job_id, generated_at_ms=now_ms() - round(ago_s * 1000))
    return claim


def test_a_job_whose_machine_is_silent_runs_again_and_says_so(ledger: Ledger) -> None:
    claim = lost(ledger)

    assert ledger.requeue.take_back_unstored(silent_s=SILENT_S) == {claim.job_id: QUEUED}

    job = ledger.jobs.get(claim.job_id)
    assert (job.status, job.generated_at_ms, job.progress) == (QUEUED, None, None)
    assert [(loss.code, loss.attempt) for loss in job.losses] == [("instance_lost", 1)]
    assert check_log(ledger, claim.job_id) == [QUEUED, "running", DELIVERING, QUEUED]
    assert ledger.requeue.take_back_unstored(silent_s=SILENT_S) == {}
    # The machine was only cut off: what it has is nobody's now.
    with pytest.raises(StaleAttempt):
        ledger.outputs.pending(claim.job_id, claim.attempt)
    with pytest.raises(StaleAttempt):
        ledger.outputs.succeed(claim.job_id, claim.attempt, [])
    again = ledger.claims.claim("gpu1@there", named=claim.job_id)
    assert again is not None
    assert again.attempt == 2


def test_a_machine_that_was_heard_of_keeps_its_jobs(ledger: Ledger) -> None:
    claim = lost(ledger)
    register(ledger, ledger.jobs.get(claim.job_id).instance or "")

    assert ledger.requeue.take_back_unstored(silent_s=SILENT_S) == {}


def test_files_that_have_just_been_made_are_waited_for(ledger: Ledger) -> None:
    lost(ledger, ago_s=SILENT_S / 2)

    assert ledger.requeue.take_back_unstored(silent_s=SILENT_S) == {}


def test_an_io_worker_that_says_why_it_waits_has_the_files(ledger: Ledger) -> None:
    claim = lost(ledger)
    ledger.outputs.note_delay(claim.job_id, claim.attempt, "The bucket is full.")

    assert ledger.requeue.take_back_unstored(silent_s=SILENT_S) == {}

    view = progress_view(ledger.jobs.get(claim.job_id))
    assert view is not None
    assert (view["message"], view["value"]) == ("The bucket is full.", 1.0)


def test_what_is_said_of_another_attempt_is_not_heard(ledger: Ledger) -> None:
    claim = lost(ledger)
    ledger.outputs.note_delay(claim.job_id, claim.attempt + 1, "The bucket is full.")

    assert ledger.jobs.get(claim.job_id).progress is None


def test_a_job_that_loses_each_machine_fails(ledger: Ledger) -> None:
    claim = lost(ledger)
    for _ in range(10):
        [status] = ledger.requeue.take_back_unstored(silent_s=SILENT_S).values()
        if status == FAILED:
            break
        again = ledger.claims.claim("gpu0@here", named=claim.job_id)
        assert again is not None
        ledger.claims.generated(again, [], outputs_reused=False)
        set_columns(ledger, claim.job_id, generated_at_ms=now_ms() - 10_000_000)

    job = ledger.jobs.get(claim.job_id)
    assert job.error is not None
    assert "Its machine was lost before its files were stored." in job.error.message
    assert len(job.losses) == job.attempt


def test_files_that_went_with_a_disk(ledger: Ledger) -> None:
    claim = generated(ledger)
    assert ledger.requeue.lose_files(claim.job_id, claim.attempt + 1) is None

    assert ledger.requeue.lose_files(claim.job_id, claim.attempt) == QUEUED

    assert ledger.requeue.lose_files(claim.job_id, claim.attempt) is None


def test_an_output_is_found_by_its_name_whichever_attempt_made_it(ledger: Ledger) -> None:
    claim = generated(ledger)
    ledger.requeue.lose_files(claim.job_id, claim.attempt)
    again = ledger.claims.claim("gpu0@here", named=claim.job_id)
    assert again is not None
    ledger.claims.generated(again, [replace(produced(again), id="second")], outputs_reused=False)
    [file] = ledger.outputs.pending(claim.job_id, again.attempt).files
    key = f"{claim.job_id}/2/a.png"
    ledger.outputs.succeed(claim.job_id, again.attempt, [replace(stored(file), storage_key=key)])

    assert ledger.outputs.output_at(f"{claim.job_id}/a.png").id == "second"
    assert ledger.outputs.output_at(key).stored_name == "a.png"
    for name in ("b.png", "1/a.png", "3/a.png", "%", "_.png"):
        with pytest.raises(NotFound):
            ledger.outputs.output_at(f"{claim.job_id}/{name}")
