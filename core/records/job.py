"""The job record, its statuses, and which status may follow which."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from core.records.access import DEFAULT_TENANT
from core.records.job_error import JobError, JobWarning, Loss
from core.records.output import Output
from core.records.output_options import AS_THEY_ARE, OutputOptions
from core.records.progress import Progress
from core.records.requirements import Requirements
from core.records.webhook_target import WebhookTarget
from core.texts.stored_json import known_fields
from core.trace_context import trace_id_of

#: Which HTTP contract took a job: decides the shape of its webhooks.
ContractName: TypeAlias = Literal["v2", "generate"]
Status: TypeAlias = Literal[
    "queued", "running", "canceling", "delivering", "succeeded", "failed", "canceled", "expired"
]
QUEUED: Final = "queued"
RUNNING: Final = "running"
#: An interrupt is under way.
CANCELING: Final = "canceling"
#: The GPU is done; files and messages are on their way.
DELIVERING: Final = "delivering"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELED: Final = "canceled"
#: Ended without a result before anybody could run it.
EXPIRED: Final = "expired"

TERMINAL: frozenset[Status] = frozenset({SUCCEEDED, FAILED, CANCELED, EXPIRED})
#: Statuses in which an attempt holds a lease on a GPU.
LEASED: frozenset[Status] = frozenset({RUNNING, CANCELING})

#: From each status, where a job may go. A terminal status never changes.
TRANSITIONS: dict[Status, frozenset[Status]] = {
    QUEUED: frozenset({RUNNING, FAILED, CANCELED, EXPIRED}),
    RUNNING: frozenset({QUEUED, CANCELING, DELIVERING, FAILED, CANCELED}),
    CANCELING: frozenset({CANCELED, FAILED}),
    DELIVERING: frozenset({QUEUED, SUCCEEDED, FAILED, CANCELED}),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELED: frozenset(),
    EXPIRED: frozenset(),
}
STATUSES = tuple(TRANSITIONS)

#: Namespace of prompt ids, so that the same job and attempt always name the same prompt.
_PROMPT_NAMESPACE = uuid.UUID("7b6f2c1e-5d0a-4c0b-9a53-0f8f6d3f3a11")


def predecessors(status: Status) -> tuple[Status, ...]:
    """Return the statuses from which a job may enter `status`, in the order of the life cycle."""
    return tuple(before for before, after in TRANSITIONS.items() if status in after)


def new_job_id() -> str:
    """Return a random UUID, so that job ids cannot be guessed."""
    return str(uuid.uuid4())


def prompt_id_of(job_id: str, attempt: int) -> str:
    """Return the ComfyUI prompt id of one attempt: a canonical lower-case UUID, the same whenever it is asked for."""
    return str(uuid.uuid5(_PROMPT_NAMESPACE, f"{job_id}:{attempt}"))


def second_prompt_id(prompt_id: str) -> str:
    """Return the id under which an attempt posts its graph a second time: ComfyUI knows the first one as finished."""
    return str(uuid.uuid5(_PROMPT_NAMESPACE, f"{prompt_id}:again"))


@dataclass(frozen=True, kw_only=True)
class InputRef:
    """A file to be there before a job runs."""

    #: What its graph calls it.
    name: str
    #: Where storage has it.
    key: str

    def to_json(self) -> dict[str, str]:
        """Return the reference as a job's row keeps it."""
        return {"name": self.name, "key": self.key}

    @classmethod
    def from_json(cls, value: Any) -> InputRef:
        """Read what `to_json` wrote, in this version or another. Raises TypeError - a part of it is missing."""
        return cls(**known_fields(cls, value))


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What a client asked for, as far as its job shows it for good: each field has its column in the ledger."""

    contract: ContractName
    #: Who owns it.
    tenant: str = DEFAULT_TENANT
    #: The key that submitted it; None without one, and for a key of the settings.
    key_id: str | None = None
    #: A client's word to find it by.
    label: str | None = None
    #: The batch it is a child of.
    batch: str | None = None
    #: Its place there, from 0.
    batch_index: int | None = None
    #: What was varied to make it, by the names its batch calls them.
    varied: dict[str, Any] | None = None
    #: The job of its batch that it was made to replace.
    replaces: str | None = None
    #: The job it was made from by running that once more.
    rerun_of: str | None = None
    #: What nobody chose and we drew: names of its template's parameters, and places of its graph as `node.input`.
    drawn: tuple[str, ...] = ()
    #: Larger runs sooner.
    priority: int = 0
    #: Labels of the client, a map or one string; returned as given.
    metadata: Any = None
    #: Name of its template; None for a plain graph.
    template: str | None = None
    #: The final values of its template's parameters, drawn seeds included; None for a plain graph.
    parameters: dict[str, Any] | None = None
    #: What is to be done with its outputs.
    output_options: OutputOptions = AS_THEY_ARE
    #: Seconds the client expects the job to take on an RTX 4090 (`/generate` contract).
    expected_time_s: float | None = None
    #: The client's own id (`/generate` contract); unique among its tenant's jobs that are kept.
    request_id: str | None = None
    #: Where its events are to be told, if anywhere.
    webhook: WebhookTarget | None = None
    #: Longest run of the prompt; None means the fleet's default.
    timeout_s: float | None = None
    #: What the GPU must be; None means any.
    requires: Requirements | None = None
    #: How long it may wait for its first GPU; then it expires. None means for ever.
    start_within_s: float | None = None
    #: W3C trace context of the request it came with, to go on to whoever works for it.
    traceparent: str | None = None


@dataclass(frozen=True, kw_only=True)
class Job(JobSpec):
    """One row of the ledger, without its graph."""

    id: str
    status: Status
    #: Counts tries; the fencing token of every write a worker makes.
    attempt: int
    #: Number of the newest event in the job's log.
    last_seq: int
    #: How many nodes of the graph will run.
    nodes_total: int
    created_at_ms: int
    updated_at_ms: int
    #: When it may be forgotten; while it has not ended: when it might, if it ended now.
    expires_at_ms: int
    #: When its files may be removed: then at the latest.
    files_expire_at_ms: int
    started_at_ms: int | None = None
    #: When the GPU was done.
    generated_at_ms: int | None = None
    completed_at_ms: int | None = None
    #: `gpu0@host` while an attempt runs, and afterwards the one that ran last.
    instance: str | None = None
    #: Its GPU, in the instance's words; its kind where it has none.
    gpu: str | None = None
    #: Attempts lost with their instances, the oldest first.
    losses: tuple[Loss, ...] = ()
    #: What its duration is learned under: jobs of one shape take about as long.
    shape: str | None = None
    #: Files to be there before it runs.
    inputs: tuple[InputRef, ...] = ()
    #: Milliseconds that it had a GPU: of the attempt that brought it to its end, without loads of models and in loads,
    #: and of all that were lost before.
    run_ms: int = 0
    load_ms: int = 0
    lost_ms: int = 0
    #: The last snapshot.
    progress: Progress | None = None
    #: Of a failed job.
    error: JobError | None = None
    #: ComfyUI served nodes of this job from its cache.
    outputs_reused: bool | None = None
    #: What of it did not run.
    warnings: tuple[JobWarning, ...] = ()
    #: Its files were removed at `files_expire_at_ms`.
    files_removed: bool = False
    #: Files in storage.
    outputs: tuple[Output, ...] = ()
    #: Files that ComfyUI reported and nobody can find: no hash, no place, and a `missing_reason`.
    missing_outputs: tuple[Output, ...] = ()

    @property
    def trace_id(self) -> str | None:
        """The trace of the request it came with; None of earlier versions."""
        return trace_id_of(self.traceparent)

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can change any more."""
        return self.status in TERMINAL
