"""Writes the end of an attempt into the ledger, by the kind of its end, and moves the job on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from comfy.client.history import BLOCKED
from comfy.prompts.account import Blocked
from comfy.prompts.session import PromptResult
from core.errors import (
    ComfylineError,
    ComfyOutOfMemory,
    ComfyUnavailable,
    LedgerUnavailable,
    PromptFailed,
    PromptInterrupted,
    PromptRejected,
    PromptStuck,
    StaleAttempt,
    StorageUnavailable,
    UnstorableValue,
)
from core.job_files import job_folder
from core.ledger.claims import Claim
from core.ledger.secrets import RUN
from core.records.instance import InstanceRecord
from core.records.job import CANCELED, CANCELING, QUEUED
from core.records.job_error import JobWarning
from core.records.output import OutputFile
from core.records.usage import NO_TIME, GpuTime
from core.tracing import spans
from tasks.job_errors import discreet, job_error, machines_of, reason_of, shortened, whole_error
from tasks.judging import pin_elsewhere
from tasks.messaging.follow_up import Moved, publish_follow_up
from tasks.runner.attempt_end import AttemptEnd, Dropped, Failed, Finished, Requeued, Stored
from tasks.runner.claimed.early_outputs import EarlyOutputs
from tasks.runner.direct_store import DirectStore
from tasks.runner.output_files import output_files, sent_files, written_down
from tasks.runtime import Runtime
from workflows.graphs.graph import Graph

log = logging.getLogger(__name__)

Value = TypeVar("Value")
#: How long an attempt has had its GPU; None: the ledger knows better when it began.
Spent: TypeAlias = Callable[[], GpuTime | None]

#: A finished picture is worth waiting this long for a ledger that is away.
LEDGER_TIMEOUT_S = 600.0
#: Parts of a job that did not run, of which each is told; a graph may have a thousand.
MAX_WARNINGS = 20


class Recorder:
    """One process's way of ending attempts."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._claims = runtime.ledger.claims
        self._outputs = runtime.ledger.outputs
        self._returns = runtime.ledger.requeue
        self._lessons = runtime.ledger.lessons
        self._store = DirectStore(runtime)
        self._machines = machines_of(runtime.settings)
        #: Keys of partner nodes that the instance has now, by job.
        self._keys: dict[str, str] = {}

    def early(self, claim: Claim, instance: InstanceRecord, graph: Graph) -> EarlyOutputs:
        """Return what takes the outputs of a prompt while it runs."""
        return EarlyOutputs(self._store, claim, instance, graph)

    def record(
        self,
        claim: Claim,
        instance: InstanceRecord,
        wait: Callable[[], PromptResult],
        sent: list[tuple[str, bytes]],
        spent: Spent,
    ) -> AttemptEnd:
        """Wait for a prompt and write down how it ended.

        Parameters:
          spent: asked when it has ended.
          sent: pictures that came over the websocket instead of being saved; complete when `wait` returns.
        """
        results: list[PromptResult] = []
        end = self.guard(claim, lambda: results.append(wait()), spent=spent)
        if end is not None:
            return end
        key = self._keys.pop(claim.job_id, None)
        result = results[0]
        own_output = self._runtime.settings.gpu_dir(instance.gpu_name) / "output"
        folder = job_folder(own_output, claim.job_id)
        files = written_down(output_files(claim.job_id, result.outputs, instance), folder)
        files += sent_files(claim.job_id, sent, folder)
        warnings = [self._warning(blocked, key) for blocked in result.blocked[:MAX_WARNINGS]]
        if more := len(result.blocked) - len(warnings):
            warnings.append(JobWarning(message=f"{more} further parts did not run."))
        if warnings and not files:
            # ComfyUI calls it a success; whoever waits for a picture wants to know why there is none.
            return self._end_by(claim, _blocked(warnings[0]), spent())
        return self._ended_well(claim, files, warnings, spent(), outputs_reused=bool(result.cached_nodes))

    def _ended_well(
        self,
        claim: Claim,
        files: list[OutputFile],
        warnings: list[JobWarning],
        spent: GpuTime | None,
        *,
        outputs_reused: bool,
    ) -> AttemptEnd:
        """Store what the GPU made, if that is done at once, and write down how far the job is with it."""
        with spans.span("store", claim.traceparent, job_id=claim.job_id, attempt=claim.attempt, files=len(files)):
            stored = self._store.store(claim, files)
        generated, succeed = self._claims.generated, self._outputs.succeed_at_once
        try:
            if stored is None:
                # A machine that is lost takes files with it that are not in the bucket yet.
                may_run_again = bool(self._runtime.settings.storage_url)
                told: dict[str, Any] = {"warnings": warnings, "may_run_again": may_run_again, "spent": spent}
                persistently(lambda: generated(claim, files, outputs_reused=outputs_reused, **told))
                self._store.end_early(claim.job_id, is_kept=True)
                return Finished(**_identity(claim))
            done: dict[str, Any] = {"warnings": warnings, "spent": spent}
            persistently(lambda: succeed(claim, stored, outputs_reused=outputs_reused, **done))
        except StaleAttempt as exc:
            log.info("%s", exc)
            end: AttemptEnd = self._let_go(claim, exc, spent)
        except UnstorableValue as exc:
            # Such as the id of a node that is longer than a page. Another try would end likewise.
            end = self._end_by(claim, exc, spent)
        else:
            self._store.leave_sources(stored)
            self._store.end_early(claim.job_id, is_kept=True)
            return Stored(**_identity(claim))
        self._store.end_early(claim.job_id, is_kept=False)
        if stored:
            self._store.tidy(claim.job_id)
        return end

    def guard(self, claim: Claim, step: Callable[[], None], *, spent: Spent = lambda: NO_TIME) -> AttemptEnd | None:
        """Do one step of an attempt; if it ends the attempt, write down how. None means: go on.

        Parameters: spent - asked then; by default the prompt has not begun.
        """
        try:
            step()
        except ComfylineError as exc:
            # A node may repeat the key in what it raises, which is logged, shown and kept.
            reason = discreet(exc, secret=self._keys.pop(claim.job_id, None), machines=self._machines)
        else:
            return None
        return self._end_by(claim, reason, spent())

    def end_unbegun(self, claim: Claim, reason: ComfylineError) -> AttemptEnd:
        """Write down how an attempt ends for this reason whose prompt has not begun."""
        return self._end_by(claim, reason, NO_TIME)

    def give_back(
        self, claim: Claim, exc: ComfylineError, *, lost: bool, spent: GpuTime | None = NO_TIME
    ) -> AttemptEnd:
        """Queue the job again, unless it has had its chances."""
        # Of memory that did not suffice the client learns as much after many tries as after two.
        error = job_error(exc) if isinstance(exc, ComfyOutOfMemory) else None
        status = self._returns.release(claim, reason=reason_of(exc), lost=lost, code=exc.code, error=error, spent=spent)
        if status == QUEUED:
            return Requeued(**_identity(claim))
        if status is None or status == CANCELED:
            return Dropped(**_identity(claim))
        return Failed(**_identity(claim), error=shortened(exc))

    @staticmethod
    def report(end: AttemptEnd) -> None:
        """Log the end of a job that no task's line tells of. Why it failed is for its client: it may hold prompts."""
        if isinstance(end, Failed):
            log.info("job %s attempt %s failed (%s)", end.job_id, end.attempt, end.error.code)

    def move_on(self, end: AttemptEnd) -> None:
        """Publish what comes next for a job whose chain no task carries on."""
        moved = Moved(
            job_id=end.job_id,
            status=end.status,
            attempt=end.attempt,
            host=self._runtime.settings.host,
            has_webhook=end.has_webhook,
        )
        publish_follow_up(self._runtime.publisher, moved)

    def extra_data(self, claim: Claim) -> dict[str, Any] | None:
        """Return what nodes get beside their inputs: the client's `extra_pnginfo`, and its key for partner nodes.

        Raises: SecretUnreadable.
        """
        given: dict[str, Any] = {}
        if claim.extra_pnginfo is not None:
            given["extra_pnginfo"] = json.loads(claim.extra_pnginfo)
        key = (
            self._runtime.ledger.secrets.open(claim.job_id, RUN).get("api_key_comfy_org") if claim.has_secrets else None
        )
        if key is not None:
            given["api_key_comfy_org"] = self._keys[claim.job_id] = key
        return given or None

    def secret_of(self, claim: Claim) -> str | None:
        """Return what its nodes were given and nobody may read; None: nothing, or the attempt has ended."""
        return self._keys.get(claim.job_id)

    def _end_by(self, claim: Claim, exc: ComfylineError, spent: GpuTime | None) -> AttemptEnd:
        end = persistently(lambda: self._ended_by(claim, exc, spent))
        self._store.end_early(claim.job_id, is_kept=isinstance(end, Requeued))
        return end

    def _ended_by(self, claim: Claim, exc: ComfylineError, spent: GpuTime | None) -> AttemptEnd:
        status = self._claims.renew([claim]).get(claim.job_id)
        if status is None or status == CANCELING:
            return self._let_go(claim, exc, spent)
        if isinstance(exc, PromptRejected) and pin_elsewhere(self._runtime.ledger, claim, exc.node_errors):
            log.info("job %s goes to another kind of instance (%s)", claim.job_id, exc.code)
            return self.give_back(claim, exc, lost=False, spent=spent)
        # Learned before the job is given back: whoever dies in between has it taken back into the right line.
        has_other_kind = isinstance(exc, ComfyOutOfMemory) and self._lessons.learn(claim.job_id, claim.attempt)
        if has_other_kind or _is_worth_another_try(claim, exc):
            log.warning("job %s attempt %s is lost (%s)%s", claim.job_id, claim.attempt, exc.code, _own_words(exc))
            # While storage is away for all, no job is to blame, and none may fail for it.
            is_away = isinstance(exc, StorageUnavailable) and self._runtime.storage.problem() is not None
            return self.give_back(claim, exc, lost=not is_away, spent=spent)
        whole = whole_error(exc)
        error = job_error(exc, job_id=claim.job_id if whole else "")
        if not self._claims.fail(claim, error, whole=whole, spent=spent):
            return self._let_go(claim, exc, spent)
        return Failed(**_identity(claim), error=shortened(exc))

    def _warning(self, blocked: Blocked, key: str | None) -> JobWarning:
        failure = PromptFailed(blocked.message, blocked.node_id, blocked.node_class)
        error = job_error(discreet(failure, secret=key, machines=self._machines))
        return JobWarning(message=error.message, node_id=error.node_id, class_type=error.class_type)

    def _let_go(self, claim: Claim, exc: ComfylineError, spent: GpuTime | None) -> AttemptEnd:
        """The job was to be cancelled, or is no longer ours; either way nothing of this attempt is kept."""
        if not self._claims.canceled(claim, spent=spent):
            log.info("job %s attempt %s is no longer ours (%s)", claim.job_id, claim.attempt, exc.code)
        return Dropped(**_identity(claim))


def _is_worth_another_try(claim: Claim, exc: ComfylineError) -> bool:
    """Whether the instance may be to blame.

    Memory gets one more try, for what others left there is freed first. So does an interrupt that was none of ours:
    whoever uses the same ComfyUI may have meant another prompt.
    """
    if isinstance(exc, (ComfyOutOfMemory, PromptInterrupted)):
        return claim.lost_code != exc.code
    return isinstance(exc, (ComfyUnavailable, PromptStuck, StorageUnavailable))


def _own_words(exc: ComfylineError) -> str:
    """What an error says, for the log; nothing of what a node said, which may repeat a prompt."""
    return "" if isinstance(exc, (ComfyOutOfMemory, PromptFailed, PromptRejected)) else f": {shortened(exc)}"


def _blocked(warning: JobWarning) -> PromptFailed:
    return PromptFailed(warning.message, warning.node_id, warning.class_type, BLOCKED)


def _identity(claim: Claim) -> dict[str, Any]:
    return {**claim.log_fields, "has_webhook": claim.has_webhook}


def persistently(write: Callable[[], Value]) -> Value:
    """Repeat a write while the ledger is away: what the GPU made is not thrown away for a database's restart."""
    give_up_s = time.monotonic() + LEDGER_TIMEOUT_S
    pause_s = 0.2
    while True:
        try:
            return write()
        except LedgerUnavailable as exc:
            if time.monotonic() > give_up_s:
                raise
            log.warning("the ledger is away, trying again in %.1f s: %s", pause_s, exc)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)
