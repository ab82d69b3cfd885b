"""What tools answer: short, for a model reads all of it, and by the words of Comfy API v2, which has the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from api.service.estimates import Place
from core.contracts.batch_views import BatchCountsView, counts_view
from core.contracts.comfy_v2 import SHOWN, ShownStatus, error_view, output_view, progress_view, timestamp
from core.ledger.input_files import InputFile
from core.links import Links
from core.records.batch import STATES, Batch, ErrorGroup
from core.records.instance import InstanceRecord
from core.records.job import Job
from core.records.output import Kind
from core.texts.json_types import JsonObject
from workflows.templates.template import Template


class ToolTemplateView(TypedDict):
    name: str
    title: str
    description: str
    parameters: Annotated[JsonObject, Field(description="JSON Schema of the values it takes.")]


class ToolTemplatesView(TypedDict):
    templates: list[ToolTemplateView]


class ToolOutputView(TypedDict):
    id: Annotated[str, Field(description="Also what a later job names to use it as an input.")]
    name: str
    type: Kind
    content_type: str
    size_bytes: int
    url: Annotated[str, Field(description="Of the whole file; needs no key.")]
    url_expires_at: str


class ToolErrorView(TypedDict):
    code: str
    message: str
    node_id: str | None
    class_type: str | None


class ToolPlaceView(TypedDict):
    """Why a job waits, and for how long."""

    position: Annotated[int | None, Field(description="1 is the next to run; null while no GPU would take it.")]
    starts_in_s: float | None
    reason: str


class ToolJobView(TypedDict):
    """A job as it stands."""

    id: str
    status: ShownStatus
    has_ended: bool
    created_at: str
    template: NotRequired[str]
    parameters: NotRequired[Annotated[JsonObject, Field(description="With the seeds that were drawn.")]]
    label: NotRequired[str]
    batch_id: NotRequired[str]
    queue: NotRequired[ToolPlaceView]
    progress: NotRequired[Annotated[float, Field(ge=0, le=1)]]
    doing: NotRequired[str]
    outputs: list[ToolOutputView]
    error: NotRequired[ToolErrorView]


class ToolJobsView(TypedDict):
    jobs: list[ToolJobView]
    next_cursor: str | None


class ToolCauseView(TypedDict):
    """Jobs of a batch that failed for the same cause."""

    code: str
    message: str
    count: int
    job_ids: Annotated[list[str], Field(description="Some of them.")]


class ToolBatchView(TypedDict):
    """A batch as it stands."""

    id: str
    status: Annotated[str, Field(json_schema_extra={"enum": list(STATES)})]
    has_ended: bool
    label: str | None
    total: int
    counts: BatchCountsView
    progress: Annotated[float, Field(ge=0, le=1, description="The part of its jobs that has ended.")]
    errors: list[ToolCauseView]


class ToolShownView(TypedDict):
    """Which outputs of a job are shown, and why others are not."""

    shown: list[ToolOutputView]
    not_shown: Annotated[list[str], Field(description="With the reason.")]
    outputs: Annotated[int, Field(description="How many the job has.")]


class ToolSheetView(TypedDict):
    page: int
    pages: int


class ToolQueueView(TypedDict):
    """How much there is to do, and who does it."""

    jobs: Annotated[dict[str, int], Field(description="Jobs that have not ended, yours, by status.")]
    healthy_gpus: int
    idle_gpus: int


class ToolGpuView(TypedDict):
    name: str
    state: str
    reason: str | None
    device: str | None
    vram_bytes: int | None
    pool: str | None
    is_simulated: bool
    job_id: str | None
    models: Annotated[list[str], Field(description="Model files it holds, the most recently used first.")]


class ToolGpusView(TypedDict):
    gpus: list[ToolGpuView]


class ToolFileView(TypedDict):
    id: Annotated[str, Field(description="What a job names to use it.")]
    content_type: str
    size_bytes: int
    expires_at: str


def template_view(template: Template) -> ToolTemplateView:
    """Return a template with what it takes."""
    return {
        "name": template.name,
        "title": template.title,
        "description": template.description,
        "parameters": template.json_schema(),
    }


def outputs_view(job: Job, links: Links) -> list[ToolOutputView]:
    """Return the outputs of a job that are in storage."""
    found = [output_view(output, links, job.files_expire_at_ms) for output in job.outputs]
    return [
        {
            "id": each["id"],
            "name": each["name"],
            "type": each["type"],
            "content_type": each["content_type"],
            "size_bytes": each["size_bytes"],
            "url": each["url"],
            "url_expires_at": each["url_expires_at"],
        }
        for each in found
    ]


def job_view(job: Job, links: Links, *, place: Place | None = None) -> ToolJobView:
    """Return a job. Parameters: place - where it stands in the queue; None where that was not asked for."""
    view: ToolJobView = {
        "id": job.id,
        "status": SHOWN[job.status],
        "has_ended": job.is_terminal,
        "created_at": timestamp(job.created_at_ms),
        "outputs": outputs_view(job, links),
    }
    if job.template is not None:
        view["template"] = job.template
    if job.parameters is not None:
        view["parameters"] = job.parameters
    if job.label is not None:
        view["label"] = job.label
    if job.batch is not None:
        view["batch_id"] = job.batch
    if place is not None:
        starts_in_s = None if place.starts_in_s is None else round(place.starts_in_s, 1)
        view["queue"] = {"position": place.position, "starts_in_s": starts_in_s, "reason": place.sentence}
    if not job.is_terminal and (progress := progress_view(job)) is not None:
        view["progress"], view["doing"] = progress["value"], progress["message"]
    if (error := error_view(job)) is not None:
        view["error"] = {
            "code": error["code"],
            "message": error["message"],
            "node_id": error["node_id"],
            "class_type": error["class_type"],
        }
    return view


def batch_view(batch: Batch, errors: Iterable[ErrorGroup] = ()) -> ToolBatchView:
    """Return a batch."""
    return {
        "id": batch.id,
        "status": batch.state,
        "has_ended": batch.completed_at_ms is not None,
        "label": batch.label,
        "total": batch.total,
        "counts": counts_view(batch.counts),
        "progress": round(batch.progress, 4),
        "errors": [
            {"code": each.code, "message": each.message, "count": each.count, "job_ids": list(each.job_ids)}
            for each in errors
        ],
    }


def gpu_view(record: InstanceRecord) -> ToolGpuView:
    """Return a GPU as operators see it, in short."""
    return {
        "name": record.name,
        "state": record.state,
        "reason": record.reason,
        "device": record.device,
        "vram_bytes": record.vram_bytes,
        "pool": record.pool,
        "is_simulated": record.is_simulated,
        "job_id": record.job_id,
        "models": [model.name for model in record.held],
    }


def file_view(file: InputFile) -> ToolFileView:
    """Return an uploaded file."""
    return {
        "id": file.id,
        "content_type": file.content_type,
        "size_bytes": file.size_bytes,
        "expires_at": timestamp(file.expires_at_ms),
    }
