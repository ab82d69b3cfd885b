"""Taking jobs in: check, record, publish. The one service under every HTTP contract."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from api.http.cached import CachedValue
from api.http.errors import JobNotEnded
from api.http.request_log import note_job
from api.http.time_limits import ledger_time_limit
from api.service.catalogues import Catalogues
from api.service.input_files import Intake
from api.service.input_names import find_named, settle_name
from core.contracts.comfy_v2 import SHOWN
from core.errors import InvalidRequest, NotFound, QueueFull, RequestIdReuse
from core.job import CANCELED, CANCELING, QUEUED, Job, new_job_id
from core.job_request import AcceptedJob, JobRequest
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.settings.settings import Settings
from core.storage.folders import remove_job
from core.texts.stored_json import json_text
from workflows.graphs.boundaries import absolute_paths, jobs_named
from workflows.graphs.graph import Graph, parse_graph
from workflows.graphs.references import ASSET_TAG, Reference, find_references, put_all
from workflows.graphs.shape import shape_of

#: How long one process trusts its count of waiting jobs.
COUNT_AGE_S = 1.0
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class TurnPublisher(Protocol):
    """What the API asks of the broker. Nothing here raises or takes long."""

    def turn(self, job_id: str) -> bool:
        """One more job waits."""

    def notify(self, job_id: str) -> bool:
        """A job has webhooks to send."""

    def cancel(self, job: Job) -> None:
        """The worker that runs this job shall look at it now."""

    def look_again(self) -> bool:
        """All GPU workers shall look for new files now; False when they could not be told."""


def check_id(job_id: str) -> str:
    """An id as it may be looked up. Raises NotFound for what can be none: databases refuse some characters."""
    if not _ID.fullmatch(job_id):
        raise NotFound("There is no such thing.")
    return job_id


class JobService:
    """Submitting and cancelling, for all blueprints of one process."""

    def __init__(self, settings: Settings, ledger: Ledger, publisher: TurnPublisher, intake: Intake) -> None:
        self._settings = settings
        self._ledger = ledger
        self._publisher = publisher
        self._intake = intake
        self._catalogues = Catalogues(ledger, publisher.look_again)
        self._waiting = CachedValue(lambda: _Count(ledger.jobs.count(QUEUED)), max_age_s=COUNT_AGE_S)

    def submit(self, request: JobRequest) -> Job:
        """Record a job and publish its turn. A request that comes again under its request_id gets the job it has.

        Raises:
          InvalidWorkflow, MissingAsset, InvalidRequest, IdempotencyKeyReuse, RequestIdReuse: nothing was recorded.
          QueueFull, NoHealthyInstance: nothing was recorded; the same request may work later.
          LedgerUnavailable: nothing was recorded, or (rarely) the answer was lost on its way.
        """
        job = self._joined_or_taken(request)
        note_job(job.id)
        return job

    def _joined_or_taken(self, request: JobRequest) -> Job:
        # Before all else: what was taken once is not refused for a full queue, or for nodes that have left.
        if (known := self._joined(request)) is not None:
            return known
        try:
            return self._taken(request)
        except RequestIdReuse:
            # The same request may have come twice at once.
            if (known := self._joined(request)) is not None:
                return known
            raise

    def _joined(self, request: JobRequest) -> Job | None:
        if request.request_id is None or request.request_digest is None:
            return None
        with ledger_time_limit():
            job_id = self._ledger.requests.join(request.request_id, request.request_digest)
            return None if job_id is None else self._ledger.jobs.get(job_id)

    def _taken(self, request: JobRequest) -> Job:
        with ledger_time_limit():
            waiting = self._waiting.get()
            if waiting.jobs >= self._settings.max_queued:
                raise QueueFull(f"{self._settings.max_queued} jobs wait already. Try again in a moment.")
        accepted = self._accepted(request)
        with ledger_time_limit():
            job = self._ledger.jobs.submit(accepted)
        waiting.jobs += 1
        # A broker that does not take it loses nothing: the reconciler finds the job in the ledger.
        self._publisher.turn(job.id)
        return job

    def settle_name(self, upload: InputFile) -> InputFile:
        """An upload under a name that may stand in graphs, see `api.service.input_names`."""
        return settle_name(upload, self._ledger, self._catalogues)

    def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; harmless when repeated or too late. Raises NotFound."""
        with ledger_time_limit():
            job = self._ledger.jobs.cancel(check_id(job_id))
        return self._told(job)

    def hang_up(self, job_id: str) -> Job:
        """A caller of this job is gone; with the last one the job is cancelled. Raises NotFound."""
        with ledger_time_limit():
            self._ledger.requests.leave(job_id)
            job = self._ledger.jobs.get(job_id)
        return self._told(job)

    def _told(self, job: Job) -> Job:
        if job.status == CANCELING:
            self._publisher.cancel(job)
        elif job.status == CANCELED and job.webhook:
            self._publisher.notify(job.id)
        return job

    def delete(self, job_id: str) -> None:
        """Remove an ended job with its files, at once. Raises NotFound, JobNotEnded, StorageUnavailable."""
        with ledger_time_limit():
            job = self._ledger.jobs.get(check_id(job_id))
        if not job.is_terminal:
            raise JobNotEnded(f"The job is {SHOWN[job.status]}: cancel it, or wait for its end, then delete it.")
        self._intake.require_storage()
        # The files first: who is interrupted here finds the job, and may ask again.
        remove_job(self._settings.outputs_dir, job.id)
        with ledger_time_limit():
            self._ledger.removal.delete_job(job.id)

    def _accepted(self, request: JobRequest) -> AcceptedJob:
        """Check a request, and have its files in storage."""
        job_id = new_job_id()
        graph = parse_graph(request.graph)
        text = json_text(graph)
        references = self._references(graph, request.files, has_tags=f'"{ASSET_TAG}"' in text)
        # What files are called is known once they are there; until then any names of this job's stand for them.
        staged_files = [f"{job_id}/{number}" for number in range(len(references))]
        runnable = put_all(graph, references, staged_files)
        self._refuse_foreign(runnable, job_id)
        verdict = self._catalogues.check(runnable, staged_files)
        if request.request_id:
            with ledger_time_limit():
                self._refuse_taken(request.request_id)
        # Files are fetched last: for a graph that can run, and outside of the time the ledger gets.
        inputs = self._intake.bring(references, job_id) if references else []
        final = put_all(graph, references, [file.name for file in inputs])
        return AcceptedJob(
            request=request,
            id=job_id,
            graph_text=json_text(final) if references else text,
            nodes_total=verdict.nodes_total,
            catalogues=verdict.catalogues,
            shape=shape_of(final),
            inputs=tuple(dict.fromkeys(inputs)),
        )

    def _references(self, graph: Graph, files: Mapping[str, Path], *, has_tags: bool) -> list[Reference]:
        """Return every place of a graph that stands for a file, and where the fleet looks for it."""
        kind = self._catalogues.file_kind
        with ledger_time_limit():
            found = find_references(graph, kind, files, has_tags=has_tags)
            references = self._intake.confirm(found) if found else []
            references += find_named(graph, references, self._ledger, self._catalogues)
            return [
                replace(each, folder=self._catalogues.listed_folder(each.class_type, each.input_name))
                for each in references
            ]

    def _refuse_foreign(self, graph: Graph, job_id: str) -> None:
        """Nothing of another job is read: not by its place on a disk, and not from where the fleet keeps files.

        Raises: InvalidRequest.
        """
        named = jobs_named(graph)
        named.pop(job_id, None)
        others: Collection[str] = ()
        if named:
            with ledger_time_limit():
                others = self._ledger.jobs.states(list(named))
        for other in others:
            raise InvalidRequest(
                f"Node {named[other][0]}, input {named[other][1]}: this path leads to files of another job. "
                "To use one of its outputs, name that by its id."
            )
        settings = self._settings
        kept = (settings.data_dir, settings.outputs_dir, settings.inputs_dir)
        for node_id, input_name, path in absolute_paths(graph):
            if any(path == place or place in path.parents or path in place.parents for place in kept):
                raise InvalidRequest(f"Node {node_id}, input {input_name}: there lie the files of all jobs.")

    def _refuse_taken(self, request_id: str) -> None:
        # Results are found by either id, so nobody may call a job by the id of another one.
        if _UUID.fullmatch(request_id) and self._ledger.jobs.states([request_id]):
            raise RequestIdReuse.of(request_id, request_id)


@dataclass
class _Count:
    """Waiting jobs at the last count, plus those this process has accepted since."""

    jobs: int
