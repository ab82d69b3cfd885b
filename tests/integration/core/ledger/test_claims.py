"""Claims and leases on SQLite and on PostgreSQL: one job, one owner, and what an owner of the past may not do."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from core.errors import ComfylineError, StaleAttempt
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database import connections
from core.ledger.durations import DEFAULT_S
from core.records.job import CANCELED, CANCELING, DELIVERING, FAILED, QUEUED, RUNNING, SUCCEEDED, Status, prompt_id_of
from core.records.job_error import JobError, JobWarning
from core.records.progress import Progress
from core.settings import Settings
from tests.ledger_moves import (
    ERROR,
    check_log,
    claimed,
    generated,
    in_parallel,
    lapse,
    produced,
    register,
    set_columns,
    stored,
    submit,
    succeeded,
)


@pytest.mark.parametrize("named", [False, True])
def test_twenty_workers_claim_a_hundred_jobs_once_each(
    named: bool, ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody waits for a client here: who gets the lock last on a busy machine is not refused.
    monkeypatch.setattr(connections, "TIMEOUT_S", 60.0)
    ledger = Ledger(ledger_settings, pool_size=10)
    ids = [submit(ledger, priority=number % 3).id for number in range(100)]
    # Each job has a turn, and the workers get them in an order that is not the queue's.
    turns = iter(ids[::-1])
    lock = threading.Lock()

    def work(number: int) -> list[Claim]:
        taken: list[Claim] = []
        while True:
            with lock:
                turn = next(turns, None)
            if turn is None:
                return taken
            claim = ledger.claims.claim(f"gpu{number}@here", named=turn if named else None)
            if claim is not None:
                taken.append(claim)

    try:
        results = in_parallel(20, work)

        assert [result for result in results if isinstance(result, ComfylineError)] == []
        taken = [claim for result in results if not isinstance(result, ComfylineError) for claim in result]
        # A hundred turns, a hundred claims: no turn came away empty while a job waited.
        assert sorted(claim.job_id for claim in taken) == sorted(ids)
        assert {claim.attempt for claim in taken} == {1}
        for job_id in ids:
            assert check_log(ledger, job_id) == [QUEUED, RUNNING]
    finally:
        ledger.close()


def test_gpus_that_ask_at_once_do_not_all_load_the_same_models(ledger_settings: Settings) -> None:
    """As when a fleet starts, or several are idle: each claim sees what the one before it loads."""
    gpus = 6
    ledgers = [Ledger(ledger_settings) for _ in range(gpus)]
    for number in range(gpus):
        register(ledgers[0], f"gpu{number}@here")
    for number in range(3 * gpus):
        submit(ledgers[0], models=(f"model{number % gpus}",))
    at_once = threading.Barrier(gpus)

    def work(number: int) -> Claim | None:
        at_once.wait()
        # One whom the others were ahead of each time comes away with nothing, and is sent another turn.
        tries = (ledgers[number].claims.claim(f"gpu{number}@here") for _ in range(5))
        return next((found for found in tries if found is not None), None)

    try:
        claims = in_parallel(gpus, work)
        loaded = [claim.models for claim in claims if isinstance(claim, Claim)]
        assert sorted(loaded) == [(f"model{number}",) for number in range(gpus)]
    finally:
        for ledger in ledgers:
            ledger.close()


def test_a_claim_holds_what_the_worker_needs(ledger: Ledger) -> None:
    job = submit(ledger, graph_text='{"7":{}}', nodes_total=1, timeout_s=12.5)

    claim = ledger.claims.claim("gpu0@here")

    assert claim == Claim(
        job_id=job.id,
        attempt=1,
        graph='{"7":{}}',
        nodes_total=1,
        run_s=DEFAULT_S,
        timeout_s=12.5,
        has_webhook=False,
        has_secrets=False,
        created_at_ms=job.created_at_ms,
    )
    assert claim.prompt_id == prompt_id_of(job.id, 1)
    running = ledger.jobs.get(job.id)
    assert (running.status, running.instance, running.attempt) == (RUNNING, "gpu0@here", 1)
    assert running.started_at_ms is not None
    assert ledger.jobs.events(job.id)[-1].data == {"status": RUNNING, "instance": "gpu0@here"}


def test_nothing_to_claim(ledger: Ledger) -> None:
    done = succeeded(ledger)

    assert ledger.claims.claim("gpu0@here") is None
    assert ledger.claims.claim("gpu0@here", named=done.job_id) is None


def test_priority_goes_before_the_named_job_and_that_before_the_oldest(ledger: Ledger) -> None:
    oldest, other, named = submit(ledger), submit(ledger), submit(ledger)
    urgent = submit(ledger, priority=1)
    turn = named.id

    order = [ledger.claims.claim("gpu0@here", named=turn) for _ in range(5)]

    assert [claim and claim.job_id for claim in order] == [urgent.id, named.id, oldest.id, other.id, None]


def test_a_turn_for_a_less_urgent_job_takes_the_urgent_one(ledger: Ledger) -> None:
    usual, idle_work = submit(ledger), submit(ledger, priority=-5)

    first = ledger.claims.claim("gpu0@here", named=idle_work.id)
    second = ledger.claims.claim("gpu1@here", named=usual.id)

    assert [first and first.job_id, second and second.job_id] == [usual.id, idle_work.id]


def test_only_a_surplus_is_taken_by_a_busy_instance(ledger: Ledger) -> None:
    for name in ("gpu0@here", "gpu1@here", "gpu2@here"):
        register(ledger, name)
    claimed(ledger, "gpu0@here")
    submit(ledger)
    submit(ledger)
    # Two wait, two are idle: each of them will start one now.
    assert ledger.claims.claim("gpu0@here", ahead=True) is None

    third = submit(ledger)
    assert ledger.claims.claim("gpu0@here", ahead=True, named=third.id) is not None
    assert ledger.claims.claim("gpu0@here", ahead=True) is None

    # An instance that is not healthy, or has fallen silent, starts nothing.
    ledger.instances.down("gpu1@here", worker="w-gpu1@here", state="unhealthy", reason="no answer")
    assert ledger.claims.claim("gpu0@here", ahead=True) is not None


def test_a_surplus_needs_somebody_who_waits(ledger: Ledger) -> None:
    assert ledger.claims.claim("gpu0@here", ahead=True) is None
    submit(ledger)
    assert ledger.claims.claim("gpu0@here", ahead=True) is not None


def test_a_renewed_lease_does_not_lapse(ledger: Ledger) -> None:
    claim = claimed(ledger)
    lapse(ledger, claim.job_id)

    assert ledger.claims.renew([claim]) == {claim.job_id: RUNNING}
    assert ledger.requeue.take_back_lapsed() == {}


def test_renewing_tells_of_a_wish_to_cancel_and_of_losses(ledger: Ledger) -> None:
    kept, wanted_back, lost = claimed(ledger), claimed(ledger), claimed(ledger)
    ledger.jobs.cancel(wanted_back.job_id)
    lapse(ledger, lost.job_id)
    ledger.requeue.take_back_lapsed()

    held = ledger.claims.renew([kept, wanted_back, lost])

    assert held == {kept.job_id: RUNNING, wanted_back.job_id: CANCELING}
    assert ledger.claims.renew([]) == {}


def test_a_lapsed_lease_is_queued_again_until_the_tries_are_used_up(ledger_settings: Settings) -> None:
    ledger = Ledger(ledger_settings.model_copy(update={"max_attempts": 2}))
    try:
        job_id = submit(ledger).id
        ends = []
        for attempt in (1, 2):
            claim = ledger.claims.claim("gpu0@here")
            assert claim is not None
            assert claim.attempt == attempt
            lapse(ledger, job_id)
            ends.append(ledger.requeue.take_back_lapsed())

        assert ends == [{job_id: QUEUED}, {job_id: FAILED}]
        assert check_log(ledger, job_id) == [QUEUED, RUNNING, QUEUED, RUNNING, FAILED]
        error = ledger.jobs.get(job_id).error
        assert error is not None
        assert error.code == "poison"
        assert "2 lost attempts" in error.message
        assert ledger.claims.claim("gpu0@here") is None
    finally:
        ledger.close()


def test_a_lapsed_lease_is_taken_back_once(ledger: Ledger) -> None:
    claims = [claimed(ledger) for _ in range(5)]
    for claim in claims:
        lapse(ledger, claim.job_id)

    results = in_parallel(6, lambda _number: ledger.requeue.take_back_lapsed())

    taken = [job_id for result in results if isinstance(result, dict) for job_id in result]
    assert sorted(taken) == sorted(claim.job_id for claim in claims)
    for claim in claims:
        assert check_log(ledger, claim.job_id) == [QUEUED, RUNNING, QUEUED]


def test_a_renewal_races_the_taking_back(ledger: Ledger) -> None:
    for _ in range(10):
        claim = claimed(ledger)
        lapse(ledger, claim.job_id)

        def act(number: int, claim: Claim = claim) -> dict[str, Status]:
            return ledger.claims.renew([claim]) if number else ledger.requeue.take_back_lapsed()

        in_parallel(2, act)

        # Either the worker holds it, or it waits for another one; never both.
        status = check_log(ledger, claim.job_id)[-1]
        assert ledger.claims.renew([claim]) == ({claim.job_id: RUNNING} if status == RUNNING else {})
        assert status in {RUNNING, QUEUED}
        ledger.jobs.cancel(claim.job_id)


def test_the_leases_of_a_dead_worker_can_be_ended_at_once(ledger: Ledger) -> None:
    dead, alive = claimed(ledger, "gpu0@here"), claimed(ledger, "gpu1@here")

    ledger.requeue.expire_leases("gpu0@here")

    assert ledger.requeue.take_back_lapsed() == {dead.job_id: QUEUED}
    assert ledger.claims.renew([alive]) == {alive.job_id: RUNNING}


@pytest.mark.parametrize("next_owner", ["nobody", "another worker", "an ended job"])
def test_an_attempt_of_the_past_writes_nothing(next_owner: str, ledger: Ledger) -> None:
    stale = claimed(ledger)
    lapse(ledger, stale.job_id)
    ledger.requeue.take_back_lapsed()
    if next_owner != "nobody":
        current = ledger.claims.claim("gpu1@here", named=stale.job_id)
        assert current is not None
        if next_owner == "an ended job":
            ledger.claims.fail(current, ERROR)
    before = _snapshot(ledger, stale.job_id)

    assert ledger.claims.renew([stale]) == {}
    ledger.claims.progress(stale, Progress(value=0.9))
    with pytest.raises(StaleAttempt):
        ledger.claims.generated(stale, [produced(stale)], outputs_reused=True)
    assert ledger.claims.fail(stale, JobError(code="x", message="stale")) is False
    assert ledger.claims.canceled(stale) is False
    assert ledger.requeue.release(stale, reason="stale") is None
    with pytest.raises(StaleAttempt):
        ledger.outputs.pending(stale.job_id, stale.attempt)
    with pytest.raises(StaleAttempt):
        ledger.outputs.succeed(stale.job_id, stale.attempt, [])
    assert ledger.outputs.fail(stale.job_id, stale.attempt, ERROR) is False

    assert _snapshot(ledger, stale.job_id) == before


def test_progress_of_the_running_attempt_is_kept(ledger: Ledger) -> None:
    claim = claimed(ledger)

    ledger.claims.progress(claim, Progress(value=0.25, current_node="3"))

    job = ledger.jobs.get(claim.job_id)
    assert job.progress == Progress(value=0.25, current_node="3")
    assert job.last_seq == 2


def test_a_retry_begins_without_the_last_attempts_traces(ledger: Ledger) -> None:
    claim = claimed(ledger)
    ledger.claims.progress(claim, Progress(value=0.9))

    assert ledger.requeue.release(claim, reason="The instance was lost.") == QUEUED

    job = ledger.jobs.get(claim.job_id)
    assert job.progress is None
    assert ledger.jobs.events(job.id)[-1].data == {
        "status": QUEUED,
        "reason": "The instance was lost.",
        "code": "instance_lost",
    }


def test_giving_back_what_had_not_begun_costs_no_try(ledger: Ledger) -> None:
    job_id = submit(ledger).id
    for _ in range(5):
        claim = ledger.claims.claim("gpu0@here")
        assert claim is not None
        assert ledger.requeue.release(claim, reason="The worker stops.", lost=False) == QUEUED

    assert ledger.jobs.get(job_id).attempt == 5


def test_giving_back_what_was_to_be_cancelled_ends_it(ledger: Ledger) -> None:
    claim = claimed(ledger)
    ledger.jobs.cancel(claim.job_id)

    assert ledger.requeue.release(claim, reason="lost") == CANCELED


def test_a_cancelled_job_is_not_generated(ledger: Ledger) -> None:
    claim = claimed(ledger)
    ledger.jobs.cancel(claim.job_id)

    with pytest.raises(StaleAttempt):
        ledger.claims.generated(claim, [produced(claim)], outputs_reused=False)

    assert ledger.claims.canceled(claim)
    assert check_log(ledger, claim.job_id) == [QUEUED, RUNNING, CANCELING, CANCELED]


def test_files_are_delivered_in_the_order_they_were_produced(ledger: Ledger) -> None:
    claim = claimed(ledger)
    files = [produced(claim, number) for number in range(12)]
    ledger.claims.generated(claim, files, outputs_reused=True)

    pending = ledger.outputs.pending(claim.job_id, claim.attempt).files
    assert [(file.id, file.name, file.source) for file in pending] == [
        (file.id, file.name, file.source) for file in files
    ]
    assert [file.ordinal for file in pending] == list(range(1, 13))
    # What is not in storage yet is no output.
    assert ledger.jobs.get(claim.job_id).outputs == ()

    ledger.outputs.succeed(claim.job_id, claim.attempt, [stored(file) for file in pending])

    job = ledger.jobs.get(claim.job_id)
    assert [output.id for output in job.outputs] == [file.id for file in files]
    assert job.outputs_reused is True
    assert ledger.outputs.asset(files[0].id) == job.outputs[0]
    log = ledger.jobs.events(job.id)
    assert [event.data["asset_id"] for event in log if event.type == "output"] == [file.id for file in files]
    assert check_log(ledger, job.id) == [QUEUED, RUNNING, DELIVERING, SUCCEEDED]
    assert ledger.jobs.events(job.id, after_seq=14) == log[14:]


def test_what_is_stored_already_ends_its_job_in_the_same_steps(ledger: Ledger) -> None:
    claim = claimed(ledger)
    files = [stored(produced(claim, number)) for number in range(3)]

    ledger.outputs.succeed_at_once(claim, files, outputs_reused=True, warnings=[JobWarning(message="a part")])

    job = ledger.jobs.get(claim.job_id)
    assert [(output.id, output.storage_key) for output in job.outputs] == [
        (file.id, file.storage_key) for file in files
    ]
    assert (job.outputs_reused, job.warnings) == (True, (JobWarning(message="a part"),))
    log = ledger.jobs.events(job.id)
    assert [event.seq for event in log] == list(range(1, 8))
    assert [event.data["asset_id"] for event in log if event.type == "output"] == [file.id for file in files]
    assert job.last_seq == 7
    assert check_log(ledger, job.id) == [QUEUED, RUNNING, DELIVERING, SUCCEEDED]


@pytest.mark.parametrize("owner", ["a client who cancels", "another attempt"])
def test_what_is_stored_already_is_not_recorded_for_a_job_that_is_lost(owner: str, ledger: Ledger) -> None:
    claim = claimed(ledger)
    if owner == "another attempt":
        ledger.requeue.release(claim, reason="lost")
        assert ledger.claims.claim("gpu1@here", named=claim.job_id) is not None
    else:
        ledger.jobs.cancel(claim.job_id)
    before = _snapshot(ledger, claim.job_id)

    with pytest.raises(StaleAttempt):
        ledger.outputs.succeed_at_once(claim, [stored(produced(claim))], outputs_reused=False)

    assert _snapshot(ledger, claim.job_id) == before


def test_a_delivery_is_ended_once(ledger: Ledger) -> None:
    claim = generated(ledger, files=2)
    pending = [stored(file) for file in ledger.outputs.pending(claim.job_id, claim.attempt).files]

    results = in_parallel(5, lambda _number: ledger.outputs.succeed(claim.job_id, claim.attempt, pending))

    assert [type(result) for result in results].count(StaleAttempt) == 4
    assert check_log(ledger, claim.job_id)[-1] == SUCCEEDED
    assert len(ledger.jobs.get(claim.job_id).outputs) == 2


def test_a_forgotten_delivery_is_found_once_a_while(ledger: Ledger) -> None:
    claim = generated(ledger, instance="gpu3@there")
    assert ledger.outputs.overdue() == []
    set_columns(ledger, claim.job_id, updated_at_ms=1)

    found = [found for found in in_parallel(4, lambda _number: ledger.outputs.overdue()) if found]

    assert found == [[(claim.job_id, claim.attempt, "gpu3@there")]]
    assert ledger.outputs.overdue() == []


def _snapshot(ledger: Ledger, job_id: str) -> tuple[Any, ...]:
    return ledger.jobs.get(job_id), ledger.jobs.events(job_id)


def test_a_job_is_claimed_only_by_instances_that_know_its_nodes(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    [digest] = ledger.instances.catalogues()
    elsewhere = submit(ledger, catalogues=("of-another-machine",), priority=5)
    here = submit(ledger, catalogues=("of-another-machine", digest))
    anywhere = submit(ledger)

    assert [ledger.claims.claim("gpu0@here", named=elsewhere.id) for _ in range(3)][2] is None
    assert ledger.jobs.get(elsewhere.id).status == QUEUED
    assert {ledger.jobs.get(job.id).status for job in (here, anywhere)} == {RUNNING}
