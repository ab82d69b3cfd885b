"""The end of an attempt in the ledger, by the kind of its end, and what follows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfy.client.outputs import ReportedOutput
from comfy.prompts.account import Blocked
from core.errors import (
    ComfylineError,
    ComfyOutOfMemory,
    ComfyUnavailable,
    LedgerUnavailable,
    PromptFailed,
    PromptInterrupted,
    PromptRejected,
    PromptStuck,
    PromptTimeout,
    StorageUnavailable,
    UnstorableValue,
)
from core.ledger.claims import Claim
from core.ledger.secrets import RUN
from core.records.job import CANCELED, DELIVERING, FAILED, QUEUED, SUCCEEDED
from core.records.job_error import JobError, JobWarning
from tasks.runner import recorder as recorder_module
from tasks.runner.attempt_end import Dropped, Failed, Finished, Requeued, Stored
from tasks.runner.recorder import LEDGER_TIMEOUT_S, MAX_WARNINGS, Recorder, persistently
from tests.ledger_moves import WEBHOOK, claimed
from tests.makers import BrokerlessRuntime, Stopwatch, come_up, result_of, saved_file

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def recorder(runtime: BrokerlessRuntime) -> Recorder:
    return Recorder(runtime)


def record(recorder: Recorder, claim: Claim, runtime: BrokerlessRuntime, **fields: Any) -> Any:
    """Record a prompt that ran whole."""
    sent = fields.pop("sent", [])
    return recorder.record(
        claim, come_up(runtime.ledger), lambda: result_of(claim.prompt_id, **fields), sent, lambda: None
    )


def fail(recorder: Recorder, claim: Claim, error: ComfylineError) -> Any:
    """Record a step that ends an attempt."""

    def step() -> None:
        raise error

    return recorder.guard(claim, step)


def error_of(runtime: BrokerlessRuntime, claim: Claim) -> JobError:
    """The error of a job that has failed."""
    error = runtime.ledger.jobs.get(claim.job_id).error
    assert error is not None
    return error


class TestWhole:
    def test_files_go_to_delivery(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        end = record(recorder, claim, runtime, outputs=[saved_file()])
        assert end == Finished(job_id=claim.job_id, attempt=1, has_webhook=False)
        job = runtime.ledger.jobs.get(claim.job_id)
        assert (job.status, job.outputs_reused, job.warnings) == (DELIVERING, False, ())
        (file,) = runtime.ledger.outputs.pending(claim.job_id, 1).files
        assert file.name == "picture_00001_.png"

    def test_what_the_cache_gave_is_said(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        record(recorder, claim, runtime, outputs=[saved_file()], cached_nodes=("1",))
        assert runtime.ledger.jobs.get(claim.job_id).outputs_reused

    def test_pictures_that_were_sent_are_written_down(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        record(recorder, claim, runtime, outputs=[saved_file()], sent=[("3", PNG)])
        _saved, sent = runtime.ledger.outputs.pending(claim.job_id, 1).files
        folder = runtime.settings.gpu_dir("gpu0") / "output" / claim.job_id
        assert sent.source.path is not None
        assert Path(sent.source.path).read_bytes() == PNG
        assert Path(sent.source.path).parent == folder

    def test_one_that_was_overtaken_is_dropped(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        runtime.ledger.requeue.release(claim, reason="taken")
        assert isinstance(record(recorder, claim, runtime), Dropped)
        assert runtime.ledger.jobs.get(claim.job_id).status == QUEUED

    def test_one_that_was_cancelled_ends_so(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        runtime.ledger.jobs.cancel(claim.job_id)
        assert isinstance(record(recorder, claim, runtime), Dropped)
        assert runtime.ledger.jobs.get(claim.job_id).status == CANCELED

    @pytest.mark.parametrize("outputs", [[], [saved_file()]])
    def test_what_cannot_be_written_down_ends_its_job(
        self,
        recorder: Recorder,
        runtime: BrokerlessRuntime,
        monkeypatch: pytest.MonkeyPatch,
        outputs: list[ReportedOutput],
    ) -> None:
        """Tried again, it would end likewise."""

        def refuse(*_arguments: object, **_options: object) -> None:
            raise UnstorableValue("too long")

        claim = claimed(runtime.ledger)
        monkeypatch.setattr(runtime.ledger.claims, "generated", refuse)
        monkeypatch.setattr(runtime.ledger.outputs, "succeed_at_once", refuse)
        end = record(recorder, claim, runtime, outputs=outputs)
        assert isinstance(end, Failed)
        assert runtime.ledger.jobs.get(claim.job_id).status == FAILED


class TestShortRoad:
    """The instance is of this host, and what it made is small."""

    def record(self, recorder: Recorder, claim: Claim, runtime: BrokerlessRuntime) -> Any:
        output = runtime.settings.gpu_dir("gpu0") / "output"
        folder = output / claim.job_id
        folder.mkdir(parents=True)
        (folder / "picture_00001_.png").write_bytes(PNG)
        instance = come_up(runtime.ledger, output_dir=str(output))
        result = result_of(claim.prompt_id, outputs=[saved_file(subfolder=claim.job_id)])
        return recorder.record(claim, instance, lambda: result, [], lambda: None)

    def place(self, runtime: BrokerlessRuntime, claim: Claim) -> Path:
        return runtime.settings.outputs_dir / claim.job_id / "picture_00001_.png"

    def test_its_job_has_ended(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger, webhook=WEBHOOK)
        end = self.record(recorder, claim, runtime)
        assert end == Stored(job_id=claim.job_id, attempt=1, has_webhook=True)
        job = runtime.ledger.jobs.get(claim.job_id)
        assert (job.status, [output.name for output in job.outputs]) == (SUCCEEDED, ["picture_00001_.png"])
        assert self.place(runtime, claim).read_bytes() == PNG
        assert not (runtime.settings.gpu_dir("gpu0") / "output" / claim.job_id).exists()
        recorder.move_on(end)
        assert runtime.published.sent == [("notify", claim.job_id)]

    def test_a_place_that_is_taken_leaves_it_to_the_io_worker(
        self, recorder: Recorder, runtime: BrokerlessRuntime
    ) -> None:
        claim = claimed(runtime.ledger)
        self.place(runtime, claim).parent.mkdir(parents=True)
        self.place(runtime, claim).write_bytes(b"of an attempt before")
        assert self.record(recorder, claim, runtime) == Finished(job_id=claim.job_id, attempt=1, has_webhook=False)
        assert runtime.ledger.jobs.get(claim.job_id).status == DELIVERING

    def test_of_one_that_was_cancelled_nothing_stays(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        runtime.ledger.jobs.cancel(claim.job_id)
        assert isinstance(self.record(recorder, claim, runtime), Dropped)
        assert runtime.ledger.jobs.get(claim.job_id).status == CANCELED
        assert not self.place(runtime, claim).parent.exists()

    def test_one_whose_success_was_recorded_though_nobody_heard_of_it_keeps_its_files(
        self, recorder: Recorder, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        succeed = runtime.ledger.outputs.succeed_at_once

        def lose_the_answer(*arguments: Any, **options: Any) -> None:
            succeed(*arguments, **options)
            raise LedgerUnavailable("the answer is lost")

        monkeypatch.setattr(runtime.ledger.outputs, "succeed_at_once", lose_the_answer)
        monkeypatch.setattr(recorder_module, "time", Stopwatch())
        claim = claimed(runtime.ledger)
        self.record(recorder, claim, runtime)
        assert runtime.ledger.jobs.get(claim.job_id).status == SUCCEEDED
        assert self.place(runtime, claim).read_bytes() == PNG


class TestBlockedParts:
    def blocked(self, count: int) -> tuple[Blocked, ...]:
        return tuple(Blocked(node_id=str(number), node_class="Switch", message=f"m{number}") for number in range(count))

    def test_each_is_told_of_beside_the_files(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        record(recorder, claim, runtime, outputs=[saved_file()], blocked=self.blocked(MAX_WARNINGS))
        warnings = runtime.ledger.jobs.get(claim.job_id).warnings
        assert warnings[1] == JobWarning(message="m1", node_id="1", class_type="Switch")
        assert len(warnings) == MAX_WARNINGS

    def test_of_very_many_only_the_number(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        record(recorder, claim, runtime, outputs=[saved_file()], blocked=self.blocked(MAX_WARNINGS + 3))
        warnings = runtime.ledger.jobs.get(claim.job_id).warnings
        assert len(warnings) == MAX_WARNINGS + 1
        assert warnings[-1] == JobWarning(message="3 further parts did not run.")

    def test_without_a_file_it_is_a_failure(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        assert isinstance(record(recorder, claim, runtime, blocked=self.blocked(1)), Failed)
        error = runtime.ledger.jobs.get(claim.job_id).error
        assert error == JobError(code="node_execution_error", message="m0", node_id="0", class_type="Switch")

    def test_twenty_are_told_of(self) -> None:
        assert MAX_WARNINGS == 20


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "again"),
        [
            (ComfyUnavailable("gone"), True),
            (PromptStuck("hangs"), True),
            (StorageUnavailable("away"), True),
            (ComfyOutOfMemory("memory"), True),
            (PromptInterrupted("interrupted"), True),
            (PromptFailed("boom", "3", "KSampler"), False),
            (PromptTimeout("late"), False),
            (PromptRejected("no"), False),
        ],
    )
    def test_whether_the_instance_may_be_to_blame(
        self, recorder: Recorder, runtime: BrokerlessRuntime, error: ComfylineError, again: bool
    ) -> None:
        claim = claimed(runtime.ledger)
        end = fail(recorder, claim, error)
        job = runtime.ledger.jobs.get(claim.job_id)
        if again:
            assert end == Requeued(job_id=claim.job_id, attempt=1, has_webhook=False)
            assert (job.status, [loss.code for loss in job.losses]) == (QUEUED, [error.code])
        else:
            assert isinstance(end, Failed)
            assert end.error.code == error.code
            assert (job.status, error_of(runtime, claim).code) == (FAILED, error.code)

    @pytest.mark.parametrize("error", [ComfyOutOfMemory("memory"), PromptInterrupted("interrupted")])
    def test_once_more_and_not_twice(
        self, recorder: Recorder, runtime: BrokerlessRuntime, error: ComfylineError
    ) -> None:
        claim = claimed(runtime.ledger)
        assert isinstance(fail(recorder, claim, error), Requeued)
        second = runtime.ledger.claims.claim("gpu1@here", named=claim.job_id)
        assert second is not None
        assert isinstance(fail(recorder, second, error), Failed)

    def test_memory_is_tried_on_each_kind_of_gpu_and_no_further(
        self, recorder: Recorder, runtime: BrokerlessRuntime
    ) -> None:
        """With as many tries left as one likes: each teaches one kind."""
        kinds = [f"gpu{number}@here" for number in range(2)]
        for name in kinds:
            come_up(runtime.ledger, name, device=name)
        come_up(runtime.ledger, "gpu9@here", device=kinds[0])
        error = ComfyOutOfMemory("Allocation on device", "3", "KSampler")
        first = claimed(runtime.ledger, kinds[0], shape="s")
        assert isinstance(fail(recorder, first, error), Requeued)
        assert runtime.ledger.claims.claim("gpu9@here") is None
        second = runtime.ledger.claims.claim(kinds[1])
        assert second is not None
        end = fail(recorder, second, error)
        assert isinstance(end, Failed)
        told = error_of(runtime, second)
        assert (told.code, told.node_id, told.message) == ("out_of_memory", "3", "Allocation on device")
        assert [loss.gpu for loss in runtime.ledger.jobs.get(first.job_id).losses] == [kinds[0]]

    def test_however_many_kinds_there_are_its_tries_are_counted(
        self, recorder: Recorder, runtime: BrokerlessRuntime
    ) -> None:
        kinds = [f"gpu{number}@here" for number in range(runtime.settings.max_attempts + 1)]
        for name in kinds:
            come_up(runtime.ledger, name, device=name)
        error = ComfyOutOfMemory("Allocation on device", "3", "KSampler")
        ends = []
        claim = claimed(runtime.ledger, kinds[0], shape="s")
        for name in kinds[1:]:
            ends.append(type(fail(recorder, claim, error)))
            found = runtime.ledger.claims.claim(name)
            claim = found or claim
        assert ends == [Requeued] * (runtime.settings.max_attempts - 1) + [Failed]
        told = error_of(runtime, claim)
        assert (told.code, told.node_id, told.message) == ("out_of_memory", "3", "Allocation on device")

    def test_a_ledger_that_is_away_learns_it_later(
        self, recorder: Recorder, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder_module, "time", Stopwatch())
        for number in range(2):
            come_up(runtime.ledger, f"gpu{number}@here", device=str(number))
        claim = claimed(runtime.ledger, shape="s")
        learn, refusals = runtime.ledger.lessons.learn, [LedgerUnavailable("away")]

        def reluctant(job_id: str, attempt: int) -> bool:
            if refusals:
                raise refusals.pop()
            return learn(job_id, attempt)

        monkeypatch.setattr(runtime.ledger.lessons, "learn", reluctant)
        assert isinstance(fail(recorder, claim, ComfyOutOfMemory("memory")), Requeued)
        assert runtime.ledger.lessons.wanted().keys() == {"s"}

    def test_a_step_that_went_well_ends_nothing(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        assert recorder.guard(claimed(runtime.ledger), lambda: None) is None

    def test_what_is_unforeseen_is_not_taken_for_an_end(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        def stumble() -> None:
            raise AttributeError("of ours")

        with pytest.raises(AttributeError):
            recorder.guard(claimed(runtime.ledger), stumble)

    @pytest.mark.parametrize("is_cancelled", [True, False])
    def test_one_that_is_no_longer_ours(
        self, recorder: Recorder, runtime: BrokerlessRuntime, is_cancelled: bool
    ) -> None:
        claim = claimed(runtime.ledger, webhook=WEBHOOK)
        if is_cancelled:
            runtime.ledger.jobs.cancel(claim.job_id)
        else:
            runtime.ledger.requeue.release(claim, reason="taken")
        end = fail(recorder, claim, PromptFailed("boom"))
        assert end == Dropped(job_id=claim.job_id, attempt=1, has_webhook=True)
        assert runtime.ledger.jobs.get(claim.job_id).status == (CANCELED if is_cancelled else QUEUED)

    def test_one_that_is_taken_in_the_last_moment(
        self, recorder: Recorder, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claim = claimed(runtime.ledger)
        monkeypatch.setattr(runtime.ledger.claims, "fail", lambda *_arguments, **_options: False)
        assert isinstance(fail(recorder, claim, PromptFailed("boom")), Dropped)

    def test_a_long_error_is_kept_whole_beside_the_short(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        fail(recorder, claim, PromptFailed("x" * 100_000))
        message = error_of(runtime, claim).message
        assert f"/api/v2/jobs/{claim.job_id}/error" in message
        assert len(message) < 100_000

    def test_a_short_one_refers_to_nothing(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        fail(recorder, claim, PromptFailed("boom"))
        assert error_of(runtime, claim).message == "boom"

    def test_a_graph_that_another_kind_accepts_goes_there(
        self, recorder: Recorder, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder_module, "pin_elsewhere", lambda _ledger, _claim, _errors: True)
        claim = claimed(runtime.ledger)
        assert isinstance(fail(recorder, claim, PromptRejected("no")), Requeued)
        assert runtime.ledger.jobs.get(claim.job_id).losses == ()
        other = claimed(runtime.ledger, "gpu1@here")
        assert isinstance(fail(recorder, other, PromptFailed("boom")), Failed), "it was not refused"


class TestSecrets:
    KEY = "comfyui-0123456789abcdef"

    def test_a_key_and_pnginfo_go_to_the_nodes(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger, secrets={"api_key_comfy_org": self.KEY}, extra_pnginfo={"workflow": {}})
        assert recorder.extra_data(claim) == {
            "extra_pnginfo": {"workflow": {}},
            "api_key_comfy_org": self.KEY,
        }

    def test_most_jobs_have_neither(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        assert recorder.extra_data(claimed(runtime.ledger)) is None

    @pytest.mark.parametrize("in_bucket", [True, False])
    def test_a_key_is_kept_while_the_job_may_have_to_run_again(
        self, recorder: Recorder, runtime: BrokerlessRuntime, in_bucket: bool
    ) -> None:
        """A machine that is lost takes files with it that are not in the bucket yet."""
        if in_bucket:
            runtime.settings = runtime.settings.model_copy(update={"storage_url": "s3://b/p"})
        claim = claimed(runtime.ledger, secrets={"api_key_comfy_org": self.KEY})
        recorder.extra_data(claim)
        record(recorder, claim, runtime, outputs=[saved_file()])
        assert runtime.ledger.jobs.get(claim.job_id).status == DELIVERING
        kept = {"api_key_comfy_org": self.KEY} if in_bucket else {}
        assert runtime.ledger.secrets.open(claim.job_id, RUN) == kept
        assert recorder._keys == {}
        if in_bucket:
            runtime.ledger.requeue.lose_files(claim.job_id, claim.attempt)
            again = runtime.ledger.claims.claim("gpu0@here", named=claim.job_id)
            assert again is not None
            assert recorder.extra_data(again) == kept
            runtime.ledger.jobs.cancel(claim.job_id)
            runtime.ledger.claims.canceled(again)
            assert runtime.ledger.secrets.open(claim.job_id, RUN) == {}, "it is gone with the end"

    def test_a_node_that_repeats_the_key_tells_nobody(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger, secrets={"api_key_comfy_org": self.KEY})
        recorder.extra_data(claim)
        fail(recorder, claim, PromptFailed(f"bad key {self.KEY}"))
        assert error_of(runtime, claim).message == "bad key [secret]"
        assert recorder._keys == {}

    def test_nor_one_that_blocks_a_part(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger, secrets={"api_key_comfy_org": self.KEY})
        recorder.extra_data(claim)
        blocked = (Blocked(node_id="1", node_class="Switch", message=f"bad key {self.KEY}"),)
        record(recorder, claim, runtime, outputs=[saved_file()], blocked=blocked)
        (warning,) = runtime.ledger.jobs.get(claim.job_id).warnings
        assert warning == JobWarning(message="bad key [secret]", node_id="1", class_type="Switch")
        assert recorder._keys == {}


class TestGivingBack:
    @pytest.mark.parametrize("lost", [True, False])
    def test_whether_it_counts(self, recorder: Recorder, runtime: BrokerlessRuntime, lost: bool) -> None:
        claim = claimed(runtime.ledger)
        assert isinstance(recorder.give_back(claim, ComfyUnavailable("stopped"), lost=lost), Requeued)
        assert len(runtime.ledger.jobs.get(claim.job_id).losses) == int(lost)
        assert runtime.ledger.jobs.events(claim.job_id)[-1].data["reason"] == "stopped"

    def test_by_what_became_of_it(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        stale, canceled = claimed(runtime.ledger), claimed(runtime.ledger, "gpu1@here")
        runtime.ledger.requeue.release(stale, reason="taken")
        runtime.ledger.jobs.cancel(canceled.job_id)
        for claim in (stale, canceled):
            assert isinstance(recorder.give_back(claim, ComfyUnavailable("x"), lost=True), Dropped)

    def test_the_last_chance_is_over(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        claim = claimed(runtime.ledger)
        with runtime.ledger.database.write() as transaction:
            transaction.connection.exec_driver_sql("UPDATE jobs SET lost_attempts = 99")
        end = recorder.give_back(claim, ComfyUnavailable("x"), lost=True)
        assert isinstance(end, Failed)
        assert end.error.code == ComfyUnavailable.code


class TestMovingOn:
    def test_what_follows(self, recorder: Recorder, runtime: BrokerlessRuntime) -> None:
        names: dict[str, Any] = {"job_id": "j", "attempt": 2}
        for has_webhook in (False, True):
            named = {**names, "has_webhook": has_webhook}
            for end in (Finished(**named), Requeued(**named), Dropped(**named)):
                recorder.move_on(end)
            recorder.move_on(Failed(**named, error=PromptFailed("x")))
        store, turn, notify = ("store", "j", 2, "here"), ("turn", "j"), ("notify", "j")
        assert runtime.published.sent == [store, turn, store, turn, notify, notify]

    def test_only_a_failure_is_reported(self, recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        names: dict[str, Any] = {"job_id": "j", "attempt": 2, "has_webhook": False}
        recorder.report(Finished(**names))
        assert caplog.text == ""
        recorder.report(Failed(**names, error=PromptFailed("a secret prompt")))
        assert "job j attempt 2 failed (node_execution_error)" in caplog.text
        assert "secret" not in caplog.text


class TestPersistence:
    @pytest.fixture
    def watch(self, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
        watch = Stopwatch()
        monkeypatch.setattr(recorder_module, "time", watch)
        return watch

    def away_for(self, count: int) -> Callable[[], str]:
        left = [LedgerUnavailable("away")] * count

        def write() -> str:
            if left:
                raise left.pop()
            return "written"

        return write

    def test_a_write_is_repeated_with_growing_pauses(self, watch: Stopwatch) -> None:
        assert persistently(self.away_for(7)) == "written"
        assert watch.slept_s == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]

    def test_at_once_if_all_is_well(self, watch: Stopwatch) -> None:
        assert persistently(self.away_for(0)) == "written"
        assert watch.slept_s == []

    def test_not_for_ever(self, watch: Stopwatch) -> None:
        with pytest.raises(LedgerUnavailable):
            persistently(self.away_for(1_000))
        assert LEDGER_TIMEOUT_S < sum(watch.slept_s) <= LEDGER_TIMEOUT_S + 5.0
        assert LEDGER_TIMEOUT_S == 600.0
