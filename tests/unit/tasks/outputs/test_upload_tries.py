"""How often a job's outputs are tried to be stored, to the turn and to the millisecond."""

from __future__ import annotations

import errno
import os

import pytest

from core.errors import ComfyUnavailable, LedgerUnavailable, OutputUnavailable, StaleAttempt, UploadFailed
from core.ledger.claims import Claim
from core.ledger.outputs import DELIVERING_MS
from core.records.job import DELIVERING, FAILED, Job
from core.records.job_error import JobError
from core.storage.folders import BucketFault
from tasks.outputs import upload_tries
from tasks.outputs.upload_tries import AWAY, NOTE, REFUSES, WAITS, Unfinished, UploadTries
from tests.ledger_moves import generated
from tests.makers import BrokerlessRuntime

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Now:
    """The clock of a worker, which a test sets."""

    now_ms = 1_700_000_000_000


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    now = Now()
    monkeypatch.setattr(upload_tries, "now_ms", lambda: now.now_ms)
    return now


@pytest.fixture
def claim(runtime: BrokerlessRuntime) -> Claim:
    """A job whose files are to be stored."""
    return generated(runtime.ledger)


@pytest.fixture
def tries(runtime: BrokerlessRuntime, claim: Claim, now: Now) -> UploadTries:
    return UploadTries(runtime, claim.job_id, claim.attempt)


@pytest.fixture
def late(tries: UploadTries, now: Now) -> UploadTries:
    """A turn at a job that has had one before."""
    now.now_ms += DELIVERING_MS
    return tries


def job_of(runtime: BrokerlessRuntime, claim: Claim) -> Job:
    return runtime.ledger.jobs.get(claim.job_id)


def lost(runtime: BrokerlessRuntime, claim: Claim) -> int:
    return runtime.ledger.outputs.losses(claim.job_id)


class TestBegin:
    def test_the_first_turn_is_not_counted(
        self, runtime: BrokerlessRuntime, claim: Claim, tries: UploadTries, now: Now
    ) -> None:
        now.now_ms += DELIVERING_MS - 1
        tries.begin()
        assert lost(runtime, claim) == 0

    def test_later_ones_are(self, runtime: BrokerlessRuntime, claim: Claim, late: UploadTries) -> None:
        late.begin()
        assert lost(runtime, claim) == 1

    def test_the_chances_are_as_many_as_attempts(
        self, runtime: BrokerlessRuntime, claim: Claim, late: UploadTries, caplog: pytest.LogCaptureFixture
    ) -> None:
        for number in range(1, runtime.settings.max_attempts + 1):
            late.begin()
            assert lost(runtime, claim) == number
        with pytest.raises(Unfinished, match=r"failed \(delivery_failed\)"):
            late.begin()
        message = f"given up after {runtime.settings.max_attempts} turns that came to no end."
        assert job_of(runtime, claim).error == JobError(
            code="delivery_failed", message=f"Its outputs could not be stored: {message}"
        )
        assert runtime.published.sent == [("notify", claim.job_id)]
        assert message in caplog.text

    def test_of_a_job_that_has_ended(self, runtime: BrokerlessRuntime, claim: Claim, late: UploadTries) -> None:
        runtime.ledger.outputs.fail(claim.job_id, claim.attempt, JobError(code="x", message="y"))
        with pytest.raises(StaleAttempt):
            late.begin()


class TestPuttingOff:
    def test_what_may_be_otherwise_next_time_waits(
        self, runtime: BrokerlessRuntime, claim: Claim, tries: UploadTries, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(Unfinished, match=WAITS):
            tries.put_off(FULL)
        assert job_of(runtime, claim).status == DELIVERING
        assert (lost(runtime, claim), runtime.published.sent) == (0, [])
        assert "waits for another turn: No space left on device" in caplog.text

    def test_a_turn_that_was_counted_is_forgiven(
        self, runtime: BrokerlessRuntime, claim: Claim, late: UploadTries
    ) -> None:
        runtime.ledger.outputs.count_loss(claim.job_id, claim.attempt)
        late.begin()
        with pytest.raises(Unfinished):
            late.put_off(FULL)
        assert lost(runtime, claim) == 1

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (FULL, "No space left on device"),
            (OSError("odd"), "OSError"),
            (ComfyUnavailable("The instance does not answer."), "The instance does not answer."),
        ],
    )
    def test_until_its_time_is_over(
        self,
        runtime: BrokerlessRuntime,
        claim: Claim,
        tries: UploadTries,
        now: Now,
        error: OSError | ComfyUnavailable,
        reason: str,
    ) -> None:
        tries.generated_at_ms -= 5_000
        now.now_ms += round(runtime.settings.upload_give_up_s * 1000) - 5_001
        with pytest.raises(Unfinished, match=WAITS):
            tries.put_off(error)
        now.now_ms += 1
        assert now.now_ms == tries.give_up_at_ms
        with pytest.raises(Unfinished, match="failed"):
            tries.put_off(error)
        found = job_of(runtime, claim)
        assert found.status == FAILED
        assert found.error == JobError(code="delivery_failed", message=f"Its outputs could not be stored: {reason}")

    @pytest.mark.parametrize("error", [UploadFailed("slow"), LedgerUnavailable("away"), BucketFault(5, "away")])
    def test_what_has_looked_at_the_clock_itself_waits(
        self, runtime: BrokerlessRuntime, claim: Claim, tries: UploadTries, now: Now, error: UploadFailed
    ) -> None:
        now.now_ms = tries.give_up_at_ms + 1
        with pytest.raises(Unfinished, match=WAITS):
            tries.put_off(error)
        assert job_of(runtime, claim).status == DELIVERING

    def test_the_job_says_why_it_waits(self, runtime: BrokerlessRuntime, claim: Claim, tries: UploadTries) -> None:
        said: list[tuple[OSError | UploadFailed, str]] = [
            (BucketFault(errno.EIO, "s3://operators/own: fails"), AWAY),
            (BucketFault(errno.EACCES, "s3://operators/own: refused"), REFUSES),
            (BucketFault(errno.EFBIG, "s3://operators/own: too large"), REFUSES),
            (BucketFault(errno.ENOSPC, "s3://operators/own: full"), upload_tries.FULL),
            (OSError(errno.EDQUOT, "Quota exceeded", "/mnt/x"), upload_tries.FULL),
            (UploadFailed("the S3 server is too slow"), "the S3 server is too slow"),
        ]
        for error, words in said:
            with pytest.raises(Unfinished):
                tries.put_off(error)
            progress = job_of(runtime, claim).progress
            assert progress is not None
            assert progress.note == f"{NOTE} {words}"

    def test_a_file_that_cannot_be_had_fails_the_job_at_once(
        self, runtime: BrokerlessRuntime, claim: Claim, tries: UploadTries, caplog: pytest.LogCaptureFixture
    ) -> None:
        tries.node_id = "9"
        with pytest.raises(Unfinished, match="failed") as caught:
            tries.put_off(OutputUnavailable("Node 9 reported the file lighthouse.png: it is not there."))
        error = job_of(runtime, claim).error
        assert error is not None
        assert (error.code, error.node_id) == (OutputUnavailable.code, "9")
        assert "lighthouse.png" in error.message
        assert "lighthouse" not in caplog.text + str(caught.value)
        assert runtime.published.sent == [("notify", claim.job_id)]

    def test_a_job_that_has_ended_is_not_told_of_again(
        self, runtime: BrokerlessRuntime, claim: Claim, tries: UploadTries, caplog: pytest.LogCaptureFixture
    ) -> None:
        runtime.ledger.outputs.fail(claim.job_id, claim.attempt, JobError(code="x", message="y"))
        with pytest.raises(Unfinished):
            tries.put_off(OutputUnavailable("gone"))
        assert runtime.published.sent == []
        assert caplog.text == ""


class TestLosing:
    @pytest.mark.parametrize("is_counted", [True, False])
    def test_a_fault_of_ours_costs_a_chance(
        self,
        runtime: BrokerlessRuntime,
        claim: Claim,
        late: UploadTries,
        caplog: pytest.LogCaptureFixture,
        is_counted: bool,
    ) -> None:
        for _ in range(runtime.settings.max_attempts - 2):
            runtime.ledger.outputs.count_loss(claim.job_id, claim.attempt)
        if is_counted:
            late.begin()
        with pytest.raises(Unfinished, match=WAITS):
            late.lose(KeyError("tape"))
        assert lost(runtime, claim) == runtime.settings.max_attempts - 1
        assert caplog.records[-1].exc_info is not None
        assert job_of(runtime, claim).status == DELIVERING

    @pytest.mark.parametrize("is_counted", [True, False])
    def test_the_last_one_ends_the_job(
        self, runtime: BrokerlessRuntime, claim: Claim, late: UploadTries, is_counted: bool
    ) -> None:
        for _ in range(runtime.settings.max_attempts - 1):
            runtime.ledger.outputs.count_loss(claim.job_id, claim.attempt)
        if is_counted:
            late.begin()
        with pytest.raises(Unfinished, match="failed"):
            late.lose(KeyError("tape"))
        error = job_of(runtime, claim).error
        assert error is not None
        assert "unexpected error on the server" in error.message
        assert "tape" not in error.message
