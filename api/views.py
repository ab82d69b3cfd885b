"""Jobs, outputs and errors in the words of Comfy API v2."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from api.estimates import Place
from core.job import CANCELING, DELIVERING, FAILED, RUNNING, STATUSES, SUCCEEDED, Job, Output
from core.ledger.uploads import Upload

#: The API knows a closed set of words; storing outputs is part of running.
SHOWN = {status: RUNNING if status == DELIVERING else status for status in STATUSES}
_IN_PROGRESS = (RUNNING, CANCELING, DELIVERING)


def timestamp(ms: int) -> str:
    """RFC 3339 with milliseconds, UTC."""
    moment = datetime.fromtimestamp(ms // 1000, tz=timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def maybe_timestamp(ms: int | None) -> str | None:
    return None if ms is None else timestamp(ms)


def job_view(job: Job, base_url: str, *, place: Place | None = None) -> dict[str, Any]:
    """The Job object.

    Parameters:
      base_url: scheme and host for links, without a closing slash.
      place: where it stands in the queue; None when it does not wait, or was not asked for.
    """
    path = f"{base_url}/api/v2/jobs/{job.id}"
    view = {
        "id": job.id,
        "status": SHOWN[job.status],
        "created_at": timestamp(job.created_at_ms),
        "started_at": maybe_timestamp(job.started_at_ms),
        "completed_at": maybe_timestamp(job.completed_at_ms),
        "expires_at": timestamp(job.expires_at_ms),
        **place_view(place),
        "progress": progress_view(job),
        "outputs": [output_view(output, base_url, job.expires_at_ms) for output in job.outputs],
        "error": error_view(job),
        "urls": {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"},
        "metrics": {
            "queue_ms": _between(job.created_at_ms, job.started_at_ms),
            "execution_ms": _between(job.started_at_ms, job.generated_at_ms),
        },
        "priority": job.priority,
    }
    if job.metadata is not None:
        view["metadata"] = job.metadata
    if job.parameters is not None:
        view["parameters"] = job.parameters
    if job.outputs_reused is not None:
        view["outputs_reused"] = job.outputs_reused
    return view


def list_item(job: Job, base_url: str) -> dict[str, Any]:
    """A job as a list shows it: the Job object, and its times by the names the SDK's list reads."""
    times = {"create_time": timestamp(job.created_at_ms), "update_time": timestamp(job.updated_at_ms)}
    return job_view(job, base_url) | times


def place_view(place: Place | None) -> dict[str, Any]:
    """Its place in the queue; how long it will wait, only while it does."""
    if place is None:
        return {"queue_position": None}
    return {"queue_position": place.position, "estimated_wait_ms": place.wait_ms}


def progress_view(job: Job) -> dict[str, Any] | None:
    """The last snapshot; zeros for a job that has just begun, everything for one whose GPU work is done."""
    if job.progress is None and job.status not in _IN_PROGRESS:
        return None
    snapshot = job.progress or {"value": 0.0, "nodes_done": 0, "nodes_total": job.nodes_total}
    if job.status in (DELIVERING, SUCCEEDED):
        return {**snapshot, "value": 1.0, "nodes_done": snapshot["nodes_total"]}
    return snapshot


def error_view(job: Job) -> dict[str, Any] | None:
    """`{"code", "message", "node_id", "class_type", "traceback"}` of a failed job."""
    if job.status != FAILED:
        return None
    error = job.error or {}
    return {
        "code": error.get("code", "failed"),
        "message": error.get("message", "The job failed."),
        "node_id": error.get("node_id"),
        "class_type": error.get("class_type"),
        "traceback": error.get("traceback"),
    }


def output_view(output: Output, base_url: str, expires_at_ms: int) -> dict[str, Any]:
    """The Output object; `upload` and `conversion_error` only where there is something to say."""
    said = output.upload or {}
    more: dict[str, Any] = {}
    if "url" in said or "error" in said:
        more["upload"] = {"url": said.get("url"), "error": said.get("error")}
    if "conversion_error" in said:
        more["conversion_error"] = said["conversion_error"]
    return {
        "node_id": output.node_id,
        "name": output.name,
        "type": output.type,
        "content_type": output.content_type,
        "size_bytes": output.size_bytes,
        "id": output.id,
        "hash": output.hash,
        "url": content_url(output.id, base_url),
        "url_expires_at": timestamp(expires_at_ms),
        "job_id": output.job_id,
        **more,
    }


def asset_view(output: Output | Upload, base_url: str, expires_at_ms: int) -> dict[str, Any]:
    """The Asset object of a job's output, or of an uploaded file."""
    return {
        "id": output.id,
        "hash": output.hash,
        "size_bytes": output.size_bytes,
        "content_type": output.content_type,
        "created_at": timestamp(output.created_at_ms),
        "url": content_url(output.id, base_url),
        "url_expires_at": timestamp(expires_at_ms),
        "expires_at": timestamp(expires_at_ms),
        "file_path": output.name,
        "job_id": output.job_id,
    }


def content_url(asset_id: str, base_url: str) -> str:
    """Where an asset's bytes are."""
    return f"{base_url}/api/v2/assets/{quote(asset_id)}/content"


def _between(start_ms: int | None, end_ms: int | None) -> int | None:
    return None if start_ms is None or end_ms is None else max(0, end_ms - start_ms)
