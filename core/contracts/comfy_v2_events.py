"""What a webhook says of a job in the words of Comfy API v2: one event as JSON, of a bounded size."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Any

from core.contracts.comfy_v2 import (
    SHOWN,
    error_view,
    maybe_timestamp,
    missing_view,
    output_view,
    progress_view,
    timestamp,
)
from core.job import Job
from core.links import Links, LinkSigner
from core.webhooks.target import WebhookTarget

#: Of a body as JSON text in ASCII.
MAX_BODY_BYTES = 20_000
#: Of a request's `extra_params`, which always stand in a body as they are.
MAX_EXTRA_BYTES = 8_192
#: Of an error's message in a body that had to be cut.
_MAX_MESSAGE_CHARS = 400
#: Of missing files named in a body.
_MAX_MISSING = 20


def event_body(job: Job, event: str, *, seq: int, at_ms: int, signer: LinkSigner | None = None) -> dict[str, Any]:
    """`{"type", "timestamp", "data": {"id", "status", "sequence", ..., "outputs"}}`, with no file and no secret in it.

    Its links to files need no key, where a `signer` signs them.

    Over `MAX_BODY_BYTES` these give way, in this order, and `data` says `"truncated": true`: the traceback, the
    parameters, the last outputs, the labels.

    Parameters:
      seq: the number of the event in the job's log; rises from event to event.
      at_ms: when it happened.
      signer: of the links to outputs.
    """
    webhook = job.webhook or WebhookTarget(url="")
    links = Links(base_url=webhook.base_url, signer=signer)
    data: dict[str, Any] = {
        "id": job.id,
        "status": SHOWN[job.status],
        "sequence": seq,
        "created_at": timestamp(job.created_at_ms),
        "started_at": maybe_timestamp(job.started_at_ms),
        "completed_at": maybe_timestamp(job.completed_at_ms),
        "progress": progress_view(job),
        "error": error_view(job),
        "outputs": [output_view(output, links, job.files_expire_at_ms) for output in job.outputs],
    }
    missing = [missing_view(output) for output in job.missing_outputs[:_MAX_MISSING]]
    optional = {
        "missing_outputs": missing,
        "metadata": job.metadata,
        "parameters": job.parameters,
        "extra": webhook.extra_params,
    }
    data |= {name: value for name, value in optional.items() if value}
    body = {"type": event, "timestamp": timestamp(at_ms), "data": data}
    for shorten in (_shorten_error, _drop_parameters, _drop_outputs, _drop_metadata):
        if size_bytes(body) > MAX_BODY_BYTES:
            data["truncated"] = True
            shorten(data, size_bytes(body) - MAX_BODY_BYTES)
    return body


def size_bytes(value: Any) -> int:
    """How long a value is as JSON text in ASCII."""
    return len(json.dumps(value))


def _shorten_error(data: dict[str, Any], _excess_bytes: int) -> None:
    if data["error"] is not None:
        message = data["error"]["message"][:_MAX_MESSAGE_CHARS]
        data["error"] |= {"message": message, "traceback": None}


def _drop_parameters(data: dict[str, Any], _excess_bytes: int) -> None:
    data.pop("parameters", None)


def _drop_outputs(data: dict[str, Any], excess_bytes: int) -> None:
    """As many of the last ones as it takes."""
    # Each with the comma and the space between two.
    sizes = [size_bytes(output) + 2 for output in data["outputs"]]
    room_bytes = sum(sizes) - excess_bytes
    data["outputs"] = data["outputs"][: sum(total <= room_bytes for total in accumulate(sizes))]


def _drop_metadata(data: dict[str, Any], _excess_bytes: int) -> None:
    data.pop("metadata", None)
