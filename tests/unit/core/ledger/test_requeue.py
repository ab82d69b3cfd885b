"""Jobs that come back from a GPU: what counts as a try, what ends, and what waits again."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger import requeue as requeue_module
from core.ledger.claims import Claim
from core.ledger.database.tables import assets, jobs
from core.ledger.requeue import (
    INSTANCE_LOST,
    MAX_LOSSES,
    POISON,
    QUEUE_TIMEOUT,
    STALLED_MS,
    START_TIMEOUT,
    GivenBack,
    Requeue,
)
from core.ledger.scheduling.lines import LineKind
from core.records.job import CANCELED, EXPIRED, FAILED, QUEUED, RUNNING, Status, prompt_id_of
from core.records.job_error import JobError, Loss
from core.records.progress import Progress
from tests.ledger_moves import check_log, claimed, lapse, set_columns, submit
from tests.makers import NAME, StoppedClock, come_up


def again(ledger: Ledger, job_id: str, instance: str) -> Claim:
    """Claim a job that waits again."""
    claim = ledger.claims.claim(instance, named=job_id)
    assert claim is not None
    return claim


def on_deck(ledger: Ledger) -> Claim:
    """A job that waits behind a running one of the same instance."""
    submit(ledger)
    ahead = ledger.claims.claim(NAME, ahead=True)
    assert ahead is not None
    return ahead


class TestRelease:
    def test_a_lost_attempt_is_told_of(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger, device="RTX")
        claim = claimed(ledger)
        ledger.claims.progress(claim, Progress(value=0.5))
        clock.pass_ms(3)
        assert ledger.requeue.release(claim, reason="It went away.", code="stuck") == QUEUED
        job = ledger.jobs.get(claim.job_id)
        loss = Loss(attempt=1, code="stuck", instance=NAME, gpu="RTX", at_ms=clock.now_ms)
        assert (job.status, job.progress, job.losses) == (QUEUED, None, (loss,))
        assert ledger.jobs.events(job.id)[-1].data == {
            "status": QUEUED,
            "reason": "It went away.",
            "code": "stuck",
        }
        assert row(ledger, job.id) == (None, 1, NAME, "stuck", False)
        assert check_log(ledger, job.id) == [QUEUED, RUNNING, QUEUED]

    def test_an_orderly_stop_counts_as_no_try(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        assert ledger.requeue.release(claim, reason="stopped", lost=False) == QUEUED
        assert row(ledger, claim.job_id) == (None, 0, None, None, False)
        assert ledger.jobs.get(claim.job_id).losses == ()
        assert ledger.jobs.events(claim.job_id)[-1].data == {"status": QUEUED, "reason": "stopped"}

    def test_a_stale_attempt_gives_nothing_back(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        ledger.requeue.release(claim, reason="once")
        assert ledger.requeue.release(claim, reason="twice") is None

    def test_what_is_to_be_cancelled_ends_uncounted(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        ledger.jobs.cancel(claim.job_id)
        assert ledger.requeue.release(claim, reason="gone") == CANCELED
        assert ledger.jobs.get(claim.job_id).losses == ()

    @pytest.mark.parametrize(("code", "final"), [(INSTANCE_LOST, POISON), ("stuck", "stuck")])
    def test_the_last_try_ends_it(self, ledger: Ledger, code: str, final: str) -> None:
        requeue = Requeue(ledger.database, ledger.lines, max_attempts=2, lease_s=20.0)
        first = claimed(ledger, "gpu0@here")
        assert requeue.release(first, reason="Gone.", code=code) == QUEUED
        second = again(ledger, first.job_id, "gpu1@here")
        assert requeue.release(second, reason="Gone.", code=code) == FAILED
        job = ledger.jobs.get(first.job_id)
        assert job.error == JobError(code=final, message="Given up after 2 lost attempts. Gone.")
        assert [loss.attempt for loss in job.losses] == [1, 2]

    def test_a_job_with_all_its_losses_may_be_given_back_uncounted(self, ledger: Ledger) -> None:
        requeue = Requeue(ledger.database, ledger.lines, max_attempts=1, lease_s=20.0)
        claim = claimed(ledger)
        set_columns(ledger, claim.job_id, lost_attempts=1)
        assert requeue.release(claim, reason="stopped", lost=False) == QUEUED

    def test_the_newest_losses_are_kept(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        losses = [Loss(attempt=-number) for number in range(MAX_LOSSES)]
        set_columns(ledger, claim.job_id, losses=[loss.to_json() for loss in losses])
        ledger.requeue.release(claim, reason="gone")
        found = ledger.jobs.get(claim.job_id).losses
        assert len(found) == MAX_LOSSES
        assert (found[0], found[-1].attempt) == (losses[1], 1)

    def test_one_on_deck_had_no_part_in_it(self, ledger: Ledger) -> None:
        claimed(ledger)
        ahead = on_deck(ledger)
        assert ledger.requeue.release(ahead, reason="gone") == QUEUED
        assert row(ledger, ahead.job_id) == (None, 0, None, None, False)

    def test_files_of_an_attempt_that_is_over_are_nobodys(self, ledger: Ledger) -> None:
        claim = claimed(ledger)
        values = {"id": "a", "job_id": claim.job_id, "attempt": 1, "ordinal": 0, "node_id": "1", "name": "x"}
        values |= {"type": "image", "content_type": "image/png", "comfy_type": "output", "comfy_key": "images"}
        with ledger.database.write() as transaction:
            transaction.connection.execute(
                assets.insert().values(**values, subfolder="", source={}, size_bytes=0, created_at_ms=1)
            )
        ledger.requeue.release(claim, reason="gone")
        with ledger.database.read() as connection:
            assert connection.execute(select(assets.c.id)).all() == []


class TestReleaseAll:
    def test_all_that_an_instance_holds_comes_back(self, ledger: Ledger) -> None:
        running, other = claimed(ledger), claimed(ledger, "gpu1@here")
        ahead = on_deck(ledger)
        canceling = claimed(ledger)
        ledger.jobs.cancel(canceling.job_id)
        given_back = ledger.requeue.release_all(NAME, reason="out of use")
        expected = {running.job_id: QUEUED, ahead.job_id: QUEUED, canceling.job_id: CANCELED}
        assert {found.job_id: found.status for found in given_back} == expected
        assert all(found.prompt_id == prompt_id_of(found.job_id, 1) for found in given_back)
        assert ledger.jobs.get(running.job_id).losses == ()
        assert ledger.jobs.get(other.job_id).status == RUNNING

    def test_or_only_what_has_not_begun(self, ledger: Ledger) -> None:
        running = claimed(ledger)
        ahead = on_deck(ledger)
        given_back = ledger.requeue.release_all(NAME, reason="drained", only_on_deck=True)
        assert given_back == [
            GivenBack(
                job_id=ahead.job_id,
                prompt_id=ahead.prompt_id,
                status=QUEUED,
                attempt=ahead.attempt,
                instance=NAME,
            )
        ]
        assert ledger.jobs.get(running.job_id).status == RUNNING


class TestStalled:
    """What stands behind a prompt that does not end."""

    @pytest.fixture
    def waits(self, ledger: Ledger, clock: StoppedClock) -> Claim:
        come_up(ledger)
        claimed(ledger)
        waits = on_deck(ledger)
        clock.pass_ms(STALLED_MS + 1)
        return waits

    def test_goes_to_a_gpu_that_could_begin_it(self, ledger: Ledger, waits: Claim) -> None:
        come_up(ledger, "gpu1@here")
        [given_back] = ledger.requeue.release_stalled()
        assert (given_back.job_id, given_back.status, given_back.attempt) == (waits.job_id, QUEUED, waits.attempt)
        assert (given_back.instance, given_back.prompt_id) == (NAME, waits.prompt_id)
        assert ledger.requeue.release_stalled() == []
        job = ledger.jobs.get(waits.job_id)
        assert (job.status, job.losses) == (QUEUED, ())

    def test_stays_where_no_other_could(self, ledger: Ledger, waits: Claim) -> None:
        assert ledger.requeue.release_stalled() == [], "there is none"
        come_up(ledger, "gpu1@here", object_info={"Other": {}})
        set_columns(ledger, waits.job_id, line=ledger.lines.id_of(LineKind(priority=0, catalogues="f" * 64)))
        assert ledger.requeue.release_stalled() == [], "it could not run it"

    def test_not_before_its_time(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        claimed(ledger)
        on_deck(ledger)
        come_up(ledger, "gpu1@here")
        clock.pass_ms(STALLED_MS)
        assert ledger.requeue.release_stalled() == []

    def test_what_runs_is_not_stalled(self, ledger: Ledger, waits: Claim) -> None:
        come_up(ledger, "gpu1@here")
        ledger.claims.begun(waits)
        assert ledger.requeue.release_stalled() == []

    def test_its_deadline_passes_also_where_no_other_could_begin_it(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        claimed(ledger)
        waits = on_deck(ledger)
        set_columns(ledger, waits.job_id, start_by_ms=clock.now_ms + 1_000, start_within_s=1.0)
        clock.pass_ms(1_000)
        assert ledger.requeue.release_stalled() == [], "it is its last moment"
        clock.pass_ms(1)
        assert [found.job_id for found in ledger.requeue.release_stalled()] == [waits.job_id]
        assert ledger.requeue.expire_late() == [waits.job_id]


class TestTakingBack:
    def test_leases_of_a_dead_process_end_at_once(self, ledger: Ledger) -> None:
        mine, canceling, other = claimed(ledger), claimed(ledger), claimed(ledger, "gpu1@here")
        ledger.jobs.cancel(canceling.job_id)
        ledger.requeue.expire_leases(NAME)
        assert ledger.requeue.take_back_lapsed() == {mine.job_id: QUEUED, canceling.job_id: CANCELED}
        assert ledger.jobs.get(other.job_id).status == RUNNING
        (loss,) = ledger.jobs.get(mine.job_id).losses
        assert loss.code == INSTANCE_LOST
        assert "lease lapsed" in ledger.jobs.events(mine.job_id)[-1].data["reason"]

    def test_one_that_cannot_be_taken_back_keeps_no_other_waiting(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_ids = taken_back(ledger, monkeypatch, AttributeError("of ours"))
        assert len(ledger.requeue.take_back_lapsed()) == len(job_ids) - 1

    def test_a_ledger_that_is_away_is_not_asked_for_each(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        taken_back(ledger, monkeypatch, LedgerUnavailable("away"))
        assert ledger.requeue.take_back_lapsed() == {}

    def test_one_that_was_renewed_meanwhile_stays(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        claim = claimed(ledger)
        lapse(ledger, claim.job_id)
        take_back = ledger.requeue._take_back

        def renewed_meanwhile(job_id: str, attempt: int, taken: dict[str, Status]) -> None:
            ledger.claims.renew([claim])
            take_back(job_id, attempt, taken)

        monkeypatch.setattr(ledger.requeue, "_take_back", renewed_meanwhile)
        assert ledger.requeue.take_back_lapsed() == {}
        assert ledger.jobs.get(claim.job_id).status == RUNNING

    def test_one_that_began_anew_meanwhile_stays(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        claim = claimed(ledger)
        lapse(ledger, claim.job_id)
        take_back = ledger.requeue._take_back

        def overtaken(job_id: str, attempt: int, taken: dict[str, Status]) -> None:
            take_back(job_id, attempt - 1, taken)

        monkeypatch.setattr(ledger.requeue, "_take_back", overtaken)
        assert ledger.requeue.take_back_lapsed() == {}

    def test_it_goes_in_batches(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(requeue_module, "BATCH", 2)
        for number in range(3):
            lapse(ledger, claimed(ledger, f"gpu{number}@here").job_id)
        assert [len(ledger.requeue.take_back_lapsed()) for _ in range(3)] == [2, 1, 0]


class TestExpiry:
    def test_who_waited_too_long_for_the_first_gpu(self, ledger: Ledger, clock: StoppedClock) -> None:
        late, tried = submit(ledger), claimed(ledger)
        ledger.requeue.release(tried, reason="gone")
        clock.pass_ms(2_000)
        assert ledger.requeue.expire_waiting(timeout_s=2.0) == []
        clock.pass_ms(1)
        submit(ledger)
        assert ledger.requeue.expire_waiting(timeout_s=2.0) == [late.id]
        job = ledger.jobs.get(late.id)
        assert job.status == EXPIRED
        assert job.error == JobError(code=QUEUE_TIMEOUT, message="No GPU was free for it within 2 s.")
        assert ledger.jobs.get(tried.job_id).status == QUEUED, "it had its turn"

    def test_it_goes_in_batches(self, ledger: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(requeue_module, "BATCH", 2)
        for _ in range(3):
            submit(ledger)
        clock.pass_ms(2_000)
        assert [len(ledger.requeue.expire_waiting(timeout_s=1.0)) for _ in range(3)] == [2, 1, 0]


class TestDeadlines:
    def test_who_was_not_begun_in_time(self, ledger: Ledger, clock: StoppedClock) -> None:
        later, sooner, patient = submit(ledger, start_within_s=3.0), submit(ledger, start_within_s=2.0), submit(ledger)
        assert ledger.requeue.nearest_deadline_ms() == clock.now_ms + 2_000
        clock.pass_ms(2_000)
        assert ledger.requeue.expire_late() == []
        clock.pass_ms(1)
        assert ledger.requeue.expire_late() == [sooner.id]
        job = ledger.jobs.get(sooner.id)
        assert job.status == EXPIRED
        assert job.error == JobError(code=START_TIMEOUT, message="No GPU began it within 2 s.")
        assert [ledger.jobs.get(each.id).status for each in (later, patient)] == [QUEUED, QUEUED]
        assert ledger.requeue.nearest_deadline_ms() == clock.now_ms - 1 + 1_000

    def test_nobody_waits_for_a_deadline_that_is_none(self, ledger: Ledger) -> None:
        submit(ledger)
        assert ledger.requeue.nearest_deadline_ms() is None

    def test_it_counts_until_the_first_begin_alone(self, ledger: Ledger, clock: StoppedClock) -> None:
        claim = claimed(ledger, start_within_s=2.0)
        assert ledger.requeue.nearest_deadline_ms() is None
        ledger.requeue.release(claim, reason="gone")
        clock.pass_ms(60_000)
        assert ledger.requeue.nearest_deadline_ms() is None
        assert ledger.requeue.expire_late() == []
        again(ledger, claim.job_id, "gpu1@here")

    def test_a_job_that_never_left_the_deck_has_not_begun(self, ledger: Ledger, clock: StoppedClock) -> None:
        job = submit(ledger, start_within_s=2.0)
        claim = ledger.claims.claim(NAME, ahead=True)
        assert claim is not None
        clock.pass_ms(2_001)
        assert ledger.requeue.expire_late() == [], "it is the instance's now"
        ledger.requeue.release(claim, reason="stopped", lost=False)
        assert ledger.requeue.expire_late() == [job.id]

    def test_one_that_has_left_it_has(self, ledger: Ledger, clock: StoppedClock) -> None:
        submit(ledger, start_within_s=2.0)
        claim = ledger.claims.claim(NAME, ahead=True)
        assert claim is not None
        ledger.claims.begun(claim)
        ledger.requeue.release(claim, reason="gone")
        clock.pass_ms(2_001)
        assert ledger.requeue.expire_late() == []

    def test_it_goes_in_batches_the_latest_first(
        self, ledger: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(requeue_module, "BATCH", 2)
        jobs_by_seconds = {seconds: submit(ledger, start_within_s=seconds).id for seconds in (3.0, 1.0, 2.0)}
        clock.pass_ms(4_000)
        assert ledger.requeue.expire_late() == [jobs_by_seconds[1.0], jobs_by_seconds[2.0]]
        assert ledger.requeue.expire_late() == [jobs_by_seconds[3.0]]


def row(ledger: Ledger, job_id: str) -> tuple[object, ...]:
    """What claims look at: lease, number of losses, by whom and to what it was lost last, whether it is on deck."""
    wanted = (jobs.c.lease_until_ms, jobs.c.lost_attempts, jobs.c.lost_on, jobs.c.lost_code, jobs.c.on_deck)
    with ledger.database.read() as connection:
        return tuple(connection.execute(select(*wanted).where(jobs.c.id == job_id)).one())


def taken_back(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """Three jobs whose leases have lapsed; taking back the first raises. Returns their ids."""
    job_ids = [claimed(ledger, f"gpu{number}@here").job_id for number in range(3)]
    for job_id in job_ids:
        lapse(ledger, job_id)
    take_back, errors = ledger.requeue._take_back, [error]

    def stumble(job_id: str, attempt: int, taken: dict[str, Status]) -> None:
        if errors:
            raise errors.pop()
        take_back(job_id, attempt, taken)

    monkeypatch.setattr(ledger.requeue, "_take_back", stumble)
    return job_ids
