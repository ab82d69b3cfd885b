"""What a life of jobs adds up to for metrics, on both databases."""

from __future__ import annotations

from contextlib import suppress

import pytest
from sqlalchemy import func, select

from core.ledger import Ledger
from core.ledger.database.metric_tables import metric_entries, metric_sums
from core.ledger.metrics import bounded_labels
from core.ledger.webhooks.outbox import TryResult
from core.metrics.counted import (
    ATTEMPTS_LOST,
    GPU_SECONDS,
    JOB_DURATION,
    JOB_LOAD,
    JOB_RUN,
    JOB_STORE,
    JOB_WAIT,
    JOBS_ENDED,
    JOBS_FAILED,
    LEASES_LOST,
    WEBHOOK_DELIVERY,
    WEBHOOK_TRIES,
    WEBHOOKS_ENDED,
)
from core.metrics.family import Family
from core.metrics.tally import SUM, parts_of, sample_of
from core.records.usage import GpuTime
from tests.ledger_moves import ERROR, WEBHOOK, claimed, lapse, produced, stored, submit, succeeded
from tests.makers import come_up

GPU = "gpu0@here"


def folded(ledger: Ledger) -> dict[str, float]:
    """All sums, when everything is folded."""
    while ledger.usage.fold() or ledger.metrics.fold():
        continue
    return ledger.metrics.read()


def seen(sums: dict[str, float], family: Family, *labels: str) -> tuple[float, float]:
    """How many values a histogram has, and their sum."""
    parts = {
        parts_of(sample)[1]: amount for sample, amount in sums.items() if parts_of(sample)[::2] == (family.name, labels)
    }
    return sum(amount for part, amount in parts.items() if part != SUM), parts.get(SUM, 0.0)


def test_a_job_that_succeeds_is_seen_in_every_step(ledger: Ledger) -> None:
    come_up(ledger, GPU)
    claim = claimed(ledger, tenant="anna", template="sd3")
    spent = GpuTime(run_ms=4_000, load_ms=1_500)
    ledger.claims.generated(claim, [produced(claim)], outputs_reused=False, spent=spent)
    pending = ledger.outputs.pending(claim.job_id, claim.attempt).files
    ledger.outputs.succeed(claim.job_id, claim.attempt, [stored(file) for file in pending])
    job = ledger.jobs.get(claim.job_id)

    sums = folded(ledger)

    assert sums[sample_of(JOBS_ENDED, "", ("succeeded", "sd3", "anna"))] == 1
    assert seen(sums, JOB_RUN, "sd3") == (1, 4.0)
    assert seen(sums, JOB_LOAD, "sd3") == (1, 1.5)
    assert job.started_at_ms is not None
    assert job.completed_at_ms is not None
    assert seen(sums, JOB_WAIT, "anna") == (1, (job.started_at_ms - job.created_at_ms) / 1000)
    assert seen(sums, JOB_DURATION, "anna") == (1, (job.completed_at_ms - job.created_at_ms) / 1000)
    assert seen(sums, JOB_STORE)[0] == 1
    gpu_kind = job.gpu or "none"
    assert sums[sample_of(GPU_SECONDS, "", (gpu_kind, "run"))] == 4.0


def test_a_job_that_is_stored_at_once_is_seen_the_same(ledger: Ledger) -> None:
    come_up(ledger, GPU)
    claim = claimed(ledger)
    file = stored(produced(claim))
    ledger.outputs.succeed_at_once(claim, [file], outputs_reused=False, spent=GpuTime(run_ms=2_000, load_ms=0))

    sums = folded(ledger)

    assert seen(sums, JOB_RUN, "none") == (1, 2.0)
    assert seen(sums, JOB_LOAD, "none")[0] == 0
    assert [seen(sums, family, *labels)[0] for family, labels in ((JOB_WAIT, ("default",)), (JOB_STORE, ()))] == [1, 1]


def test_a_job_that_never_began_waited_for_nothing_that_is_counted(ledger: Ledger) -> None:
    ledger.jobs.cancel(submit(ledger).id)

    sums = folded(ledger)

    assert sums[sample_of(JOBS_ENDED, "", ("canceled", "none", "default"))] == 1
    assert seen(sums, JOB_WAIT, "default")[0] == 0


def test_what_is_lost_is_counted_by_its_code_and_its_lapsed_lease(ledger: Ledger) -> None:
    come_up(ledger, GPU)
    claim = claimed(ledger)
    lapse(ledger, claim.job_id)
    ledger.requeue.take_back_lapsed()
    again = ledger.claims.claim(GPU, named=claim.job_id)
    assert again is not None
    ledger.requeue.release(again, reason="lost", code="out_of_memory")
    once_more = ledger.claims.claim(GPU, named=claim.job_id)
    if once_more is not None:
        ledger.claims.fail(once_more, ERROR)

    sums = folded(ledger)

    assert sums[sample_of(LEASES_LOST, "", ())] == 1
    assert sums[sample_of(ATTEMPTS_LOST, "", ("instance_lost",))] == 1
    assert sums[sample_of(ATTEMPTS_LOST, "", ("out_of_memory",))] == 1
    if once_more is not None:
        assert sums[sample_of(JOBS_FAILED, "", (ERROR.code,))] == 1


def test_files_that_are_lost_take_back_nothing_that_was_counted(ledger: Ledger) -> None:
    come_up(ledger, GPU)
    claim = claimed(ledger)
    spent = GpuTime(run_ms=3_000, load_ms=0)
    ledger.claims.generated(claim, [produced(claim)], outputs_reused=False, spent=spent, may_run_again=True)
    before = folded(ledger)

    ledger.requeue.lose_files(claim.job_id, claim.attempt)

    after = folded(ledger)
    assert all(after[sample] >= amount for sample, amount in before.items())


def test_webhooks_are_counted_by_try_and_by_end(ledger: Ledger) -> None:
    come_up(ledger, GPU)
    succeeded(ledger, webhook=WEBHOOK)
    due = ledger.outbox.due()
    assert due
    for result in (
        TryResult(at_ms=0, duration_ms=1, status_code=500, error="500"),
        TryResult(at_ms=0, duration_ms=1, status_code=200),
    ):
        posts = ledger.outbox.take([due[0].id])
        ledger.outbox.record([(post, result) for post in posts])
        if result.error is not None:
            ledger.deliveries.replay(due[0].id)

    sums = folded(ledger)

    assert sums[sample_of(WEBHOOK_TRIES, "", ("failed",))] == 1
    assert sums[sample_of(WEBHOOK_TRIES, "", ("arrived",))] == 1
    assert sums[sample_of(WEBHOOKS_ENDED, "", ("delivered",))] == 1
    assert seen(sums, WEBHOOK_DELIVERY)[0] == 1


def test_a_report_that_comes_twice_counts_once_and_folding_takes_all(ledger: Ledger) -> None:
    sample = sample_of(LEASES_LOST, "", ())
    for _ in range(2):
        ledger.metrics.report("a", {sample: 2.0})
    ledger.metrics.report("b", {sample: 1.0})

    assert ledger.metrics.read() == {}
    assert [ledger.metrics.fold(limit=1) for _ in range(3)] == [1, 1, 0]

    assert ledger.metrics.read()[sample] == 3
    with ledger.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(metric_entries)).scalar_one() == 0


def test_of_many_tenants_the_first_have_samples_and_the_others_one_together(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_labels, "LARGEST", 2)
    for tenant in ("a", "b", "c", "d", "a"):
        ledger.jobs.cancel(submit(ledger, tenant=tenant).id)
        ledger.usage.fold()

    sums = ledger.metrics.read()

    ended = {parts_of(sample)[2][2]: amount for sample, amount in sums.items() if sample.startswith(JOBS_ENDED.name)}
    assert ended == {"a": 2, "b": 1, "other": 2}


def test_the_largest_take_the_place_of_those_that_have_grown_quiet_and_no_sum_falls(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded_labels, "LARGEST", 2)
    for tenant in ("a", "b", *["c"] * 3, *["b"] * 2):
        ledger.jobs.cancel(submit(ledger, tenant=tenant).id)
        ledger.usage.fold()
    before = ledger.metrics.read()
    monkeypatch.setattr(bounded_labels, "LOOK_MS", -1)
    ledger.jobs.cancel(submit(ledger, tenant="b").id)
    ledger.usage.fold()
    monkeypatch.setattr(bounded_labels, "LOOK_MS", 10**9)
    ledger.jobs.cancel(submit(ledger, tenant="c").id)
    ledger.usage.fold()

    after = ledger.metrics.read()

    def ended(sums: dict[str, float]) -> dict[str, float]:
        return {parts_of(each)[2][2]: amount for each, amount in sums.items() if each.startswith(JOBS_ENDED.name)}

    assert ended(before) == {"a": 1, "b": 3, "other": 3}
    # `a` has lost its samples; what `c` had as one of the others stays there, and it counts by itself from now on.
    assert ended(after) == {"b": 4, "other": 3, "c": 1}


def test_a_transaction_that_is_rolled_back_counts_nothing(ledger: Ledger) -> None:
    with suppress(RuntimeError), ledger.database.write() as transaction:
        transaction.tally.add(LEASES_LOST)
        raise RuntimeError

    assert folded(ledger) == {}
    with ledger.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(metric_sums)).scalar_one() == 0
