"""A turn at a job's files: what it ends with, whatever it finds."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import ComfyUnavailable, LedgerUnavailable, NotFound, StorageUnavailable
from core.job_files import job_folder
from core.ledger.claims import Claim
from core.ledger.jobs import Jobs
from core.ledger.outputs import DELIVERING_MS, Outputs
from core.records.bucket_target import BucketTarget
from core.records.job import CANCELED, DELIVERING, FAILED, SUCCEEDED, Job
from core.records.output import FileSource, OutputFile
from core.records.output_options import OutputOptions
from tasks import upload as upload_module
from tasks.outputs.finishing import ORIGINALS
from tasks.upload import upload
from tests.ledger_moves import WEBHOOK, claimed, produced, set_columns
from tests.makers import BrokerlessRuntime
from tests.unit.tasks.task_calls import Called, call

BUCKET = OutputOptions(bucket=BucketTarget(endpoint_url="https://s3.example", bucket_name="b", region=None, prefix=""))


def text_file(claim: Claim, name: str = "a.txt", *, is_there: bool = True, node_id: str = "9") -> OutputFile:
    """A text that a node has shown, or a file that is gone."""
    source = FileSource(text="words") if is_there else FileSource(root="/gone", path=f"/gone/{name}")
    return replace(produced(claim), name=name, content_type="text/plain", source=source, node_id=node_id)


def made(
    runtime: BrokerlessRuntime,
    *files: Callable[[Claim], OutputFile],
    options: OutputOptions | None = None,
    **fields: Any,
) -> Claim:
    """A job whose files are to be stored; by default one text."""
    claim = claimed(runtime.ledger, output_options=options or OutputOptions(), **fields)
    runtime.ledger.claims.generated(claim, [make(claim) for make in files or (text_file,)], outputs_reused=False)
    return claim


def turn(runtime: BrokerlessRuntime, claim: Claim, attempt: int | None = None) -> Called:
    return call(runtime, upload, [claim.job_id, claim.attempt if attempt is None else attempt, "more", 1.5])


def job_of(runtime: BrokerlessRuntime, claim: Claim) -> Job:
    return runtime.ledger.jobs.get(claim.job_id)


def folder_of(runtime: BrokerlessRuntime, claim: Claim) -> Path:
    return job_folder(runtime.settings.outputs_dir, claim.job_id)


def stumble(monkeypatch: pytest.MonkeyPatch, error: Exception, name: str = "store") -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(upload_module, name, fail)


class TestEnding:
    def test_files_are_stored_and_the_job_ends(self, runtime: BrokerlessRuntime) -> None:
        claim = made(runtime)
        called = turn(runtime, claim)
        job = job_of(runtime, claim)
        assert job.status == SUCCEEDED
        assert (folder_of(runtime, claim) / "a.txt").read_text() == "words"
        assert [output.storage_key for output in job.outputs] == [f"{claim.job_id}/a.txt"]
        assert called.result == claim.job_id
        assert called.reported == f"job {claim.job_id} attempt 1"
        assert not called.goes_on, "there is nobody to tell"

    def test_whoever_is_to_be_told_is(self, runtime: BrokerlessRuntime) -> None:
        called = turn(runtime, made(runtime, webhook=WEBHOOK))
        assert called.goes_on

    def test_a_job_without_files_needs_no_folder(self, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        runtime.ledger.claims.generated(claim, [], outputs_reused=False)
        turn(runtime, claim)
        assert job_of(runtime, claim).status == SUCCEEDED
        assert not folder_of(runtime, claim).exists()

    def test_a_file_that_is_gone_is_told_of_and_the_others_come(self, runtime: BrokerlessRuntime) -> None:
        claim = made(runtime, lambda claim: text_file(claim, "b.txt", is_there=False), text_file)
        turn(runtime, claim)
        job = job_of(runtime, claim)
        assert job.status == SUCCEEDED
        assert [output.name for output in job.outputs] == ["a.txt"]
        assert [output.name for output in job.missing_outputs] == ["b.txt"]

    def test_where_all_are_gone_the_job_fails_by_the_first(self, runtime: BrokerlessRuntime) -> None:
        claim = made(
            runtime,
            lambda claim: text_file(claim, "a.txt", is_there=False, node_id="7"),
            lambda claim: text_file(claim, "b.txt", is_there=False, node_id="8"),
            webhook=WEBHOOK,
        )
        called = turn(runtime, claim)
        job = job_of(runtime, claim)
        assert job.status == FAILED
        assert job.error is not None
        assert (job.error.code, job.error.node_id) == ("output_unavailable", "7")
        assert "a.txt" in job.error.message
        assert not called.goes_on
        assert called.result == f"job {claim.job_id}: failed (output_unavailable)"
        assert called.reported == f"job {claim.job_id} attempt 1: failed (output_unavailable)"
        assert runtime.published.sent == [("notify", claim.job_id)]


class TestOptions:
    @pytest.mark.parametrize("is_stripped", [True, False])
    def test_originals_go_where_files_were_finished(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch, is_stripped: bool
    ) -> None:
        discarded: list[str] = []
        monkeypatch.setattr(upload_module, "discard_originals", lambda _root, job_id: discarded.append(job_id))
        claim = made(runtime, options=OutputOptions(strip_metadata=is_stripped))
        turn(runtime, claim)
        assert job_of(runtime, claim).status == SUCCEEDED
        assert discarded == ([claim.job_id] if is_stripped else [])
        assert (folder_of(runtime, claim) / ORIGINALS).exists() == is_stripped

    def test_a_bucket_gets_what_is_stored(self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[Any, ...]] = []

        def send(_runtime: object, job: Job, files: list[OutputFile], *, give_up_at_ms: int) -> list[OutputFile]:
            asked.append((job.id, [file.storage_key for file in files], give_up_at_ms))
            return files

        monkeypatch.setattr(upload_module, "upload_files", send)
        claim = made(runtime, options=BUCKET)
        set_columns(runtime.ledger, claim.job_id, generated_at_ms=1_000)
        turn(runtime, claim)
        assert asked == [
            (claim.job_id, [f"{claim.job_id}/a.txt"], 1_000 + round(runtime.settings.upload_give_up_s * 1000))
        ]
        assert job_of(runtime, claim).status == SUCCEEDED

    def test_without_one_nothing_is_sent(self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
        stumble(monkeypatch, AssertionError(), "upload_files")
        claim = made(runtime)
        turn(runtime, claim)
        assert job_of(runtime, claim).status == SUCCEEDED


class TestWaiting:
    def test_a_foreign_storage_takes_nothing(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse() -> None:
            raise StorageUnavailable("It is not the fleet's.")

        monkeypatch.setattr(runtime.storage, "require", refuse)
        claim = made(runtime)
        called = turn(runtime, claim)
        assert (called.result, called.goes_on) == (f"job {claim.job_id}: It is not the fleet's.", False)
        assert job_of(runtime, claim).status == DELIVERING
        assert not folder_of(runtime, claim).exists()
        assert "waits for another turn: It is not the fleet's." in caplog.text

    @pytest.mark.parametrize("error", [ComfyUnavailable("away"), OSError("full"), LedgerUnavailable("away")])
    def test_what_may_pass_is_tried_again(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        stumble(monkeypatch, error)
        claim = made(runtime)
        called = turn(runtime, claim)
        assert (called.result, called.goes_on) == (f"job {claim.job_id}: waits for another turn", False)
        assert job_of(runtime, claim).status == DELIVERING
        assert runtime.ledger.outputs.losses(claim.job_id) == 0

    def test_a_fault_of_ours_costs_a_chance(self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
        stumble(monkeypatch, KeyError("tape"))
        claim = made(runtime)
        called = turn(runtime, claim)
        assert called.result == f"job {claim.job_id}: waits for another turn"
        assert runtime.ledger.outputs.losses(claim.job_id) == 1

    def test_a_later_turn_is_counted_until_it_ends(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stumble(monkeypatch, SystemExit())  # type: ignore[arg-type]
        claim = made(runtime)
        late = job_of(runtime, claim).created_at_ms - DELIVERING_MS - 1_000
        set_columns(runtime.ledger, claim.job_id, generated_at_ms=late)
        with pytest.raises(SystemExit):
            turn(runtime, claim)
        assert runtime.ledger.outputs.losses(claim.job_id) == 1

    @pytest.mark.parametrize("options", [OutputOptions(), OutputOptions(strip_metadata=True)])
    def test_one_that_finds_another_at_work_ends_at_once(
        self, runtime: BrokerlessRuntime, options: OutputOptions
    ) -> None:
        claim = made(runtime, options=options)
        folder = folder_of(runtime, claim)
        folder.mkdir(parents=True)
        with (folder / ".delivery.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            called = turn(runtime, claim)
            assert called.result == f"job {claim.job_id}: another turn is at work on it"
            assert job_of(runtime, claim).status == DELIVERING
        turn(runtime, claim)
        assert job_of(runtime, claim).status == SUCCEEDED

    def test_one_for_a_bucket_alone_does_too(self, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger, output_options=BUCKET)
        runtime.ledger.claims.generated(claim, [], outputs_reused=False)
        folder_of(runtime, claim).mkdir(parents=True)
        with (folder_of(runtime, claim) / ".delivery.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            turn(runtime, claim)
        assert job_of(runtime, claim).status == DELIVERING


class TestTooLate:
    def folder(self, runtime: BrokerlessRuntime, claim: Claim) -> Path:
        """What earlier turns have left."""
        folder = folder_of(runtime, claim)
        (folder / ORIGINALS).mkdir(parents=True)
        return folder

    def test_files_of_a_job_that_was_ended_go(self, runtime: BrokerlessRuntime) -> None:
        claim = made(runtime)
        set_columns(runtime.ledger, claim.job_id, status=CANCELED)
        folder = self.folder(runtime, claim)
        called = turn(runtime, claim)
        assert (called.result, called.goes_on) == (f"job {claim.job_id}: nothing to do", False)
        assert called.reported is None
        assert not folder.exists()

    def test_of_one_that_succeeded_only_its_originals(self, runtime: BrokerlessRuntime) -> None:
        claim = made(runtime)
        turn(runtime, claim)
        folder = folder_of(runtime, claim)
        (folder / ORIGINALS).mkdir()
        turn(runtime, claim)
        assert sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock")) == ["a.txt"]
        assert (folder / "a.txt").exists()

    def test_of_one_in_another_attempt_nothing(self, runtime: BrokerlessRuntime) -> None:
        claim = made(runtime)
        folder = self.folder(runtime, claim)
        called = turn(runtime, claim, attempt=7)
        assert called.result == f"job {claim.job_id}: nothing to do"
        assert (folder / ORIGINALS).exists()

    @pytest.mark.parametrize("error", [NotFound("gone"), LedgerUnavailable("away")])
    def test_of_one_that_is_gone_the_ledger_has_seen_to(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        claim = made(runtime)
        set_columns(runtime.ledger, claim.job_id, status=CANCELED)
        folder = self.folder(runtime, claim)

        def fail(*_arguments: object) -> None:
            raise error

        monkeypatch.setattr(Jobs, "get", fail)
        assert turn(runtime, claim).result == f"job {claim.job_id}: nothing to do"
        assert folder.exists()

    def test_one_that_ended_meanwhile_is_none_of_this_turns(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        succeed = Outputs.succeed

        def canceled_before(self: Outputs, *arguments: Any) -> Job:
            set_columns(runtime.ledger, claim.job_id, status=CANCELED)
            return succeed(self, *arguments)

        claim = made(runtime)
        monkeypatch.setattr(Outputs, "succeed", canceled_before)
        assert turn(runtime, claim).result == f"job {claim.job_id}: nothing to do"
        assert not folder_of(runtime, claim).exists()
