"""A run of a model as a job: how it is asked for, how its state is told, and what its end means."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from api.contracts.comfy_v2.views import MetricsView, job_view
from api.contracts.router.failures import RunCanceled, RunEnded, RunExpired, RunFailed
from api.http.json_body import body_digest
from api.service.estimates import Place
from api.service.job_requests import filled_request
from core.contracts.comfy_v2 import JobOutputView, ProgressView, error_view, progress_view
from core.contracts.registry import CONTRACT_V2
from core.errors import InvalidBody
from core.links import Links
from core.records.job import CANCELED, EXPIRED, QUEUED, SUCCEEDED, Job
from core.records.job_request import JobRequest
from core.texts.json_types import JsonObject
from workflows.templates.modifiers import draw_between
from workflows.templates.template import Template

Standing = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]


class ResultView(TypedDict):
    """What a model made."""

    request_id: Annotated[str, Field(description="Of the job: it is also at /api/v2/jobs/{id}.")]
    outputs: list[JobOutputView]
    parameters: Annotated[JsonObject, Field(description="What it ran with, with the seed that was drawn.")]
    metrics: MetricsView


class RequestView(TypedDict):
    """How far a queued run is."""

    request_id: str
    status: Standing
    queue_position: int | None
    starts_in_s: NotRequired[Annotated[float | None, Field(description="Seconds until it begins, expected.")]]
    progress: NotRequired[ProgressView | None]
    error_type: NotRequired[Annotated[str, Field(description="Of one that ended without a result.")]]
    detail: NotRequired[str]
    status_url: str
    response_url: str
    cancel_url: str


def run_request(template: Template, body: Any, key: str | None) -> JobRequest:
    """Return the request for one run: the body is the template's parameters and nothing else.

    Parameters:
      key: the same one with the same body is the same run.
    Raises: InvalidBody; InvalidRequest, as `Template.fill`.
    """
    if not isinstance(body, Mapping):
        raise InvalidBody("The body must be an object: the parameters of the model by their names.")
    filled = template.fill(body, draw=draw_between)
    job = filled_request(filled, contract=CONTRACT_V2, template=template.name)
    if key is None:
        return job
    return replace(job, request_id=_id_of(key), request_digest=body_digest([template.name, body]))


def result_view(job: Job, links: Links) -> ResultView:
    """Return what a run made."""
    view = job_view(job, links)
    return {
        "request_id": job.id,
        "outputs": view["outputs"],
        "parameters": job.parameters or {},
        "metrics": view["metrics"],
    }


def request_view(job: Job, url: str, place: Place | None) -> RequestView:
    """Return how far a run is. What went wrong is told as data: the look itself went well.

    Parameters:
      url: of the request.
    """
    view: RequestView = {
        "request_id": job.id,
        "status": "COMPLETED" if job.is_terminal else "IN_QUEUE" if job.status == QUEUED else "IN_PROGRESS",
        "queue_position": None if place is None else place.position,
        "status_url": f"{url}/status",
        "response_url": url,
        "cancel_url": f"{url}/cancel",
    }
    if place is not None:
        view["starts_in_s"] = place.starts_in_s
    if not job.is_terminal:
        view["progress"] = progress_view(job)
    elif (failure := failure_of(job)) is not None:
        view["error_type"], view["detail"] = failure.bucket, failure.message
    return view


def failure_of(job: Job) -> RunEnded | None:
    """Return why an ended run has no result; None: it has one."""
    if job.status == SUCCEEDED:
        return None
    if job.status == CANCELED:
        return RunCanceled("The request was cancelled.")
    if job.status == EXPIRED:
        return RunExpired("No GPU took the request in time; it never began.")
    error = error_view(job)
    return RunFailed(error["message"] if error else "The request failed.")


def _id_of(key: str) -> str:
    """Return what the ledger calls a key: apart from ids that clients of other contracts choose, and short enough."""
    return f"model-run-{hashlib.sha256(key.encode()).hexdigest()}"
