"""What answers and webhooks share of Comfy API v2's words: the status, progress, error and outputs of a job.

Each answer is a `TypedDict`, here and in all contracts: the type checker holds the code that builds it against its
fields, the OpenAPI document is made from them, and at run time it is the plain dict that becomes JSON. A field that may
be absent is `NotRequired`; one that may be null says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from core.links import Links
from core.records.job import CANCELED, CANCELING, DELIVERING, EXPIRED, FAILED, QUEUED, RUNNING, SUCCEEDED, Job, Status
from core.records.job_error import JobError, JobWarning
from core.records.output import Kind, Output
from core.records.progress import Progress, generated
from core.texts.excerpts import MESSAGE_CHARS, TRACEBACK_CHARS, head_and_tail

ShownStatus = Literal["queued", "running", "canceling", "succeeded", "failed", "canceled", "expired"]

#: The API knows a closed set of words; storing outputs is part of running.
SHOWN: Mapping[Status, ShownStatus] = {
    QUEUED: "queued",
    RUNNING: "running",
    CANCELING: "canceling",
    DELIVERING: "running",
    SUCCEEDED: "succeeded",
    FAILED: "failed",
    CANCELED: "canceled",
    EXPIRED: "expired",
}
_IN_PROGRESS = (RUNNING, CANCELING, DELIVERING)


class ProgressView(TypedDict):
    value: Annotated[float, Field(ge=0, le=1)]
    nodes_done: int
    nodes_total: int
    current_node: NotRequired[str | None]
    current_node_class: NotRequired[str | None]
    step: NotRequired[int | None]
    steps: NotRequired[int | None]
    remaining_s: NotRequired[
        Annotated[
            float | None,
            Field(ge=0, description="Seconds of work left; null until nodes like all of these have run on that GPU."),
        ]
    ]
    note: NotRequired[
        Annotated[
            str,
            Field(description="Only while nothing moves: why, in plain English. The message is the same then."),
        ]
    ]
    message: Annotated[str, Field(description="The same in words, such as KSampler 7/20.")]


class LossView(TypedDict):
    """An attempt that was lost with its instance, or its worker."""

    attempt: int | None
    code: Annotated[str | None, Field(description="instance_lost, stuck or out_of_memory.")]
    instance: str | None
    gpu: str | None
    at: str | None


class GpuTimeView(TypedDict):
    """Seconds that a job had GPUs to itself, of attempts that are over: the sum of the other three, and those."""

    gpu_s: float
    run_s: float
    load_s: Annotated[float, Field(description="In nodes that load model files.")]
    lost_s: Annotated[float, Field(description="By attempts that were lost, and had to be made again.")]


class AttemptsView(TypedDict):
    """Which try at a job it is, where, and what became of those before."""

    attempt: Annotated[int, Field(description="Counted from 1; 0 before a GPU took it.")]
    instance: Annotated[str | None, Field(description="Of the newest attempt: gpu0@host.")]
    gpu: Annotated[str | None, Field(description="What GPU that has, in its own words.")]
    losses: Annotated[list[LossView], Field(description="The oldest first, the newest 20.")]
    gpu_time: GpuTimeView


class JobErrorView(TypedDict):
    """Why a job failed."""

    code: str
    message: str
    node_id: str | None
    class_type: str | None
    traceback: str | None


class JobWarningView(TypedDict):
    """A part of a job that did not run, because a node blocked it."""

    message: str
    node_id: str | None
    class_type: str | None


class OutputUploadView(TypedDict):
    """How a file fared on its way to the client's bucket."""

    url: str | None
    error: str | None


class JobOutputView(TypedDict):
    """A file that a job produced."""

    node_id: str
    name: str
    type: Kind
    content_type: str
    size_bytes: int
    id: str
    hash: str | None
    url: str
    url_expires_at: str
    job_id: str
    upload: NotRequired[OutputUploadView]
    conversion_error: NotRequired[str]
    expired: NotRequired[Annotated[bool, Field(description="True: its time is over, and its file was removed.")]]


class MissingOutputView(TypedDict):
    """A file that a node reported and that is not there, or lies where nobody may take it."""

    node_id: str
    name: str
    message: str


def timestamp(ms: int) -> str:
    """Return a time as RFC 3339 with milliseconds, UTC."""
    moment = datetime.fromtimestamp(ms // 1000, tz=timezone.utc).isoformat()
    return f"{moment.removesuffix('+00:00')}.{ms % 1000:03d}Z"


def maybe_timestamp(ms: int | None) -> str | None:
    return None if ms is None else timestamp(ms)


def progress_view(job: Job) -> ProgressView | None:
    """Return the last snapshot; zeros for a job that has just begun, everything for one whose GPU work is done."""
    if job.progress is None and job.status not in _IN_PROGRESS:
        return None
    snapshot = job.progress or Progress(nodes_total=job.nodes_total)
    if job.status in (DELIVERING, SUCCEEDED):
        snapshot = generated(snapshot)
    if job.status not in _IN_PROGRESS:
        snapshot = replace(snapshot, note=None)
    if job.progress is not None:
        return snapshot_view(snapshot)
    # Before the first snapshot there is nothing to say of nodes.
    return {
        "value": snapshot.value,
        "nodes_done": snapshot.nodes_done,
        "nodes_total": snapshot.nodes_total,
        "message": _progress_message(snapshot),
    }


def snapshot_view(snapshot: Progress) -> ProgressView:
    """Show a progress snapshot to clients, with what it says in words, which the official SDK prints."""
    view: ProgressView = {
        "value": snapshot.value,
        "nodes_done": snapshot.nodes_done,
        "nodes_total": snapshot.nodes_total,
        "current_node": snapshot.current_node,
        "current_node_class": snapshot.current_node_class,
        "step": snapshot.step,
        "steps": snapshot.steps,
        "remaining_s": snapshot.remaining_s,
        "message": _progress_message(snapshot),
    }
    if snapshot.note is not None:
        view["note"] = snapshot.note
    return view


def _progress_message(snapshot: Progress) -> str:
    if snapshot.note is not None:
        return snapshot.note
    node = snapshot.current_node_class or snapshot.current_node
    if node is None or snapshot.value >= 1.0:
        return f"{snapshot.nodes_done}/{snapshot.nodes_total} nodes"
    return f"{node} {snapshot.step}/{snapshot.steps}" if snapshot.steps else node


def attempts_view(job: Job) -> AttemptsView:
    """Say which try at a job it is, where, and what became of those before."""
    return {
        "attempt": job.attempt,
        "instance": job.instance,
        "gpu": job.gpu,
        "losses": losses_view(job),
        "gpu_time": gpu_time_view(job),
    }


def gpu_time_view(job: Job) -> GpuTimeView:
    """Say how long a job had GPUs."""
    return {
        "gpu_s": (job.run_ms + job.load_ms + job.lost_ms) / 1000,
        "run_s": job.run_ms / 1000,
        "load_s": job.load_ms / 1000,
        "lost_s": job.lost_ms / 1000,
    }


def losses_view(job: Job) -> list[LossView]:
    """List the attempts that a job lost."""
    return [
        {
            "attempt": loss.attempt,
            "code": loss.code,
            "instance": loss.instance,
            "gpu": loss.gpu,
            "at": maybe_timestamp(loss.at_ms),
        }
        for loss in job.losses
    ]


def error_view(job: Job) -> JobErrorView | None:
    """Say why a job failed, or expired; long texts are cut in their middle."""
    if job.status != FAILED and not (job.status == EXPIRED and job.error):
        return None
    view = whole_error_view(job.error or JobError())
    # Jobs of earlier versions kept whatever nodes said in their rows.
    view["message"] = head_and_tail(view["message"], 2 * MESSAGE_CHARS)
    if view["traceback"]:
        view["traceback"] = head_and_tail(view["traceback"], 2 * TRACEBACK_CHARS)
    return view


def whole_error_view(error: JobError) -> JobErrorView:
    """Say why a job failed, at full length."""
    return {
        "code": error.code,
        "message": error.message,
        "node_id": error.node_id,
        "class_type": error.class_type,
        "traceback": error.traceback,
    }


def warning_view(warning: JobWarning) -> JobWarningView:
    """Say what kept a part of a job from running."""
    return {"message": warning.message, "node_id": warning.node_id, "class_type": warning.class_type}


def output_view(output: Output, links: Links, expires_at_ms: int) -> JobOutputView:
    """Return the Output object; `upload`, `conversion_error` and `expired` only where there is something to say.

    Parameters:
      expires_at_ms: when its file is, or was, removed.
    """
    link = links.content(output.id, until_ms=expires_at_ms)
    view: JobOutputView = {
        "node_id": output.node_id,
        "name": output.name,
        "type": output.kind,
        "content_type": output.content_type,
        "size_bytes": output.size_bytes,
        "id": output.id,
        "hash": output.hash,
        "url": link.url,
        "url_expires_at": timestamp(link.expires_at_ms),
        "job_id": output.job_id,
    }
    if output.bucket_result is not None:
        view["upload"] = {"url": output.bucket_result.url, "error": output.bucket_result.error}
    if output.conversion_error is not None:
        view["conversion_error"] = output.conversion_error
    if output.is_expired:
        view["expired"] = True
    return view


def missing_view(output: Output) -> MissingOutputView:
    """Return the view of a file that ComfyUI reported and that cannot be found."""
    return {"node_id": output.node_id, "name": output.name, "message": output.missing_reason or ""}
