"""Batches: submit, add, cancel, pause and retry, for the routes of one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from api.http.caller import caller, highest_priority
from api.http.errors import NotAllowed
from api.http.request_log import traceparent
from api.http.time_limits import at_most, ledger_time_limit
from api.schema.batch_bodies import BatchBody, BatchWebhookBody, MoreJobsBody
from api.service.batches.checks import BatchCheck, CheckedJobs
from api.service.batches.drafts import BatchDraft, Source, draft_jobs
from api.service.job_requests import with_job_fields
from api.service.jobs import JobService, TurnPublisher, check_id, within_limits
from api.service.tenant_room import TenantRoom
from core.errors import LedgerUnavailable, LimitReached
from core.ledger import Ledger
from core.ledger.batches.intake import check_room
from core.ledger.batches.secrets import of_jobs
from core.records.batch import (
    BATCH_PROGRESS,
    PROGRESS_EVERY_S,
    PROGRESS_STEP,
    RETRIED,
    Batch,
    BatchSpec,
    Common,
    NewBatch,
)
from core.records.job import QUEUED, Status
from core.records.job_request import AcceptedJob, JobRequest
from core.records.model_file import AWAITS_FILES
from core.settings import Settings
from core.texts.strict_json import loads
from tasks.messaging.follow_up import Moved, publish_follow_up
from workflows.templates.library import Library

#: Longest time for the one transaction that records a batch.
RECORD_S = 20.0
#: How long a request goes on cancelling or replacing jobs; the reconciler does the rest.
CARRY_ON_S = 5.0
#: Turns that are published with a batch: one for each GPU that may be idle. The reconciler publishes what is missing.
MAX_TURNS = 32


class BatchService:
    """What clients do with batches."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        publisher: TurnPublisher,
        jobs: JobService,
        library: Library,
        room: TenantRoom,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._publisher = publisher
        self._jobs = jobs
        self._library = library
        self._room = room
        self._check = BatchCheck(jobs.check)
        # One at a time: each keeps a connection for longer than other requests do.
        self._recording = threading.Lock()

    def submit(self, body: BatchBody, *, key: str | None, digest: bytes, base_url: str) -> Batch:
        """Record a batch with all its jobs, or nothing. The same request again under its key gets the batch it has.

        Raises: as `JobService.submit`; the job that is refused is named.
        """
        who = caller()
        with ledger_time_limit():
            known = self._ledger.batch_intake.known(key, digest, tenant=who.tenant)
            if known is not None:
                return self._ledger.batches.get(known)
        base, draft = self.drafted(body, base_url)
        hook, secrets = base.webhook, base.secrets
        checked = self._checked(draft.requests)
        every_s, step = _progress(body.webhook)
        new = NewBatch(
            spec=BatchSpec(
                tenant=who.tenant,
                key_id=who.key_id,
                label=body.label,
                max_running=body.max_running,
                priority=base.priority,
                metadata=body.metadata,
                over=draft.over,
                webhook=hook,
                progress_every_s=every_s,
                progress_step=step,
            ),
            jobs=checked.jobs,
            graphs=checked.graphs,
            source=draft.source.text,
            common=_common(base),
            idempotency_key=key,
            request_digest=digest,
            secrets=secrets,
        )
        with self._recorded(new.jobs):
            batch = self._ledger.batch_intake.submit(new, max_waiting=checked.max_waiting)
        self._publish(checked.jobs)
        return batch

    def drafted(self, body: BatchBody, base_url: str) -> tuple[JobRequest, BatchDraft]:
        """Return what the jobs of a body have in common, with its webhook and secrets, and a draft of all of them.

        Raises: as `JobService.submit`, where the body makes no jobs.
        """
        who = caller()
        base = with_job_fields(JobRequest(contract="v2", graph=None), body, self._settings, base_url)
        base = replace(base, tenant=who.tenant, key_id=who.key_id, label=body.label, traceparent=traceparent())
        of_each = replace(base, webhook=None, secrets=of_jobs(base.secrets))
        return base, draft_jobs(body, of_each, self._library, self._jobs.check.documents)

    def require_tenants_room(self, tenant: str, count: int) -> None:
        """Raise LimitReached where a tenant has no room for so many more jobs, which are not about to be recorded."""
        self._room.before_jobs(tenant, count, counts=False)

    def add(self, batch_id: str, body: MoreJobsBody, *, key: str | None) -> Batch:
        """Record further jobs of a batch, or none. Raises: as `submit`; NotFound."""
        who, intake = caller(), self._ledger.batch_intake
        with ledger_time_limit():
            batch = self._ledger.batches.get(check_id(batch_id), of=who.sees)
            if key is not None and intake.was_added(batch.id, key, tenant=batch.tenant):
                return batch
            text, common = intake.source(batch.id)
            secrets = self._ledger.batch_work.job_secrets(batch.id)
        source = Source() if text is None else Source(**loads(text.encode()))
        base = _base(batch, Common.from_json(common or {}), secrets)
        # They count as those of the key that adds them, unless that is an operator's of another tenant.
        key_id = who.key_id if who.tenant == batch.tenant else batch.key_id
        priority = min(base.priority, highest_priority(self._settings))
        base = replace(base, key_id=key_id, priority=priority, traceparent=traceparent())
        requests = draft_jobs(body, base, self._library, self._jobs.check.documents, source).requests
        check_room(batch.next_index, len(requests))
        checked = self._checked(requests)
        with self._recorded(checked.jobs):
            batch = intake.add(batch.id, checked.jobs, checked.graphs, key=key, max_waiting=checked.max_waiting)
        self._lead(batch.id)
        self._publish(checked.jobs)
        return batch

    def cancel(self, batch_id: str) -> Batch:
        """Ask for the end of all jobs that a batch has now; safe to repeat. Raises NotFound."""
        sees = caller().sees
        with ledger_time_limit():
            self._ledger.batch_work.ask_cancel(check_id(batch_id), of=sees)
        self._carry_on(lambda: self._cancel_some(batch_id))
        return self.get(batch_id)

    def retry(self, batch_id: str, statuses: Sequence[Status] | None) -> Batch:
        """Have the jobs of a batch that failed made again; those that did not stay as they are.

        Beside a retry that is under way it is added to that.

        Raises: NotFound; NotAllowed, QueueFull, LimitReached - as if they were submitted.
        """
        wanted = statuses or RETRIED
        with ledger_time_limit():
            batch = self._ledger.batches.get(check_id(batch_id), of=caller().sees)
        max_waiting = self._may_retry(batch, wanted)
        try:
            with ledger_time_limit():
                made = self._ledger.batch_work.ask_retry(batch.id, wanted, of=caller().sees, max_waiting=max_waiting)
        except LimitReached as exc:
            count = sum(batch.counts.get(status, 0) for status in wanted)
            raise self._room.told(exc, batch.tenant, count) from exc
        if made:
            self._carry_on(lambda: self._retry_some(batch_id))
            self._lead(batch_id)
        self._turns(made)
        return self.get(batch_id)

    def pause(self, batch_id: str, *, is_paused: bool) -> Batch:
        """Let no further job of a batch begin, or let them begin again; safe to repeat. Raises NotFound."""
        with ledger_time_limit():
            batch = self._ledger.batches.pause(check_id(batch_id), is_paused=is_paused, of=caller().sees)
        self._lead(batch.id)
        if not is_paused:
            self._publisher.pass_gates()
        return batch

    def get(self, batch_id: str) -> Batch:
        """Return a batch with its counts. Raises NotFound."""
        with ledger_time_limit():
            return self._ledger.batches.get(check_id(batch_id), of=caller().sees)

    def _may_retry(self, batch: Batch, statuses: Sequence[Status]) -> int | None:
        """Judge jobs that are to be made again as if they were submitted; returns what `before_jobs` does."""
        count = sum(batch.counts.get(status, 0) for status in statuses)
        if not count:
            return None
        limits, highest = caller().limits, highest_priority(self._settings)
        with ledger_time_limit():
            kinds = self._ledger.batches.kinds(batch.id, statuses)
        for kind in kinds:
            request = JobRequest(contract="v2", graph=None, template=kind.template, requires=kind.requires)
            if kind.priority > highest or within_limits(request, limits) != request:
                raise NotAllowed("This key may not submit such jobs, and so not have them made again.")
        self._jobs.require_room(count)
        return self._room.before_jobs(batch.tenant, count)

    def _checked(self, requests: Sequence[JobRequest]) -> CheckedJobs:
        own = allowed(requests)
        self._jobs.require_room(len(own))
        max_waiting = self._room.before_jobs(own[0].tenant, len(own))
        return replace(self._check.accept(own), max_waiting=max_waiting)

    @contextmanager
    def _recorded(self, jobs: Sequence[AcceptedJob]) -> Iterator[None]:
        try:
            with self._recording, at_most(RECORD_S, LedgerUnavailable("The ledger does not answer.")):
                yield
        except LimitReached as exc:
            raise self._room.told(exc, jobs[0].request.tenant, len(jobs)) from exc

    def _publish(self, jobs: Sequence[AcceptedJob]) -> None:
        with ledger_time_limit():
            self._jobs.note_waiting(len(jobs))
        self._turns([job.id for job in jobs])
        if any(job.catalogues == (AWAITS_FILES,) for job in jobs):
            self._jobs.have_files_fetched()

    def _lead(self, batch_id: str) -> None:
        """Have the jobs of a batch stand where its gate wants them; what is left the reconciler does."""
        with ledger_time_limit():
            self._ledger.batch_lines.lead(batch_id)

    def _turns(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids[:MAX_TURNS]:
            publish_follow_up(self._publisher, Moved(job_id=job_id, status=QUEUED, has_webhook=False))

    def _carry_on(self, step: Callable[[], bool]) -> None:
        until_s = time.monotonic() + CARRY_ON_S
        while step() and time.monotonic() < until_s:
            time.sleep(0)

    def _cancel_some(self, batch_id: str) -> bool:
        with ledger_time_limit():
            moved, is_more = self._ledger.batch_work.cancel_some(batch_id)
        for job in moved:
            publish_follow_up(self._publisher, Moved.of(job))
        return is_more

    def _retry_some(self, batch_id: str) -> bool:
        with ledger_time_limit():
            return self._ledger.batch_work.retry_some(batch_id)[1]


def allowed(requests: Sequence[JobRequest]) -> list[JobRequest]:
    """Return the requests of a batch as its caller's key has them. Raises NotAllowed."""
    limits = caller().limits
    own = [within_limits(request, limits) for request in requests]
    if limits.templates is not None and any(map(_sets_places, own)):
        raise NotAllowed("This key may submit jobs from templates alone: over names their parameters, and no inputs.")
    return own


def _progress(webhook: BatchWebhookBody | None) -> tuple[float | None, float | None]:
    """Return how often progress is told, and after which part of the whole; None where it is not."""
    if webhook is None or BATCH_PROGRESS not in (webhook.events or ()):
        return None, None
    every_s, step = webhook.progress_every_s, webhook.progress_step
    return PROGRESS_EVERY_S if every_s is None else every_s, PROGRESS_STEP if step is None else step


def _common(base: JobRequest) -> Common:
    return Common(**{name: getattr(base, name) for name in Common.__dataclass_fields__})


def _base(batch: Batch, common: Common, secrets: dict[str, Any]) -> JobRequest:
    """Return what further jobs of a batch have in common with those it has."""
    kept: dict[str, Any] = {name: getattr(common, name) for name in Common.__dataclass_fields__}
    return JobRequest(
        contract="v2",
        graph=None,
        tenant=batch.tenant,
        label=batch.label,
        priority=batch.priority,
        metadata=batch.metadata,
        secrets=secrets,
        **kept,
    )


def _sets_places(request: JobRequest) -> bool:
    """Whether more than the parameters of its template was varied."""
    return any(name not in (request.parameters or {}) for name in request.varied or {})
