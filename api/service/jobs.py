"""Takes jobs in: checks, records and publishes them. The one service under every HTTP contract."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Protocol

from api.http.cached import CachedValue
from api.http.caller import actor, caller
from api.http.errors import JobNotEnded, NotAllowed
from api.http.request_log import note_job, note_trace, received_traceparent, traceparent
from api.http.time_limits import ledger_time_limit
from api.service.catalogues import Catalogues
from api.service.input_files import Intake
from api.service.input_names import settle_name
from api.service.job_check import JobCheck
from api.service.tenant_room import TenantRoom
from core.contracts.comfy_v2 import SHOWN
from core.errors import LimitReached, NotFound, QueueFull, RequestIdReuse
from core.job_files import is_id
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.records.access import ALL_TENANTS, Caller, Limits
from core.records.job import CANCELED, CANCELING, QUEUED, Job
from core.records.job_request import JobRequest
from core.records.model_file import AWAITS_FILES
from core.records.requirements import Requirements
from core.settings import Settings
from core.storage.backend import output_storage
from core.tracing import spans
from tasks.messaging.follow_up import JobPublisher, Moved, publish_follow_up

#: How long one process trusts its count of waiting jobs.
COUNT_AGE_S = 1.0


class TurnPublisher(JobPublisher, Protocol):
    """What the API publishes to the broker. Its methods neither raise nor take long."""

    def look_again(self) -> bool:
        """Ask all GPU workers to look for new files now; False when they could not be told."""

    def check_upload(self, upload_id: str) -> bool:
        """Publish the look at what a client has put into the bucket."""

    def pass_gates(self) -> bool:
        """Wake idle instances for jobs that go through gates, one of which has opened."""


def check_id(job_id: str) -> str:
    """Return an id as it may be looked up. Raises NotFound for what can be none: databases refuse some characters."""
    if not is_id(job_id):
        raise NotFound("There is no such thing.")
    return job_id


def came_from() -> str | None:
    """Return the `traceparent` that a span of the present request is below; what goes on where none is recorded."""
    return received_traceparent() if spans.are_recorded() else traceparent()


def seen(job: Job) -> Job:
    """Return a job that its caller may see. Raises NotFound, in the words for one that does not exist."""
    if caller().sees not in (ALL_TENANTS, job.tenant):
        raise NotFound(f"There is no job {job.id}.")
    return job


class JobService:
    """Submitting and cancelling, for all blueprints of one process."""

    def __init__(
        self, settings: Settings, ledger: Ledger, publisher: TurnPublisher, intake: Intake, room: TenantRoom
    ) -> None:
        self._settings = settings
        self._room = room
        self._ledger = ledger
        self._publisher = publisher
        self._intake = intake
        self._catalogues = Catalogues(ledger, publisher.look_again)
        self._check = JobCheck(settings, ledger, self._catalogues, intake)
        self._fetch_asked_s = -COUNT_AGE_S
        self._waiting = CachedValue(lambda: _Count(ledger.jobs.count(QUEUED)), max_age_s=COUNT_AGE_S)

    def submit(self, request: JobRequest) -> Job:
        """Record a job and publish its turn. A request that comes again under its request_id gets the job it has.

        Raises:
          InvalidWorkflow, MissingAsset, InvalidRequest, IdempotencyKeyReuse, RequestIdReuse: nothing was recorded.
          NotAllowed: its key may not ask for this; nothing was recorded.
          LimitReached: its tenant has as much as it may; nothing was recorded.
          QueueFull, NoHealthyInstance: nothing was recorded; the same request may work later.
          LedgerUnavailable: nothing was recorded, or (rarely) the answer was lost on its way.
        """
        return self.submit_once(request)[0]

    def submit_once(self, request: JobRequest) -> tuple[Job, bool]:
        """Do as `submit`, and return besides whether the request had its job already."""
        who = caller()
        with spans.span("submit", came_from(), tenant=who.tenant, template=request.template) as span:
            note_trace(span.traceparent)
            owned = owned_by(who, request, traceparent=span.traceparent)
            job, is_known = self._joined_or_taken(owned)
        note_job(job.id)
        return job, is_known

    def _joined_or_taken(self, request: JobRequest) -> tuple[Job, bool]:
        # Before all else: what was taken once is not refused for a full queue, or for nodes that have left.
        if (known := self._joined(request)) is not None:
            return known, True
        try:
            return self._taken(request), False
        except RequestIdReuse:
            # The same request may have come twice at once.
            if (known := self._joined(request)) is not None:
                return known, True
            raise

    def _joined(self, request: JobRequest) -> Job | None:
        if request.request_id is None or request.request_digest is None:
            return None
        with ledger_time_limit():
            job_id = self._ledger.requests.join(request.request_id, request.request_digest, tenant=request.tenant)
            return None if job_id is None else self._ledger.jobs.get(job_id)

    @property
    def check(self) -> JobCheck:
        """What judges requests."""
        return self._check

    def require_room(self, jobs: int = 1) -> None:
        """Raise QueueFull where the fleet's queue has no room for so many more."""
        with ledger_time_limit():
            waiting = self._waiting.get()
        if waiting.jobs + jobs > self._settings.max_queued:
            raise QueueFull(
                f"{waiting.jobs} jobs wait already, and at most {self._settings.max_queued} may. Try again in a moment."
            )

    def note_waiting(self, jobs: int = 1) -> None:
        """Note that this process has recorded so many jobs."""
        self._waiting.get().jobs += jobs

    def _taken(self, request: JobRequest) -> Job:
        self.require_room()
        max_waiting = self.require_tenants_room(request)
        accepted = self._check.accept(request)
        try:
            with ledger_time_limit():
                job = self._ledger.jobs.submit(accepted, max_waiting=max_waiting)
                self.note_waiting()
        except LimitReached as exc:
            raise self._room.told(exc, request.tenant) from exc
        # A broker that does not take it loses nothing: the reconciler finds the job in the ledger.
        publish_follow_up(self._publisher, Moved.of(job))
        if accepted.catalogues == (AWAITS_FILES,):
            self.have_files_fetched()
        return job

    def require_tenants_room(self, request: JobRequest, *, counts: bool = True) -> int | None:
        """Refuse a job that its tenant has no room for; returns what `Jobs.submit` has to hold the waiting against.

        Parameters:
          counts: whether it is about to be recorded.
        """
        try:
            return self._room.before_jobs(request.tenant, counts=counts)
        except LimitReached:
            # What was taken once is told so, however much its tenant has by now.
            with ledger_time_limit():
                self._ledger.jobs.refuse_used_key(request.idempotency_key, tenant=request.tenant)
            raise

    def have_files_fetched(self) -> None:
        """Have hosts look for model files that a job waits for."""
        # Of many jobs for one file the first one is enough, and hosts look by themselves every few seconds.
        if time.monotonic() - self._fetch_asked_s >= COUNT_AGE_S:
            self._fetch_asked_s = time.monotonic()
            self._publisher.look_again()

    def settle_name(self, file: InputFile) -> InputFile:
        """Return an input file under a name that may stand in graphs, see `api.service.input_names`."""
        return settle_name(file, self._ledger, self._catalogues)

    def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; harmless when repeated or too late. Raises NotFound."""
        with ledger_time_limit():
            job = self._ledger.jobs.cancel(check_id(job_id), of=caller().sees)
        return self._told(job)

    def hang_up(self, job_id: str) -> Job:
        """Note that a caller of this job is gone; with the last one the job is cancelled. Raises NotFound."""
        with ledger_time_limit():
            self._ledger.requests.leave(job_id)
            job = self._ledger.jobs.get(job_id)
        return self._told(job)

    def _told(self, job: Job) -> Job:
        # In any other status the wish came too late, or somebody else still wants the job: it has not moved.
        if job.status in (CANCELING, CANCELED):
            publish_follow_up(self._publisher, Moved.of(job))
        return job

    def delete(self, job_id: str) -> None:
        """Remove an ended job with its files, at once. Raises NotFound, JobNotEnded, StorageUnavailable."""
        with ledger_time_limit():
            job = self._ledger.jobs.get(check_id(job_id), of=caller().sees)
        if not job.is_terminal:
            raise JobNotEnded(f"The job is {SHOWN[job.status]}: cancel it, or wait for its end, then delete it.")
        self._intake.require_storage()
        # The files first: who is interrupted here finds the job, and may ask again.
        output_storage(self._settings).remove_folder(job.id)
        with ledger_time_limit():
            self._ledger.removal.delete_job(job.id, by=actor())


def owned_by(who: Caller, request: JobRequest, *, traceparent: str | None = None) -> JobRequest:
    """Return the request as that of its caller. Raises NotAllowed."""
    allowed = within_limits(request, who.limits)
    return replace(allowed, tenant=who.tenant, key_id=who.key_id, traceparent=traceparent)


def within_limits(request: JobRequest, limits: Limits) -> JobRequest:
    """Return the request, in the pool of its key where that has but one.

    Raises: NotAllowed - it asks for more than its key may.
    """
    if limits.templates is not None and request.template not in limits.templates:
        raise NotAllowed(f"This key may submit jobs from templates alone, and of those: {', '.join(limits.templates)}.")
    if limits.pools is None:
        return request
    wanted = request.requires or Requirements()
    if wanted.pool is None and len(limits.pools) == 1:
        return replace(request, requires=replace(wanted, pool=limits.pools[0]))
    if wanted.pool not in limits.pools:
        raise NotAllowed(f"This key may use some pools alone: requires.pool must be one of {', '.join(limits.pools)}.")
    return request


@dataclass
class _Count:
    """Waiting jobs at the last count, plus those this process has accepted since."""

    jobs: int
