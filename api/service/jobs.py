"""Taking jobs in: check, record, publish. The one service under every HTTP contract."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from api.http.cached import CachedValue
from api.http.errors import JobNotEnded
from api.http.request_log import note_job
from api.http.time_limits import ledger_time_limit
from api.service.catalogues import Acceptance, Catalogues
from api.service.input_files import Intake
from api.service.input_names import find_named, settle_name
from core.contracts.comfy_v2 import SHOWN
from core.errors import InvalidRequest, NotFound, QueueFull, RequestIdReuse
from core.job import CANCELED, CANCELING, QUEUED, Job, NewJob, new_job_id
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.settings.settings import Settings
from core.storage.backend import outputs_of
from core.storage.job_files import is_id, is_job_id, staged_in_folder
from tasks.messaging.follow_up import JobPublisher, Moved, publish_follow_up
from workflows.graphs.boundaries import absolute_paths, jobs_named
from workflows.graphs.graph import Graph, parse_graph
from workflows.graphs.references import ASSET_TAG, Reference, find_references
from workflows.graphs.shape import shape_of

#: How long one process trusts its count of waiting jobs.
COUNT_AGE_S = 1.0
#: Characters of a data URI that are kept among a job's parameters.
MAX_RECORDED_URI = 64


class TurnPublisher(JobPublisher, Protocol):
    """What the API asks of the broker. Nothing here raises or takes long."""

    def look_again(self) -> bool:
        """All GPU workers shall look for new files now; False when they could not be told."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a client asked for, in no contract's words; all but the workflow is checked already."""

    contract: str
    #: As it came in the body.
    workflow: Any
    priority: int = 0
    #: Longest run of the prompt; None means the fleet's default.
    timeout_s: float | None = None
    metadata: Any = None
    #: Name of the template that the workflow was made from.
    template: str | None = None
    #: What a template was filled with to make the workflow, and the files of its own that it names.
    parameters: dict[str, Any] | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    expected_time_s: float | None = None
    request_id: str | None = None
    #: Of the body it came with, where it has a request_id.
    request_digest: bytes | None = None
    idempotency_key: str | None = None
    webhook: dict[str, Any] | None = None
    #: What is to be done with the outputs, as `NewJob.delivery`.
    delivery: dict[str, Any] | None = None
    #: What ComfyUI gives to nodes that ask for it, and writes into files: `{"workflow": the editor's format}` mostly.
    extra_pnginfo: dict[str, Any] | None = None
    #: Seconds from its end for which it is kept; None means the fleet's rule.
    retention_s: float | None = None
    secrets: dict[str, Any] | None = field(default=None, repr=False)


def check_id(job_id: str) -> str:
    """An id as it may be looked up. Raises NotFound for what can be none: databases refuse some characters."""
    if not is_id(job_id):
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

    def submit(self, order: Order) -> Job:
        """Record a job and publish its turn. A request that comes again under its request_id gets the job it has.

        Raises:
          InvalidWorkflow, MissingAsset, InvalidRequest, IdempotencyKeyReuse, RequestIdReuse: nothing was recorded.
          QueueFull, NoHealthyInstance: nothing was recorded; the same request may work later.
          LedgerUnavailable: nothing was recorded, or (rarely) the answer was lost on its way.
        """
        job = self._joined_or_taken(order)
        note_job(job.id)
        return job

    def _joined_or_taken(self, order: Order) -> Job:
        # Before all else: what was taken once is not refused for a full queue, or for nodes that have left.
        if (known := self._joined(order)) is not None:
            return known
        try:
            return self._taken(order)
        except RequestIdReuse:
            # The same request may have come twice at once.
            if (known := self._joined(order)) is not None:
                return known
            raise

    def _joined(self, order: Order) -> Job | None:
        if order.request_id is None or order.request_digest is None:
            return None
        with ledger_time_limit():
            job_id = self._ledger.requests.join(order.request_id, order.request_digest)
            return None if job_id is None else self._ledger.jobs.get(job_id)

    def _taken(self, order: Order) -> Job:
        with ledger_time_limit():
            waiting = self._waiting.get()
            if waiting.jobs >= self._settings.max_queued:
                raise QueueFull(f"{self._settings.max_queued} jobs wait already. Try again in a moment.")
        checked = self._checked(order)
        # Files are fetched last: for a graph that can run, and outside of the time the ledger gets.
        inputs = self._intake.bring(checked.references, checked.job_id) if checked.references else None
        with ledger_time_limit():
            job = self._ledger.jobs.submit(_new_job(order, checked, inputs))
        waiting.jobs += 1
        # A broker that does not take it loses nothing: the reconciler finds the job in the ledger.
        publish_follow_up(self._publisher, Moved.of(job))
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
        # In any other status the wish came too late, or somebody else still wants the job: it has not moved.
        if job.status in (CANCELING, CANCELED):
            publish_follow_up(self._publisher, Moved.of(job))
        return job

    def delete(self, job_id: str) -> None:
        """Remove an ended job with its files, at once. Raises NotFound, JobNotEnded, StorageUnavailable."""
        with ledger_time_limit():
            job = self._ledger.jobs.get(check_id(job_id))
        if not job.is_terminal:
            raise JobNotEnded(f"The job is {SHOWN[job.status]}: cancel it, or wait for its end, then delete it.")
        self._intake.require_storage()
        # The files first: who is interrupted here finds the job, and may ask again.
        outputs_of(self._settings).remove_folder(job.id)
        with ledger_time_limit():
            self._ledger.removal.delete_job(job.id)

    def _checked(self, order: Order) -> _Checked:
        graph = parse_graph(order.workflow)
        job_id = new_job_id()
        text = _json_text(graph)
        has_tags = f'"{ASSET_TAG}"' in text
        with ledger_time_limit():
            found = find_references(graph, self._catalogues.file_kind, order.files, has_tags=has_tags)
            references = self._intake.confirm(found) if found else []
            references += find_named(graph, references, self._ledger, self._catalogues)
            for reference in references:
                reference.folder = self._catalogues.listed_folder(reference.class_type, reference.input_name)
        staged_files = [staged_in_folder(job_id, str(number)) for number in range(len(references))]
        for reference, name in zip(references, staged_files, strict=True):
            reference.put(name)
        self._refuse_foreign(graph, job_id)
        accepted = self._catalogues.check(graph, staged_files)
        if order.request_id:
            with ledger_time_limit():
                self._refuse_taken(order.request_id)
        return _Checked(job_id=job_id, graph=graph, text=text, references=references, accepted=accepted)

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
        if is_job_id(request_id) and self._ledger.jobs.states([request_id]):
            raise RequestIdReuse.of(request_id, request_id)


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """A graph that some instance can run, once its files are there."""

    job_id: str
    graph: Graph
    #: The same as it came.
    text: str
    references: list[Reference]
    accepted: Acceptance


def _new_job(order: Order, checked: _Checked, inputs: list[dict[str, str]] | None) -> NewJob:
    return NewJob(
        id=checked.job_id,
        contract=order.contract,
        # References have become names by now.
        graph=_json_text(checked.graph) if checked.references else checked.text,
        nodes_total=checked.accepted.nodes_total,
        catalogues=checked.accepted.catalogues,
        priority=order.priority,
        timeout_s=order.timeout_s,
        metadata=order.metadata,
        workflow=order.template,
        shape=shape_of(checked.graph),
        parameters=_recorded(order.parameters),
        inputs=inputs,
        delivery=order.delivery,
        expected_time_s=order.expected_time_s,
        request_id=order.request_id,
        request_digest=order.request_digest,
        idempotency_key=order.idempotency_key,
        webhook=order.webhook,
        extra_pnginfo=_json_text(order.extra_pnginfo) if order.extra_pnginfo else None,
        retention_s=order.retention_s,
        secrets=order.secrets,
    )


def _recorded(parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """The values as they are kept and shown: without the megabytes of a picture that came among them."""
    if parameters is None:
        return None
    return {
        name: f"{value[:MAX_RECORDED_URI]}..."
        if isinstance(value, str) and value.startswith("data:") and len(value) > MAX_RECORDED_URI
        else value
        for name, value in parameters.items()
    }


def _json_text(graph: Any) -> str:
    try:
        return orjson.dumps(graph).decode()
    except orjson.JSONEncodeError:
        # Integers beyond 64 bits, which ComfyUI refuses or not as it likes.
        return json.dumps(graph, separators=(",", ":"))


@dataclass
class _Count:
    """Waiting jobs at the last count, plus those this process has accepted since."""

    jobs: int
