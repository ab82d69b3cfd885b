"""Taking jobs in: check, record, publish. The one service under every HTTP contract."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from api.catalogues import Catalogues
from api.fresh import Fresh
from api.patience import ledger_patience
from core.errors import InvalidRequest, MissingAsset, NotFound, QueueFull
from core.job import CANCELED, CANCELING, QUEUED, Job, NewJob, new_job_id
from core.ledger import Ledger
from core.settings import Settings
from workflows.graph import parse_graph

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
    #: What a template was filled with to make the workflow.
    parameters: dict[str, Any] | None = None
    expected_time_s: float | None = None
    request_id: str | None = None
    idempotency_key: str | None = None
    webhook: dict[str, Any] | None = None
    secrets: dict[str, Any] | None = None


def check_id(job_id: str) -> str:
    """An id as it may be looked up. Raises NotFound for what can be none: databases refuse some characters."""
    if not _ID.fullmatch(job_id):
        raise NotFound("There is no such thing.")
    return job_id


class Service:
    """Submitting and cancelling, for all blueprints of one process."""

    def __init__(self, settings: Settings, ledger: Ledger, publisher: TurnPublisher) -> None:
        self._settings = settings
        self._ledger = ledger
        self._publisher = publisher
        self._catalogues = Catalogues(ledger)
        self._waiting = Fresh(lambda: _Count(ledger.jobs.count(QUEUED)), max_age_s=COUNT_AGE_S)

    def submit(self, order: Order) -> Job:
        """Record a job and publish its turn.

        Raises:
          InvalidWorkflow, MissingAsset, InvalidRequest, IdempotencyKeyReuse: nothing was recorded.
          QueueFull, NoHealthyInstance: nothing was recorded; the same request may work later.
          LedgerUnavailable: nothing was recorded, or (rarely) the answer was lost on its way.
        """
        with ledger_patience():
            new = self._checked(order)
            waiting = self._waiting.get()
            if waiting.jobs >= self._settings.max_queued:
                raise QueueFull(f"{self._settings.max_queued} jobs wait already. Try again in a moment.")
            job = self._ledger.jobs.submit(new)
        waiting.jobs += 1
        # A broker that does not take it loses nothing: the reconciler finds the job in the ledger.
        self._publisher.turn(job.id)
        return job

    def cancel(self, job_id: str) -> Job:
        """Ask for a job's end; harmless when repeated or too late. Raises NotFound."""
        with ledger_patience():
            job = self._ledger.jobs.cancel(check_id(job_id))
        if job.status == CANCELING:
            self._publisher.cancel(job)
        elif job.status == CANCELED and job.webhook:
            self._publisher.notify(job.id)
        return job

    def _checked(self, order: Order) -> NewJob:
        graph = parse_graph(order.workflow)
        text = _json_text(graph)
        _refuse_asset_references(graph, text)
        accepted = self._catalogues.check(graph)
        if order.request_id:
            self._refuse_taken(order.request_id)
        return NewJob(
            id=new_job_id(),
            contract=order.contract,
            graph=text,
            nodes_total=accepted.nodes_total,
            catalogues=accepted.catalogues,
            priority=order.priority,
            timeout_s=order.timeout_s,
            metadata=order.metadata,
            parameters=order.parameters,
            expected_time_s=order.expected_time_s,
            request_id=order.request_id,
            idempotency_key=order.idempotency_key,
            webhook=order.webhook,
            secrets=order.secrets,
        )

    def _refuse_taken(self, request_id: str) -> None:
        # Results are found by either id, so nobody may call a job by the id of another one.
        if _UUID.fullmatch(request_id) and self._ledger.jobs.states([request_id]):
            raise InvalidRequest(f"request_id {request_id!r} is already used by another job.")


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


def _refuse_asset_references(graph: Any, text: str) -> None:
    """An object tagged core/ASSET never reaches an instance as it is."""
    if '"core/ASSET"' not in text:
        return
    pending = [graph]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if value.get("__type") == "core/ASSET":
                raise MissingAsset("The workflow refers to an asset (core/ASSET) that this server does not have.")
            pending += value.values()
        elif isinstance(value, list):
            pending += value
