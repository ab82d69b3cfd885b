"""Jobs that come back from a GPU: where they are tried again, what counts as a try, and which instances take none."""

from __future__ import annotations

import pytest

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.instances import DISK_FULL, DRAINED, DRAINING, HEALTHY, QUARANTINED, STOPPED, UNHEALTHY
from core.ledger.scheduling.avoidance import AVOID_MS
from core.records.job import CANCELED, EXPIRED, FAILED, QUEUED, prompt_id_of
from tests.ledger_moves import check_log, claimed, register, set_columns, submit


def test_a_lost_job_is_left_to_another_instance_for_a_minute(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    register(ledger, "gpu1@here")
    claim = claimed(ledger, "gpu0@here")
    ledger.requeue.release(claim, reason="lost")

    assert ledger.claims.claim("gpu0@here", named=claim.job_id) is None
    assert ledger.claims.claim("gpu0@here") is None

    set_columns(ledger, claim.job_id, updated_at_ms=ledger.jobs.get(claim.job_id).updated_at_ms - AVOID_MS - 1)
    assert ledger.claims.claim("gpu0@here") is not None


def test_another_instance_takes_a_lost_job_at_once(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    register(ledger, "gpu1@here")
    claim = claimed(ledger, "gpu0@here")
    ledger.requeue.release(claim, reason="lost")

    second = ledger.claims.claim("gpu1@here", named=claim.job_id)

    assert second is not None
    assert (second.attempt, second.lost_code) == (2, "instance_lost")


@pytest.mark.parametrize("other", ["none", "away", "of another kind"])
def test_the_only_instance_that_can_run_a_lost_job_tries_it_again(other: str, ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    if other != "none":
        register(ledger, "gpu1@here", {"Other": {}} if other == "of another kind" else None)
    if other == "away":
        ledger.instances.down("gpu1@here", worker="w-gpu1@here", state=UNHEALTHY, reason="gone")
    [digest] = [key for key, names in ledger.instances.catalogues().items() if "gpu0@here" in names]
    claim = claimed(ledger, "gpu0@here", catalogues=(digest,))
    ledger.requeue.release(claim, reason="lost")

    assert ledger.claims.claim("gpu0@here") is not None


@pytest.mark.parametrize("state", [UNHEALTHY, DRAINING, DISK_FULL, QUARANTINED])
def test_an_instance_that_is_not_healthy_claims_nothing(state: str, ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    ledger.instances.down("gpu0@here", worker="w-gpu0@here", state=state, reason="because")
    job = submit(ledger)

    assert ledger.claims.claim("gpu0@here", named=job.id) is None
    assert ledger.claims.claim("gpu0@here", ahead=True) is None
    assert ledger.claims.claim("gpu1@here") is not None


def test_a_job_on_deck_has_no_part_in_the_loss_of_its_instance(ledger: Ledger) -> None:
    submit(ledger)
    claim = ledger.claims.claim("gpu0@here", ahead=True)
    assert claim is not None

    for _ in range(5):
        assert ledger.requeue.release(claim, reason="lost") == QUEUED
        claim = ledger.claims.claim("gpu0@here", ahead=True)
        assert claim is not None
        assert claim.lost_code is None


def test_a_job_on_deck_that_has_begun_counts_like_any_other(ledger: Ledger) -> None:
    submit(ledger)
    claim = ledger.claims.claim("gpu0@here", ahead=True)
    assert claim is not None
    ledger.claims.begun(claim)

    ledger.requeue.release(claim, reason="lost")

    again = ledger.claims.claim("gpu0@here")
    assert again is not None
    assert again.lost_code == "instance_lost"


def test_a_job_that_waited_in_comfyuis_queue_starts_when_it_begins(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    claim = claimed(ledger, "gpu0@here")
    set_columns(ledger, claim.job_id, started_at_ms=now_ms() - 60_000)

    ledger.claims.begun(claim)

    started_at_ms = ledger.jobs.get(claim.job_id).started_at_ms
    assert started_at_ms is not None
    assert started_at_ms > now_ms() - 30_000


@pytest.mark.parametrize(("code", "final"), [("instance_lost", "poison"), ("stuck", "stuck")])
def test_the_last_try_ends_with_a_code_that_says_why(code: str, final: str, ledger: Ledger) -> None:
    job_id = submit(ledger).id
    for _ in range(3):
        claim = ledger.claims.claim("gpu0@here")
        assert claim is not None
        ledger.requeue.release(claim, reason="Once more.", code=code)

    assert check_log(ledger, job_id)[-1] == FAILED
    error = ledger.jobs.get(job_id).error
    assert error is not None
    assert error.code == final


def test_everything_an_instance_holds_is_given_back_uncounted(ledger: Ledger) -> None:
    running, unwanted, elsewhere = claimed(ledger), claimed(ledger), claimed(ledger, "gpu1@here")
    ledger.jobs.cancel(unwanted.job_id)

    given_back = ledger.requeue.release_all("gpu0@here", reason="The worker stops.")

    assert {found.job_id: found.status for found in given_back} == {running.job_id: QUEUED, unwanted.job_id: CANCELED}
    assert {found.prompt_id for found in given_back} == {running.prompt_id, prompt_id_of(unwanted.job_id, 1)}
    assert ledger.claims.renew([elsewhere]) != {}
    again = ledger.claims.claim("gpu0@here")
    assert again is not None
    assert again.lost_code is None


def test_jobs_that_waited_too_long_for_their_first_gpu_expire(ledger: Ledger) -> None:
    late, retried, fresh = submit(ledger), claimed(ledger), submit(ledger)
    ledger.requeue.release(retried, reason="lost")
    for job_id in (late.id, retried.job_id):
        set_columns(ledger, job_id, created_at_ms=late.created_at_ms - 60_000)

    assert ledger.requeue.expire_waiting(timeout_s=30) == [late.id]

    assert check_log(ledger, late.id) == [QUEUED, EXPIRED]
    error = ledger.jobs.get(late.id).error
    assert error is not None
    assert error.code == "queue_timeout"
    assert {ledger.jobs.get(job_id).status for job_id in (retried.job_id, fresh.id)} == {QUEUED}


def test_a_drain_outlives_the_worker_and_is_over_when_the_job_is(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    claim = claimed(ledger)
    ledger.instances.heartbeat(
        "gpu0@here", worker="w-gpu0@here", state=DRAINING, reason="Because.", is_drained=True, restarts=0
    )
    assert [record.state for record in ledger.instances.all()] == [DRAINING]

    ledger.requeue.release(claim, reason="lost")

    assert [record.state for record in ledger.instances.all()] == [DRAINED]
    ledger.instances.down("gpu0@here", worker="w-gpu0@here", state=STOPPED, reason="")
    assert ledger.instances.register(name="gpu0@here", host="here", worker="w2", kind="simulator", gpu=None)
    ledger.instances.heartbeat("gpu0@here", worker="w2", state=HEALTHY, reason=None, is_drained=False, restarts=0)
    ledger.instances.down("gpu0@here", worker="w2", state=STOPPED, reason="")
    assert ledger.instances.register(name="gpu0@here", host="here", worker="w3", kind="simulator", gpu=None) is False


def test_jobs_that_nobody_began_by_their_deadlines_expire(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    late, patient, begun = submit(ledger, start_within_s=600.0), submit(ledger), claimed(ledger, start_within_s=600.0)
    ledger.requeue.release(begun, reason="lost")
    assert ledger.requeue.nearest_deadline_ms() == late.created_at_ms + 600_000, "one that was begun has none any more"
    assert ledger.requeue.expire_late() == []
    set_columns(ledger, late.id, start_by_ms=now_ms() - 1)

    assert ledger.claims.claim("gpu0@here", named=late.id) is not None, "another one"
    assert ledger.jobs.get(late.id).status == QUEUED, "nobody takes it when it is too late"
    assert ledger.requeue.expire_late() == [late.id]

    assert check_log(ledger, late.id) == [QUEUED, EXPIRED]
    error = ledger.jobs.get(late.id).error
    assert error is not None
    assert (error.code, error.message) == ("start_timeout", "No GPU began it within 600 s.")
    assert ledger.requeue.nearest_deadline_ms() is None
    assert {ledger.jobs.get(each).status for each in (patient.id, begun.job_id)} == {QUEUED, "running"}
