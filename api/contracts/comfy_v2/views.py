"""Jobs, lists of them and assets in the words of Comfy API v2: what each answer holds, and how it is built."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from api.http.caller import caller
from api.service.estimates import Place
from core.contracts.comfy_v2 import (
    SHOWN,
    AttemptsView,
    JobErrorView,
    JobOutputView,
    JobWarningView,
    MissingOutputView,
    ProgressView,
    ShownStatus,
    error_view,
    gpu_time_view,
    losses_view,
    maybe_timestamp,
    missing_view,
    output_view,
    progress_view,
    timestamp,
    warning_view,
)
from core.ledger.event_log import JobEvent
from core.ledger.input_files import InputFile
from core.links import Links
from core.records.access import ALL_TENANTS
from core.records.job import Job
from core.records.output import Output
from core.records.printed import PrintedLines
from core.records.requirements import Requirements
from core.scheduling.reasons import Code
from core.texts.json_types import JsonObject

#: Every word that says why a job waits.
REASON_CODES = list(get_args(Code))


class UrlsView(TypedDict):
    self: str
    events: str
    cancel: str
    logs: str


class EventsLinkView(TypedDict):
    """Where anybody who has it may follow one job, until then."""

    url: str
    expires_at: str


class MetricsView(TypedDict):
    queue_ms: int | None
    execution_ms: int | None


class QueueView(TypedDict):
    """Where a waiting job stands, when it will begin, and why it waits."""

    position: Annotated[int | None, Field(description="1 is the next to run; null while no GPU would take it.")]
    starts_in_s: Annotated[
        float | None,
        Field(description="Until its own work begins, its models loaded; estimated. Null while no GPU would take it."),
    ]
    reason: Annotated[str, Field(description="Why it waits, in plain English.")]
    reason_code: Annotated[str, Field(description="The same as a word.", json_schema_extra={"enum": REASON_CODES})]


class PlaceView(TypedDict):
    """Where a job stands in the queue."""

    queue_position: Annotated[
        int | None,
        Field(description="1 is the next to run; null when it does not wait, and while no GPU would take it."),
    ]
    estimated_wait_ms: NotRequired[
        Annotated[
            int | None,
            Field(
                description="Only while it waits: until its work begins, estimated; null while no GPU would take it."
            ),
        ]
    ]
    queue: NotRequired[Annotated[QueueView, Field(description="Only while it waits.")]]


class StatusEventView(TypedDict):
    """The data of a stream's status event; the place only while the job waits."""

    status: ShownStatus
    queue_position: NotRequired[int | None]
    estimated_wait_ms: NotRequired[int | None]
    queue: NotRequired[QueueView]


class RequirementsView(TypedDict):
    """What the GPU must be."""

    pool: NotRequired[str]
    vram_gb: NotRequired[float]


class BatchPlaceView(TypedDict):
    """Where a job stands in its batch."""

    id: Annotated[str, Field(description="The batch.")]
    index: Annotated[int, Field(description="Its place, from 0.")]
    varied: Annotated[JsonObject, Field(description="What was varied to make it.")]
    replaces: Annotated[str | None, Field(description="The job that failed in its place.")]


class JobView(AttemptsView, PlaceView):
    """A job as it stands. Times are RFC 3339 in UTC."""

    id: str
    status: ShownStatus
    created_at: str
    started_at: str | None
    completed_at: str | None
    expires_at: str
    progress: ProgressView | None
    outputs: list[JobOutputView]
    error: JobErrorView | None
    urls: UrlsView
    metrics: MetricsView
    priority: int
    tenant: NotRequired[Annotated[str, Field(description="Whose it is; only for who sees those of several.")]]
    label: NotRequired[str]
    batch: NotRequired[BatchPlaceView]
    rerun_of: NotRequired[Annotated[str, Field(description="The job that it runs once more.")]]
    requires: NotRequired[Annotated[RequirementsView, Field(description="Its own, and its template's.")]]
    start_within_s: NotRequired[Annotated[float, Field(description="Not begun by then, it ends as expired.")]]
    metadata: NotRequired[dict[str, str] | str]
    template: NotRequired[Annotated[str, Field(description="Name of the workflow template it was made from.")]]
    parameters: NotRequired[Annotated[JsonObject, Field(description="Of a template, with the seeds that were drawn.")]]
    trace_id: NotRequired[Annotated[str, Field(description="Of the W3C trace that its request belonged to.")]]
    warnings: NotRequired[Annotated[list[JobWarningView], Field(description="What kept a part of it from running.")]]
    outputs_reused: NotRequired[bool]
    missing_outputs: NotRequired[
        Annotated[
            list[MissingOutputView],
            Field(description="Files that ComfyUI reported and does not have; only where there are any."),
        ]
    ]


class ListedJobView(JobView):
    create_time: str
    update_time: str


class JobPageView(TypedDict):
    jobs: list[ListedJobView]
    next_cursor: str | None
    truncated: bool


class JobEventView(TypedDict):
    """One line of a job's log."""

    seq: Annotated[int, Field(description="Its number, which is the id of the same event in the stream.")]
    type: Annotated[str, Field(json_schema_extra={"enum": ["status", "output", "progress"]})]
    at: str
    data: Annotated[
        JsonObject,
        Field(
            description="Of status: status, and where it says so instance, or the code of a loss. Of output: the id "
            "of the asset. Of progress: value and attempt."
        ),
    ]


class JobLogView(TypedDict):
    """What has happened to a job, the oldest first."""

    events: list[JobEventView]
    next_after: Annotated[int | None, Field(description="The value of after for the rest; null when this is all.")]


class PrintedView(TypedDict):
    """What ComfyUI printed while a job ran, without its secrets. What nodes print is theirs: trust none of it."""

    text: str
    truncated: Annotated[bool, Field(description="The beginning is missing.")]
    captured_at: str
    complete: Annotated[bool, Field(description="Nothing follows. False for good where the instance was lost.")]
    number: Annotated[int, Field(description="Rises with each piece: the value of after for what is newer.")]


class SubmittedWorkflowView(TypedDict):
    """The graph of a job as it was submitted."""

    workflow: JsonObject
    format: Literal["api"]


class AssetView(TypedDict):
    """A file with an id."""

    id: str
    hash: str | None
    size_bytes: int
    content_type: str
    created_at: str
    url: str
    url_expires_at: str
    expires_at: str | None
    file_path: str | None
    job_id: str | None
    created_new: NotRequired[Annotated[bool, Field(description="In the answer to an upload.")]]


class PartView(TypedDict):
    """A part of a large file, and where it goes."""

    number: int
    size_bytes: int
    url: str


class UploadErrorView(TypedDict):
    """Why a file was refused."""

    code: str
    message: str


class DirectUploadView(TypedDict):
    """A file that a client sends into the bucket, and how far it is."""

    id: Annotated[str, Field(description="Of the upload, for finishing it.")]
    status: Literal["sending", "checking", "finished", "refused"]
    method: Literal["PUT"]
    url: Annotated[str | None, Field(description="For all of it; null where it is too large for that, or not sending.")]
    part_bytes: Annotated[int | None, Field(description="The size of each part but the last; null without parts.")]
    parts: Annotated[list[PartView], Field(description="Those that have not been sent yet.")]
    url_expires_at: Annotated[str | None, Field(description="Until then sending may begin, by these URLs.")]
    asset: Annotated[AssetView | None, Field(description="What came of it.")]
    error: UploadErrorView | None


def job_view(job: Job, links: Links, *, place: Place | None = None) -> JobView:
    """Return the Job object.

    Parameters:
      links: of the address the client reaches us by.
      place: where it stands in the queue; None when it does not wait, or was not asked for.
    """
    path = f"{links.base_url}/api/v2/jobs/{job.id}"
    view: JobView = {
        "id": job.id,
        "status": SHOWN[job.status],
        "created_at": timestamp(job.created_at_ms),
        "started_at": maybe_timestamp(job.started_at_ms),
        "completed_at": maybe_timestamp(job.completed_at_ms),
        "expires_at": timestamp(job.expires_at_ms),
        "queue_position": None,
        "progress": progress_view(job),
        "outputs": [output_view(output, links, job.files_expire_at_ms) for output in job.outputs],
        "error": error_view(job),
        "urls": {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel", "logs": f"{path}/logs"},
        "metrics": {
            "queue_ms": _between(job.created_at_ms, job.started_at_ms),
            "execution_ms": _between(job.started_at_ms, job.generated_at_ms),
        },
        "priority": job.priority,
        "attempt": job.attempt,
        "instance": job.instance,
        "gpu": job.gpu,
        "losses": losses_view(job),
        "gpu_time": gpu_time_view(job),
    }
    if caller().sees == ALL_TENANTS:
        view["tenant"] = job.tenant
    if place is not None:
        shown = place_view(place)
        view["queue_position"] = shown["queue_position"]
        view["estimated_wait_ms"] = shown["estimated_wait_ms"]
        view["queue"] = shown["queue"]
    if job.label is not None:
        view["label"] = job.label
    if job.batch is not None:
        varied = job.varied or {}
        view["batch"] = {"id": job.batch, "index": job.batch_index or 0, "varied": varied, "replaces": job.replaces}
    if job.rerun_of is not None:
        view["rerun_of"] = job.rerun_of
    if job.requires is not None:
        view["requires"] = requirements_view(job.requires)
    if job.start_within_s is not None:
        view["start_within_s"] = job.start_within_s
    if job.metadata is not None:
        view["metadata"] = job.metadata
    if job.template is not None:
        view["template"] = job.template
    if job.parameters is not None:
        view["parameters"] = job.parameters
    if job.trace_id is not None:
        view["trace_id"] = job.trace_id
    if job.warnings:
        view["warnings"] = [warning_view(warning) for warning in job.warnings]
    if job.outputs_reused is not None:
        view["outputs_reused"] = job.outputs_reused
    if job.missing_outputs:
        view["missing_outputs"] = [missing_view(output) for output in job.missing_outputs]
    return view


def requirements_view(requires: Requirements) -> RequirementsView:
    """Return what is required; what is not said is left out."""
    view: RequirementsView = {}
    if requires.pool is not None:
        view["pool"] = requires.pool
    if requires.vram_gb is not None:
        view["vram_gb"] = requires.vram_gb
    return view


def list_item(job: Job, links: Links, *, place: Place | None = None) -> ListedJobView:
    """Return a job as a list shows it: the Job object, and its times by the names the SDK's list reads."""
    return {
        **job_view(job, links, place=place),
        "create_time": timestamp(job.created_at_ms),
        "update_time": timestamp(job.updated_at_ms),
    }


def event_view(event: JobEvent) -> JobEventView:
    """Return one line of a job's log, in the words of the API; why an instance lost it is told by a code alone."""
    data = event.data
    told: JsonObject
    if event.type == "status":
        told = {"status": SHOWN[data["status"]]}
        told |= {name: data[name] for name in ("instance", "code") if name in data}
    elif event.type == "output":
        told = {"id": data.get("asset_id")}
    else:
        told = data
    return {"seq": event.seq, "type": event.type, "at": timestamp(event.at_ms), "data": told}


def printed_view(printed: PrintedLines) -> PrintedView:
    """Return the Log object."""
    return {
        "text": "".join(f"{line}\n" for line in printed.lines),
        "truncated": printed.is_cut,
        "captured_at": timestamp(printed.at_ms),
        "complete": printed.is_whole,
        "number": printed.number,
    }


def place_view(place: Place) -> PlaceView:
    """Return where a job that waits stands in the queue, for how long, and why."""
    return {
        "queue_position": place.position,
        "estimated_wait_ms": place.wait_ms,
        "queue": {
            "position": place.position,
            "starts_in_s": None if place.starts_in_s is None else round(place.starts_in_s, 3),
            "reason": place.sentence,
            "reason_code": place.reason.code,
        },
    }


def asset_view(output: Output | InputFile, links: Links, expires_at_ms: int) -> AssetView:
    """Return the Asset object of a job's output, or of an uploaded file."""
    link = links.content(output.id, until_ms=expires_at_ms)
    return {
        "id": output.id,
        "hash": output.hash,
        "size_bytes": output.size_bytes,
        "content_type": output.content_type,
        "created_at": timestamp(output.created_at_ms),
        "url": link.url,
        "url_expires_at": timestamp(link.expires_at_ms),
        "expires_at": timestamp(expires_at_ms),
        "file_path": output.name,
        "job_id": output.job_id,
    }


def _between(start_ms: int | None, end_ms: int | None) -> int | None:
    return None if start_ms is None or end_ms is None else max(0, end_ms - start_ms)
