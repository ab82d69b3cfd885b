"""What answers and webhooks share of Comfy API v2's words: the status, progress, error and outputs of a job."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from core.job import CANCELING, DELIVERING, FAILED, RUNNING, STATUSES, SUCCEEDED, Job
from core.job_error import JobError
from core.links import Links
from core.output import Output
from core.progress import Progress
from core.texts.excerpts import MESSAGE_CHARS, TRACEBACK_CHARS, head_and_tail

#: The API knows a closed set of words; storing outputs is part of running.
SHOWN = {status: RUNNING if status == DELIVERING else status for status in STATUSES}
_IN_PROGRESS = (RUNNING, CANCELING, DELIVERING)
_BEFORE_THE_FIRST = ("value", "nodes_done", "nodes_total", "message")


def timestamp(ms: int) -> str:
    """RFC 3339 with milliseconds, UTC."""
    moment = datetime.fromtimestamp(ms // 1000, tz=timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


def maybe_timestamp(ms: int | None) -> str | None:
    return None if ms is None else timestamp(ms)


def progress_view(job: Job) -> dict[str, Any] | None:
    """The last snapshot; zeros for a job that has just begun, everything for one whose GPU work is done."""
    if job.progress is None and job.status not in _IN_PROGRESS:
        return None
    snapshot = job.progress or Progress(nodes_total=job.nodes_total)
    if job.status in (DELIVERING, SUCCEEDED):
        snapshot = replace(snapshot, value=1.0, nodes_done=snapshot.nodes_total)
    view = snapshot_view(snapshot)
    # Before the first snapshot there is nothing to say of nodes.
    return view if job.progress is not None else {name: view[name] for name in _BEFORE_THE_FIRST}


def snapshot_view(snapshot: Progress) -> dict[str, Any]:
    """A progress snapshot as clients see it: with what it says in words, which the official SDK prints."""
    node = snapshot.current_node_class or snapshot.current_node
    if node is None or snapshot.value >= 1.0:
        message = f"{snapshot.nodes_done}/{snapshot.nodes_total} nodes"
    elif snapshot.steps:
        message = f"{node} {snapshot.step}/{snapshot.steps}"
    else:
        message = node
    return {**snapshot.to_json(), "message": message}


def attempt_view(job: Job) -> dict[str, Any]:
    """`{"attempt", "instance", "gpu", "losses"}`: which try it is, where, and what became of those before."""
    return {
        "attempt": job.attempt,
        "instance": job.instance,
        "gpu": job.gpu,
        "losses": [
            {
                "attempt": loss.attempt,
                "code": loss.code,
                "instance": loss.instance,
                "gpu": loss.gpu,
                "at": maybe_timestamp(loss.at_ms),
            }
            for loss in job.losses
        ],
    }


def error_view(job: Job) -> dict[str, Any] | None:
    """`{"code", "message", "node_id", "class_type", "traceback"}` of a failed job."""
    if job.status != FAILED:
        return None
    view = (job.error or JobError()).to_json()
    # Jobs of earlier versions kept whatever nodes said in their rows.
    view["message"] = head_and_tail(view["message"], 2 * MESSAGE_CHARS)
    if view["traceback"]:
        view["traceback"] = head_and_tail(view["traceback"], 2 * TRACEBACK_CHARS)
    return view


def output_view(output: Output, links: Links, expires_at_ms: int) -> dict[str, Any]:
    """The Output object; `upload`, `conversion_error` and `expired` only where there is something to say.

    Parameters:
      expires_at_ms: when its file is, or was, removed.
    """
    more: dict[str, Any] = {}
    if output.bucket_result is not None:
        more["upload"] = {"url": output.bucket_result.url, "error": output.bucket_result.error}
    if output.conversion_error is not None:
        more["conversion_error"] = output.conversion_error
    if output.is_expired:
        more["expired"] = True
    link = links.content(output.id, until_ms=expires_at_ms)
    return {
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
        **more,
    }


def missing_view(output: Output) -> dict[str, str]:
    """A file that ComfyUI reported and nobody can find."""
    return {"node_id": output.node_id, "name": output.name, "message": output.missing_reason or ""}
