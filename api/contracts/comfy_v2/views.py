"""Jobs, lists of them and assets in the words of Comfy API v2."""

from __future__ import annotations

from typing import Any

from api.service.estimates import Place
from core.contracts.comfy_v2 import (
    SHOWN,
    attempt_view,
    error_view,
    maybe_timestamp,
    missing_view,
    output_view,
    progress_view,
    timestamp,
)
from core.job import Job
from core.ledger.input_files import InputFile
from core.ledger.jobs import JobEvent
from core.links import Links
from core.output import Output


def job_view(job: Job, links: Links, *, place: Place | None = None) -> dict[str, Any]:
    """The Job object.

    Parameters:
      links: of the address the client reaches us by.
      place: where it stands in the queue; None when it does not wait, or was not asked for.
    """
    path = f"{links.base_url}/api/v2/jobs/{job.id}"
    view = {
        "id": job.id,
        "status": SHOWN[job.status],
        "created_at": timestamp(job.created_at_ms),
        "started_at": maybe_timestamp(job.started_at_ms),
        "completed_at": maybe_timestamp(job.completed_at_ms),
        "expires_at": timestamp(job.expires_at_ms),
        **place_view(place),
        "progress": progress_view(job),
        "outputs": [output_view(output, links, job.files_expire_at_ms) for output in job.outputs],
        "error": error_view(job),
        "urls": {"self": path, "events": f"{path}/events", "cancel": f"{path}/cancel"},
        "metrics": {
            "queue_ms": _between(job.created_at_ms, job.started_at_ms),
            "execution_ms": _between(job.started_at_ms, job.generated_at_ms),
        },
        "priority": job.priority,
        **attempt_view(job),
    }
    if job.metadata is not None:
        view["metadata"] = job.metadata
    if job.template is not None:
        view["template"] = job.template
    if job.parameters is not None:
        view["parameters"] = job.parameters
    if job.warnings:
        view["warnings"] = [warning.to_json() for warning in job.warnings]
    if job.outputs_reused is not None:
        view["outputs_reused"] = job.outputs_reused
    if job.missing_outputs:
        view["missing_outputs"] = [missing_view(output) for output in job.missing_outputs]
    return view


def list_item(job: Job, links: Links) -> dict[str, Any]:
    """A job as a list shows it: the Job object, and its times by the names the SDK's list reads."""
    times = {"create_time": timestamp(job.created_at_ms), "update_time": timestamp(job.updated_at_ms)}
    return job_view(job, links) | times


def event_view(event: JobEvent) -> dict[str, Any]:
    """One line of a job's log, in the words of the API; why an instance lost it is told by a code alone."""
    data = event.data
    told: dict[str, Any]
    if event.type == "status":
        told = {"status": SHOWN[data["status"]]}
        told |= {name: data[name] for name in ("instance", "code") if name in data}
    elif event.type == "output":
        told = {"id": data.get("asset_id")}
    else:
        told = data
    return {"seq": event.seq, "type": event.type, "at": timestamp(event.at_ms), "data": told}


def place_view(place: Place | None) -> dict[str, Any]:
    """Its place in the queue; how long it will wait, only while it does."""
    if place is None:
        return {"queue_position": None}
    return {"queue_position": place.position, "estimated_wait_ms": place.wait_ms}


def asset_view(output: Output | InputFile, links: Links, expires_at_ms: int) -> dict[str, Any]:
    """The Asset object of a job's output, or of an uploaded file."""
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
