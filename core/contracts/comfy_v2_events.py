"""What a webhook says of a job in the words of Comfy API v2: one event as JSON, of a bounded size."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from core.contracts.comfy_v2 import (
    SHOWN,
    JobErrorView,
    JobOutputView,
    MissingOutputView,
    ProgressView,
    ShownStatus,
    error_view,
    maybe_timestamp,
    missing_view,
    output_view,
    progress_view,
    timestamp,
)
from core.links import Links, LinkSigner
from core.records.job import Job
from core.records.webhook_events import EVENTS
from core.records.webhook_target import WebhookTarget
from core.texts.json_types import JsonObject

#: Of a body as JSON text in ASCII.
MAX_BODY_BYTES = 20_000
#: Of a request's `extra_params`, which always stand in a body as they are.
MAX_EXTRA_BYTES = 8_192
#: Of an error's message in a body that had to be cut.
_MAX_MESSAGE_CHARS = 400
#: Of missing files named in a body.
_MAX_MISSING = 20


class EventDataView(TypedDict):
    """A job as its webhook is told of it."""

    id: str
    status: ShownStatus
    sequence: Annotated[int, Field(description="Rises from event to event of a job.")]
    created_at: str
    started_at: str | None
    completed_at: str | None
    progress: ProgressView | None
    error: JobErrorView | None
    outputs: list[JobOutputView]
    missing_outputs: NotRequired[list[MissingOutputView]]
    metadata: NotRequired[dict[str, str] | str]
    parameters: NotRequired[JsonObject]
    extra: NotRequired[Annotated[JsonObject, Field(description="The extra_params of the webhook.")]]
    truncated: NotRequired[Annotated[bool, Field(description="It would have been too long; the job has the rest.")]]


class EventView(TypedDict):
    """What a webhook is sent of a job of Comfy API v2, or of a template."""

    type: Annotated[str, Field(json_schema_extra={"enum": list(EVENTS)})]
    timestamp: str
    data: EventDataView


def event_body(job: Job, event: str, *, seq: int, at_ms: int, signer: LinkSigner | None = None) -> EventView:
    """Tell a webhook of an event, with no file and no secret in it.

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
    data: EventDataView = {
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
    if job.missing_outputs:
        data["missing_outputs"] = [missing_view(output) for output in job.missing_outputs[:_MAX_MISSING]]
    if job.metadata:
        data["metadata"] = job.metadata
    if job.parameters:
        data["parameters"] = job.parameters
    if webhook.extra_params:
        data["extra"] = webhook.extra_params
    body: EventView = {"type": event, "timestamp": timestamp(at_ms), "data": data}
    for shorten in (_shorten_error, _drop_parameters, _drop_outputs, _drop_metadata):
        if size_bytes(body) > MAX_BODY_BYTES:
            data["truncated"] = True
            shorten(data, size_bytes(body) - MAX_BODY_BYTES)
    return body


def size_bytes(value: Any) -> int:
    """Return how long a value is as JSON text in ASCII."""
    return len(json.dumps(value))


def _shorten_error(data: EventDataView, _excess_bytes: int) -> None:
    if data["error"] is not None:
        data["error"]["message"] = data["error"]["message"][:_MAX_MESSAGE_CHARS]
        data["error"]["traceback"] = None


def _drop_parameters(data: EventDataView, _excess_bytes: int) -> None:
    data.pop("parameters", None)


def _drop_outputs(data: EventDataView, excess_bytes: int) -> None:
    """As many of the last ones as it takes."""
    # Each with the comma and the space between two.
    sizes = [size_bytes(output) + 2 for output in data["outputs"]]
    room_bytes = sum(sizes) - excess_bytes
    data["outputs"] = data["outputs"][: sum(total <= room_bytes for total in accumulate(sizes))]


def _drop_metadata(data: EventDataView, _excess_bytes: int) -> None:
    data.pop("metadata", None)
