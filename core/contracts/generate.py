"""A job in the words of the `/generate` contract: the body of its answers and of its webhooks."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from core.contracts.comfy_v2 import timestamp
from core.contracts.comfy_v2_events import MAX_BODY_BYTES, size_bytes
from core.links import Links, LinkSigner
from core.records.job import (
    CANCELED,
    CANCELING,
    DELIVERING,
    EXPIRED,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Job,
    Status,
    prompt_id_of,
)
from core.records.output import Output
from core.records.progress import generated
from core.records.webhook_target import WebhookTarget
from core.texts.excerpts import MESSAGE_CHARS, head_and_tail
from core.texts.json_types import JsonObject

#: Of the message in a webhook's body that had to be cut.
_MAX_MESSAGE_CHARS = 1_000

ResultStatus = Literal["pending", "generating", "generated", "completed", "failed", "cancelled", "timeout"]
STATUS_WORDS: Mapping[Status, ResultStatus] = {
    QUEUED: "pending",
    RUNNING: "generating",
    CANCELING: "generating",
    DELIVERING: "generated",
    SUCCEEDED: "completed",
    FAILED: "failed",
    CANCELED: "cancelled",
    EXPIRED: "timeout",
}
MESSAGES = {
    QUEUED: "Waiting for a GPU",
    RUNNING: "Running on a GPU",
    CANCELING: "Being cancelled",
    DELIVERING: "Generated; storing outputs",
    SUCCEEDED: "Request completed successfully",
    CANCELED: "Request was cancelled",
    EXPIRED: "Request expired before it could run",
}


class ResultOutputView(TypedDict):
    filename: str
    local_path: Annotated[str | None, Field(description="For GET /download/{path}.")]
    type: str
    subfolder: str
    node_id: str
    output_type: str
    url: str
    upload_error: str | None
    data: Annotated[str | None, Field(description="Base64, if it was asked for.")]
    mimetype: str | None
    error: str | None


class TimingsView(TypedDict):
    queued_at_ms: int
    preprocess_ms: int | None
    generation_ms: int | None
    postprocess_ms: int | None
    completed_at_ms: int | None
    total_ms: int | None


class QueuePositionView(TypedDict):
    """Where a job stands."""

    current_queue: str
    position: int | None
    queue_size: int
    estimated_wait_time: float | None
    reason: NotRequired[Annotated[str, Field(description="Only while it waits: why, in plain English.")]]


class _JobView(TypedDict):
    """What a result and a webhook say of a job."""

    id: str
    status: ResultStatus
    message: str
    output: list[ResultOutputView]
    timings: TimingsView
    parameters: NotRequired[Annotated[JsonObject, Field(description="Of a template, with the seeds that were drawn.")]]


class ResultView(_JobView):
    """A job in the words of the `/generate` contract."""

    comfyui_response: JsonObject
    queue_position: NotRequired[
        Annotated[QueuePositionView, Field(description="While it waits: its place, and for how long.")]
    ]


class GenerateEventView(_JobView):
    """What a webhook is sent of a job of the `/generate` family."""

    extra: Annotated[JsonObject, Field(description="The extra_params of the webhook.")]
    truncated: NotRequired[Annotated[bool, Field(description="It would have been too long; the job has the rest.")]]


def generate_result(job: Job, *, links: Links) -> ResultView:
    """Return the result of a job as it stands.

    Parameters:
      links: of the address the client reaches us by.
    """
    view: ResultView = {
        "id": job.request_id or job.id,
        "status": STATUS_WORDS[job.status],
        "message": _message(job),
        "output": [_output(job, output, links) for output in job.outputs],
        "timings": _timings(job),
        "comfyui_response": {},
    }
    if job.parameters:
        view["parameters"] = job.parameters
    return view


def comfyui_response(job: Job) -> JsonObject:
    """Return what is kept of ComfyUI's `/history` of the prompt: `{<prompt id>: {"outputs", "status"}}`.

    `{}` before the prompt has ended, and for one that made nothing.
    """
    outputs: dict[str, dict[str, list[dict[str, str]]]] = {}
    for output in job.outputs:
        file = {"filename": output.name, "subfolder": output.subfolder, "type": output.folder}
        outputs.setdefault(output.node_id, {}).setdefault(output.comfy_key, []).append(file)
    if not outputs:
        return {}
    status = {"status_str": "success", "completed": True}
    return {prompt_id_of(job.id, job.attempt): {"outputs": outputs, "status": status}}


def webhook_body(job: Job, *, signer: LinkSigner | None = None) -> GenerateEventView:
    """Tell the webhook of a job how it stands.

    At most `MAX_BODY_BYTES` long: the message, the parameters and the last outputs give way, in this order, and
    `"truncated": true` says so.

    Parameters:
      signer: of the links to outputs.
    """
    webhook = job.webhook or WebhookTarget(url="")
    result = generate_result(job, links=Links(base_url=webhook.base_url, signer=signer))
    body: GenerateEventView = {
        "id": result["id"],
        "status": result["status"],
        "message": result["message"],
        "output": result["output"],
        "timings": result["timings"],
        "extra": webhook.extra_params,
    }
    if "parameters" in result:
        body["parameters"] = result["parameters"]
    if size_bytes(body) > MAX_BODY_BYTES:
        body["message"] = body["message"][:_MAX_MESSAGE_CHARS]
        body["truncated"] = True
    if size_bytes(body) > MAX_BODY_BYTES:
        body.pop("parameters", None)
    while body["output"] and size_bytes(body) > MAX_BODY_BYTES:
        body["output"] = body["output"][: len(body["output"]) * 3 // 4]
    return body


def signature_headers(body: bytes, secret: str) -> dict[str, str]:
    """Return the header in which older servers of this contract signed a body alone; it holds one signature."""
    # The text itself is the key here, whatever it begins with: so its receivers compute it.
    return {"X-Webhook-Signature": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"}


def _message(job: Job) -> str:
    if job.status == FAILED and job.error:
        return f"{head_and_tail(job.error.message.strip(), 2 * MESSAGE_CHARS)}{job.error.place}"
    problems = [output.upload_error for output in job.outputs if output.upload_error is not None]
    if job.status == SUCCEEDED and job.warnings and not problems:
        first = job.warnings[0]
        return f"Request completed in part: {first.message} (node {first.node_id}, {first.class_type})"
    if job.status == SUCCEEDED and problems:
        return (
            f"Request completed, but {len(problems)} of {len(job.outputs)} files could not be uploaded: {problems[0]}"
        )
    if job.status == SUCCEEDED and job.missing_outputs:
        reason = job.missing_outputs[0].missing_reason
        return f"Request completed, but {len(job.missing_outputs)} reported files are not there: {reason}"
    if job.status in (RUNNING, DELIVERING) and job.progress is not None:
        told = generated(job.progress) if job.status == DELIVERING else job.progress
        if told.note is not None:
            return told.note
    return MESSAGES.get(job.status, "Request failed")


def _output(job: Job, output: Output, links: Links) -> ResultOutputView:
    bucket_url = None if output.bucket_result is None else output.bucket_result.url
    error = output.conversion_error
    if output.is_expired and not bucket_url:
        error = f"expired: the file was kept until {timestamp(job.files_expire_at_ms)}"
    return {
        "filename": output.name,
        "local_path": output.storage_key,
        "type": output.folder,
        "subfolder": output.subfolder,
        "node_id": output.node_id,
        "output_type": output.comfy_key,
        "url": bucket_url or links.content(output.id, until_ms=job.files_expire_at_ms).url,
        "upload_error": output.upload_error,
        "data": None,
        "mimetype": output.content_type,
        "error": error,
    }


def _timings(job: Job) -> TimingsView:
    def between(start: int | None, end: int | None) -> int | None:
        return None if start is None or end is None else end - start

    return {
        "queued_at_ms": job.created_at_ms,
        "preprocess_ms": between(job.created_at_ms, job.started_at_ms),
        "generation_ms": between(job.started_at_ms, job.generated_at_ms),
        "postprocess_ms": between(job.generated_at_ms, job.completed_at_ms),
        "completed_at_ms": job.completed_at_ms,
        "total_ms": between(job.created_at_ms, job.completed_at_ms),
    }
