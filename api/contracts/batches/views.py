"""Batches in the words of Comfy API v2: what each answer holds, and how it is built."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from api.contracts.comfy_v2.views import ListedJobView
from api.http.caller import caller
from core.contracts.batch_views import BatchCountsView, counts_view
from core.contracts.comfy_v2 import maybe_timestamp, timestamp
from core.records.access import ALL_TENANTS
from core.records.batch import STATES, Batch, ErrorGroup


class BatchOverView(TypedDict):
    """One thing that was varied."""

    name: str
    count: int
    values: Annotated[
        list[str | int | float | bool], Field(description="The first 100, each as far as 200 characters.")
    ]


class BatchErrorView(TypedDict):
    """Jobs that failed for the same cause."""

    code: str
    message: str
    node_id: str | None
    class_type: str | None
    count: int
    job_ids: Annotated[list[str], Field(description="Some of them.")]


class BatchUrlsView(TypedDict):
    self: str
    jobs: str
    cancel: str


class ListedBatchView(TypedDict):
    """A batch in a list. Times are RFC 3339 in UTC."""

    id: str
    status: Annotated[str, Field(json_schema_extra={"enum": list(STATES)})]
    label: str | None
    total: Annotated[int, Field(description="How many jobs it has.")]
    counts: BatchCountsView
    progress: Annotated[float, Field(ge=0, le=1, description="The part of its jobs that has ended.")]
    priority: int
    tenant: NotRequired[Annotated[str, Field(description="Whose it is; only for who sees those of several.")]]
    max_running: int | None
    created_at: str
    completed_at: Annotated[str | None, Field(description="When its last job had ended.")]
    completions: Annotated[int, Field(description="How often that came about: jobs may be added, or made again.")]
    is_canceling: Annotated[bool, Field(description="Not all jobs that are to be cancelled have been told.")]
    is_retrying: Annotated[bool, Field(description="Not all jobs that are to be made again have been made.")]
    urls: BatchUrlsView
    metadata: NotRequired[dict[str, str] | str]


class BatchView(ListedBatchView):
    """A batch as it stands."""

    time_left_s: Annotated[
        float | None, Field(description="Until its last job ends, estimated; 0 when it is completed, null if unknown.")
    ]
    errors: Annotated[list[BatchErrorView], Field(description="Why jobs failed or expired, the commonest first.")]
    over: Annotated[list[BatchOverView] | None, Field(description="What was varied; null where jobs were listed.")]


class BatchPageView(TypedDict):
    batches: list[ListedBatchView]
    next_cursor: str | None


class BatchJobsView(TypedDict):
    jobs: list[ListedJobView]
    next_cursor: str | None


def listed_view(batch: Batch, base_url: str) -> ListedBatchView:
    """Return a batch as a list shows it. Parameters: base_url - the address the client reaches us by."""
    path = f"{base_url}/api/v2/batches/{batch.id}"
    view: ListedBatchView = {
        "id": batch.id,
        "status": batch.state,
        "label": batch.label,
        "total": batch.total,
        "counts": counts_view(batch.counts),
        "progress": round(batch.progress, 4),
        "priority": batch.priority,
        "max_running": batch.max_running,
        "created_at": timestamp(batch.created_at_ms),
        "completed_at": maybe_timestamp(batch.completed_at_ms),
        "completions": batch.completions,
        "is_canceling": batch.cancel_before_ms is not None,
        "is_retrying": batch.retry_before_ms is not None,
        "urls": {"self": path, "jobs": f"{path}/jobs", "cancel": f"{path}/cancel"},
    }
    if caller().sees == ALL_TENANTS:
        view["tenant"] = batch.tenant
    if batch.metadata is not None:
        view["metadata"] = batch.metadata
    return view


def batch_view(batch: Batch, base_url: str, *, errors: Iterable[ErrorGroup], time_left_s: float | None) -> BatchView:
    """Return the Batch object."""
    return {
        **listed_view(batch, base_url),
        "time_left_s": None if time_left_s is None else round(time_left_s, 1),
        "errors": [
            {
                "code": group.code,
                "message": group.message,
                "node_id": group.node_id,
                "class_type": group.class_type,
                "count": group.count,
                "job_ids": list(group.job_ids),
            }
            for group in errors
        ],
        "over": None
        if batch.over is None
        else [{"name": each["name"], "count": each["count"], "values": each["values"]} for each in batch.over],
    }
