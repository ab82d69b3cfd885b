"""What a webhook is told of a batch: its counts, and how far it is."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from core.contracts.batch_views import BatchCountsView, counts_view
from core.contracts.comfy_v2 import maybe_timestamp, timestamp
from core.records.batch import BATCH_EVENTS, Batch
from core.texts.json_types import JsonObject


class BatchEventDataView(TypedDict):
    """A batch as its webhook is told of it."""

    id: str
    status: str
    label: str | None
    sequence: Annotated[int, Field(description="Which completion this is, from 1; of progress, how many there were.")]
    total: int
    counts: BatchCountsView
    progress: float
    created_at: str
    completed_at: str | None
    metadata: NotRequired[dict[str, str] | str]
    extra: NotRequired[JsonObject]


class BatchEventView(TypedDict):
    """What a webhook is sent of a batch."""

    type: Annotated[str, Field(json_schema_extra={"enum": list(BATCH_EVENTS)})]
    timestamp: str
    data: BatchEventDataView


def batch_event_body(batch: Batch, event: str, *, at_ms: int) -> dict[str, Any]:
    """Return the body that tells of an event of a batch: a `BatchEventView`."""
    data: BatchEventDataView = {
        "id": batch.id,
        "status": batch.state,
        "label": batch.label,
        "sequence": batch.completions,
        "total": batch.total,
        "counts": counts_view(batch.counts),
        "progress": round(batch.progress, 4),
        "created_at": timestamp(batch.created_at_ms),
        "completed_at": maybe_timestamp(batch.completed_at_ms),
    }
    if batch.metadata:
        data["metadata"] = batch.metadata
    if batch.webhook is not None and batch.webhook.extra_params:
        data["extra"] = batch.webhook.extra_params
    return {"type": event, "timestamp": timestamp(at_ms), "data": data}
