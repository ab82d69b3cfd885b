"""The answers as models. Nothing is built from them: they describe, and tests hold what is served against them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, RootModel

from core.webhooks.events import EVENTS

JobStatus = Literal["queued", "running", "canceling", "succeeded", "failed", "canceled", "expired"]
ResultStatus = Literal["pending", "generating", "generated", "completed", "failed", "cancelled", "timeout"]


class ErrorBody(BaseModel):
    code: str = Field(description="Stable; for programs.")
    message: str = Field(description="For people.")
    details: dict[str, Any] | None


class Error(BaseModel):
    """What every 4xx and 5xx holds."""

    error: ErrorBody


class GenerateError(Error):
    """The same, with the message once more, as older servers of this contract answer it."""

    detail: str | None = None


class Progress(BaseModel):
    value: float = Field(ge=0, le=1)
    nodes_done: int
    nodes_total: int
    current_node: str | None = None
    current_node_class: str | None = None
    step: int | None = None
    steps: int | None = None
    remaining_s: float | None = Field(
        None, ge=0, description="Seconds of work left; null until nodes like all of these have run on that GPU."
    )
    message: str = Field(description="The same in words, such as KSampler 7/20.")


class OutputUpload(BaseModel):
    """How a file fared on its way to the client's bucket."""

    url: str | None
    error: str | None


class JobOutput(BaseModel):
    """A file that a job produced."""

    id: str
    job_id: str
    node_id: str
    name: str
    type: Literal["image", "video", "audio", "text", "file", "latent"]
    content_type: str
    size_bytes: int
    hash: str | None
    url: str
    url_expires_at: str
    upload: OutputUpload | None = None
    conversion_error: str | None = None
    expired: bool | None = Field(None, description="True: its time is over, and its file was removed.")


class MissingOutput(BaseModel):
    """A file that a node reported and that is not there, or lies where nobody may take it."""

    node_id: str
    name: str
    message: str


class JobError(BaseModel):
    """Why a job failed."""

    code: str
    message: str
    node_id: str | None
    class_type: str | None
    traceback: str | None


class JobWarning(BaseModel):
    """A part of a job that did not run, because a node blocked it."""

    message: str
    node_id: str | None
    class_type: str | None


class Loss(BaseModel):
    """An attempt that was lost with its instance, or its worker."""

    attempt: int | None
    code: str | None = Field(description="instance_lost, stuck or out_of_memory.")
    instance: str | None
    gpu: str | None
    at: str | None


class Attempts(BaseModel):
    """Which try at a job it is, where, and what became of those before."""

    attempt: int = Field(description="Counted from 1; 0 before a GPU took it.")
    instance: str | None = Field(description="Of the newest attempt: gpu0@host.")
    gpu: str | None = Field(description="What GPU that has, in its own words.")
    losses: list[Loss] = Field(description="The oldest first, the newest 20.")


class Urls(BaseModel):
    self: str
    events: str
    cancel: str


class Metrics(BaseModel):
    queue_ms: int | None
    execution_ms: int | None


class Job(Attempts):
    """A job as it stands. Times are RFC 3339 in UTC."""

    id: str
    status: JobStatus
    created_at: str
    started_at: str | None
    completed_at: str | None
    expires_at: str
    queue_position: int | None = Field(description="1 is the next to run; null when it does not wait.")
    estimated_wait_ms: int | None = Field(
        None, description="Only while it waits: until a GPU begins it, estimated; null while no healthy GPU can."
    )
    progress: Progress | None
    outputs: list[JobOutput]
    error: JobError | None
    urls: Urls
    metrics: Metrics
    priority: int
    metadata: dict[str, str] | str | None = None
    template: str | None = Field(None, description="Name of the workflow template it was made from.")
    parameters: dict[str, Any] | None = Field(None, description="Of a template, with the seeds that were drawn.")
    outputs_reused: bool | None = None
    missing_outputs: list[MissingOutput] | None = Field(
        None, description="Files that ComfyUI reported and does not have; only where there are any."
    )
    warnings: list[JobWarning] | None = Field(None, description="What kept a part of it from running.")


class ListedJob(Job):
    create_time: str
    update_time: str


class JobPage(BaseModel):
    jobs: list[ListedJob]
    next_cursor: str | None
    truncated: bool


class JobEvent(BaseModel):
    """One line of a job's log."""

    seq: int = Field(description="Its number, which is the id of the same event in the stream.")
    type: Literal["status", "output", "progress"]
    at: str
    data: dict[str, Any] = Field(
        description="Of status: status, and where it says so instance, or the code of a loss. Of output: the id of the "
        "asset. Of progress: value and attempt."
    )


class JobLog(BaseModel):
    """What has happened to a job, the oldest first."""

    events: list[JobEvent]
    next_after: int | None = Field(description="The value of after for the rest; null when this is all.")


class SubmittedWorkflow(BaseModel):
    """The graph of a job as it was submitted."""

    workflow: dict[str, Any]
    format: Literal["api"]


class Asset(BaseModel):
    """A file with an id."""

    id: str
    hash: str | None
    size_bytes: int
    content_type: str
    created_at: str
    url: str
    url_expires_at: str
    expires_at: str | None
    file_path: str | None
    job_id: str | None = None
    created_new: bool | None = Field(None, description="In the answer to an upload.")


class ResultOutput(BaseModel):
    filename: str
    local_path: str | None = Field(description="For GET /download/{path}.")
    type: str
    subfolder: str
    node_id: str
    output_type: str
    url: str
    upload_error: str | None
    data: str | None = Field(description="Base64, if it was asked for.")
    mimetype: str | None
    error: str | None


class Timings(BaseModel):
    queued_at_ms: int
    preprocess_ms: int | None
    generation_ms: int | None
    postprocess_ms: int | None
    completed_at_ms: int | None
    total_ms: int | None


class Result(BaseModel):
    """A job in the words of the `/generate` contract."""

    id: str
    status: ResultStatus
    message: str
    output: list[ResultOutput]
    timings: Timings
    comfyui_response: dict[str, Any]
    template: str | None = Field(None, description="Name of the workflow template it was made from.")
    parameters: dict[str, Any] | None = Field(None, description="Of a template, with the seeds that were drawn.")
    queue_position: dict[str, Any] | None = Field(None, description="While it waits: its place, and for how long.")


class Status(Result, Attempts):
    """A job in the words of the `/generate` contract, and where it ran."""


class Message(BaseModel):
    message: str
    status: str


class QueueInfo(BaseModel):
    """How many jobs wait, run, and store their outputs, and how long a new one would wait."""

    preprocess_queue_size: int
    generation_queue_size: int
    postprocess_queue_size: int
    estimated_wait_time: float | None = Field(
        description="Seconds until a job submitted now begins, estimated; null while no GPU is healthy."
    )
    gpus: int = Field(description="Healthy ones.")


class WorkflowSummary(BaseModel):
    name: str
    title: str
    description: str


class WorkflowProblem(BaseModel):
    file: str
    line: int
    reason: str


class Workflows(BaseModel):
    """The templates, and what is wrong with files of the operator's directory."""

    workflows: list[WorkflowSummary]
    problems: list[WorkflowProblem]


class Workflow(WorkflowSummary):
    parameters: dict[str, Any] = Field(description="JSON Schema of the values it takes.")


class Task(BaseModel):
    id: str
    message: str
    status: ResultStatus
    output: list[ResultOutput]


class Pictures(Result):
    """What `/prompt` made."""

    images: list[str] = Field(description="Each picture as a data URI.")
    error: str | None = Field(None, description="Why there are none.")


class MissingParameters(RootModel[dict[str, str]]):
    """`{"<name>": "missing parameter"}` for each value that is not there."""


class NoPictures(RootModel[Pictures | MissingParameters]):
    """A value is missing, or the workflow ran and made no picture."""


class UploadedImage(BaseModel):
    success: bool
    filename: str = Field(description="What a graph may call the file. Another one than sent where that is taken.")
    path: str = Field(description="The same, for good: what a graph or a parameter calls the file.")


class Refused(BaseModel):
    """An error in the words of the PyWorker contract."""

    error: str


class EventData(BaseModel):
    """A job as its webhook is told of it."""

    id: str
    status: JobStatus
    sequence: int = Field(description="Rises from event to event of a job.")
    created_at: str
    started_at: str | None
    completed_at: str | None
    progress: Progress | None
    error: JobError | None
    outputs: list[JobOutput]
    metadata: dict[str, str] | str | None = None
    parameters: dict[str, Any] | None = None
    extra: dict[str, Any] | None = Field(None, description="The extra_params of the webhook.")
    truncated: bool | None = Field(None, description="It would have been too long; the job has the rest.")


class Event(BaseModel):
    """What a webhook is sent of a job of Comfy API v2, or of a template."""

    type: str = Field(json_schema_extra={"enum": list(EVENTS)})
    timestamp: str
    data: EventData


class GenerateEvent(BaseModel):
    """What a webhook is sent of a job of the `/generate` family."""

    id: str
    status: ResultStatus
    message: str
    output: list[ResultOutput]
    timings: Timings
    extra: dict[str, Any] = Field(description="The extra_params of the webhook.")
    parameters: dict[str, Any] | None = None
    truncated: bool | None = Field(None, description="It would have been too long; the job has the rest.")


class DeliveryAttempt(BaseModel):
    """One try at a delivery."""

    number: int
    at: str
    duration_ms: int
    status_code: int | None = Field(description="Of the receiver's answer; null when there was none.")
    error: str | None = Field(description="Why it counts as failed.")


class Delivery(BaseModel):
    """One event for one webhook."""

    id: str = Field(description="The webhook-id of every try.")
    job_id: str
    event: str
    sequence: int
    state: Literal["pending", "sending", "delivered", "dead"]
    url: str = Field(description="Without query.")
    tries: int
    created_at: str
    updated_at: str
    next_try_at: str | None
    attempts: list[DeliveryAttempt]


class DeliveryPage(BaseModel):
    deliveries: list[Delivery]
    next_cursor: str | None


class Purged(BaseModel):
    purged: int = Field(description="How many deliveries were forgotten.")


class PublicKey(BaseModel):
    public_key: str = Field(description="whpk_ and the base64 of an ed25519 public key.")


class Health(BaseModel):
    status: Literal["healthy"]


class Check(BaseModel):
    ok: bool
    reason: str | None


class StorageCheck(Check):
    state: Literal["ok", "unavailable", "disk_full"]


class Instance(BaseModel):
    name: str
    state: str
    kind: Literal["real", "SIMULATED"]
    gpu: str | None
    device: str | None
    version: str | None
    job_id: str | None
    restarts: int
    reason: str | None


class Loop(BaseModel):
    """A thread of this process that others rely on. What fails is tried again, after longer and longer rests."""

    name: str
    alive: bool
    failures: int = Field(description="In a row, up to now.")
    last_error: str | None = Field(description="The kind of the last one; the log has it whole.")
    failing_since: str | None


class Readiness(BaseModel):
    """Whether jobs can run. Those without a key learn no more than that."""

    ready: bool
    ledger: Check | None = None
    broker: Check | None = None
    storage: StorageCheck | None = None
    loops: list[Loop] | None = None
    healthy_instances: int | None = None
    instances: list[Instance] | None = None


class Gpu(BaseModel):
    """A GPU with its ComfyUI, as operators see it."""

    name: str = Field(description="gpu0@host.")
    host: str
    state: str
    reason: str | None = Field(description="Of its state.")
    kind: Literal["simulator", "comfyui", "attached"]
    is_simulated: bool
    gpu: str | None
    device: str | None
    version: str | None
    job_id: str | None = Field(description="The job it runs now.")
    models: list[str] = Field(description="Model files of the job that it ran last.")
    restarts: int
    warmup_s: float | None
    started_at_ms: int
    up_since_ms: int | None = Field(description="When it answered first after its last start; null if it does not.")
    heartbeat_at_ms: int
    quarantined_until_ms: int | None


class Gpus(BaseModel):
    gpus: list[Gpu]


class OpenApi(BaseModel):
    """This document."""

    openapi: str
    info: dict[str, Any]
    servers: list[dict[str, Any]]
    tags: list[dict[str, Any]]
    security: list[dict[str, Any]]
    paths: dict[str, Any]
    webhooks: dict[str, Any]
    components: dict[str, Any]
