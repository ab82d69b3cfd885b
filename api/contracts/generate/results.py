"""The answers of the `/generate` contract: what each holds, and how it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from api.http.files import read_base64
from api.service.estimates import Place
from core.contracts.comfy_v2 import AttemptsView, ProgressView, attempts_view
from core.contracts.generate import QueuePositionView, ResultStatus, ResultView, comfyui_response, generate_result
from core.errors import OutputUnavailable, PromptInterrupted, PromptStuck
from core.ledger.requeue import POISON
from core.links import Links
from core.records.job import CANCELED, CANCELING, DELIVERING, EXPIRED, FAILED, QUEUED, RUNNING, SUCCEEDED, Job
from core.settings import Settings
from core.storage.backend import output_storage
from core.storage.folders import BucketFault
from core.storage.marker import AWAY

#: All files of one answer together, before base64.
MAX_INLINE_BYTES = 32 * 1024 * 1024
#: Codes of jobs that failed with their instances, not by themselves.
LOST = (POISON, PromptStuck.code, PromptInterrupted.code)
#: What `/generate/sync` answers for each end.
ENDS = {SUCCEEDED: 200, CANCELED: 499, FAILED: 500, EXPIRED: 504}
LOST_INSTANCE = 502
#: Every status that an answer that waited may have.
END_STATUSES = sorted({*ENDS.values(), LOST_INSTANCE})
#: The contract's words for where a job is.
QUEUE_WORDS = {
    QUEUED: "preprocessing",
    RUNNING: "generation",
    CANCELING: "processing",
    DELIVERING: "postprocessing",
}


class MessageView(TypedDict):
    message: str
    status: str


class QueueSizesView(TypedDict):
    preprocess_queue_size: int
    generation_queue_size: int
    postprocess_queue_size: int


class QueueInfoView(QueueSizesView):
    """How many jobs wait, run, and store their outputs, and how long a new one would wait."""

    estimated_wait_time: Annotated[
        float | None,
        Field(description="Seconds until a job submitted now begins, estimated; null while no GPU is healthy."),
    ]
    gpus: Annotated[int, Field(description="Healthy ones.")]


class StatusView(ResultView, AttemptsView):
    """A job in the words of the `/generate` contract, and where it ran."""


class StreamEventView(TypedDict):
    """One event of a stream, until the last."""

    request_id: str
    status: ResultStatus
    message: str
    timestamp: str
    elapsed_time: float
    queue_info: QueueSizesView
    queue_position: QueuePositionView
    output_count: int
    progress: ProgressView | None


class FinalEventView(TypedDict):
    """The last event of a stream."""

    request_id: str
    status: Literal["final_result"]
    result: StatusView
    elapsed_time: float


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a result is to hold beside the usual."""

    is_inline: bool
    has_response: bool


def queue_sizes(sizes: Mapping[str, int]) -> QueueSizesView:
    """Count jobs by the contract's queues.

    Parameters:
      sizes: how many jobs have each status.
    """
    return {
        "preprocess_queue_size": sizes.get(QUEUED, 0),
        "generation_queue_size": sizes.get(RUNNING, 0),
        "postprocess_queue_size": sizes.get(DELIVERING, 0),
    }


def queue_position(job: Job, place: Place | None, queue_size: int) -> QueuePositionView:
    """Return the place of a job in its queue; position 0 when it does not wait.

    Parameters:
      place: of a job that waits; None when the ledger does not say.
      queue_size: how many jobs have its status.
    """
    is_queued = job.status == QUEUED
    view: QueuePositionView = {
        "current_queue": QUEUE_WORDS[job.status],
        "position": place.position if place else None if is_queued else 0,
        "queue_size": queue_size,
        "estimated_wait_time": rounded_s(place.starts_in_s if place else None) if is_queued else 0.0,
    }
    if place is not None and is_queued:
        view["reason"] = place.sentence
    return view


def rounded_s(seconds: float | None) -> float | None:
    """Return seconds as they are shown."""
    return None if seconds is None else round(seconds, 3)


def status_of_end(job: Job) -> int:
    """Return the HTTP status of an answer that waited for a job's end."""
    if job.status == FAILED and job.error is not None and job.error.code in LOST:
        return LOST_INSTANCE
    return ENDS.get(job.status, 200)


def full_result(job: Job, settings: Settings, links: Links, wanted: Wanted) -> StatusView:
    """Return the result of a job, with the bytes of its outputs in it if they are wanted.

    Parameters:
      links: of the address the client reaches us by.
    """
    body: StatusView = {**generate_result(job, links=links), **attempts_view(job)}
    if wanted.has_response:
        body["comfyui_response"] = comfyui_response(job)
    if wanted.is_inline:
        room_bytes = MAX_INLINE_BYTES
        for output, entry in zip(job.outputs, body["output"], strict=True):
            if output.size_bytes > room_bytes:
                entry["error"] = "Too large to return inline; fetch it from url."
                continue
            try:
                entry["data"] = read_base64(output, output_storage(settings))
                room_bytes -= output.size_bytes
            except OutputUnavailable as exc:
                entry["error"] = exc.message
            except BucketFault:
                entry["error"] = AWAY
    return body
