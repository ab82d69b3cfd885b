"""The job record, its statuses, and which status may follow which."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from core.job_error import JobError, JobWarning, Loss
from core.output import Output
from core.progress import Progress

QUEUED = "queued"
RUNNING = "running"
#: An interrupt is under way.
CANCELING = "canceling"
#: The GPU is done; files and messages are on their way.
DELIVERING = "delivering"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELED = "canceled"
#: Ended without a result before anybody could run it, or kept no longer.
EXPIRED = "expired"

TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELED, EXPIRED})
#: Statuses in which an attempt holds a lease on a GPU.
LEASED = frozenset({RUNNING, CANCELING})

#: From each status, where a job may go. A terminal status never changes.
TRANSITIONS: dict[str, frozenset[str]] = {
    QUEUED: frozenset({RUNNING, FAILED, CANCELED, EXPIRED}),
    RUNNING: frozenset({QUEUED, CANCELING, DELIVERING, FAILED, CANCELED}),
    CANCELING: frozenset({CANCELED, FAILED}),
    DELIVERING: frozenset({SUCCEEDED, FAILED, CANCELED}),
    SUCCEEDED: frozenset(),
    FAILED: frozenset(),
    CANCELED: frozenset(),
    EXPIRED: frozenset(),
}
STATUSES = tuple(TRANSITIONS)

#: Namespace of prompt ids, so that the same job and attempt always name the same prompt.
_PROMPT_NAMESPACE = uuid.UUID("7b6f2c1e-5d0a-4c0b-9a53-0f8f6d3f3a11")


def predecessors(status: str) -> tuple[str, ...]:
    """The statuses from which a job may enter `status`, in the order of the life cycle."""
    return tuple(before for before, after in TRANSITIONS.items() if status in after)


def new_job_id() -> str:
    """A random UUID: nobody can guess a neighbour's."""
    return str(uuid.uuid4())


def prompt_id_of(job_id: str, attempt: int) -> str:
    """The ComfyUI prompt id of one attempt: a canonical lower-case UUID, the same whenever it is asked for."""
    return str(uuid.uuid5(_PROMPT_NAMESPACE, f"{job_id}:{attempt}"))


def second_prompt_id(prompt_id: str) -> str:
    """The id under which an attempt posts its graph a second time: ComfyUI knows the first one as finished."""
    return str(uuid.uuid5(_PROMPT_NAMESPACE, f"{prompt_id}:again"))


@dataclass(frozen=True, kw_only=True)
class NewJob:
    """What a client asked for, checked and ready to be recorded."""

    id: str
    #: Which HTTP contract took it: `v2` or `generate`. Decides the shape of its webhooks.
    contract: str
    #: The filled graph, API format, as JSON text.
    graph: str
    #: How many nodes of the graph will run.
    nodes_total: int
    #: Digests of the /object_info that accept the graph; None when every instance of the fleet can run it.
    catalogues: tuple[str, ...] | None = None
    #: Larger runs sooner.
    priority: int = 0
    #: Labels of the client, a map or one string; returned as given.
    metadata: Any = None
    #: Name of its template; None for a plain graph.
    workflow: str | None = None
    #: The final values of its template's parameters, drawn seeds included; None for a plain graph.
    parameters: dict[str, Any] | None = None
    #: What its duration is learned under: jobs of one shape take about as long.
    shape: str | None = None
    #: Files to be there before it runs, `[{"name", "key"}]`: what the graph calls them, and where storage has them.
    inputs: list[dict[str, str]] | None = None
    #: What is to be done with its outputs: `{"s3"?, "convert"?, "strip_metadata"?}`; never a secret.
    delivery: dict[str, Any] | None = None
    #: Seconds the client expects the job to take on an RTX 4090 (`/generate` contract).
    expected_time_s: float | None = None
    #: The client's own id (`/generate` contract); unique among jobs that are kept.
    request_id: str | None = None
    #: A strong hash of the request's body, where it has an id; kept only keyed.
    request_digest: bytes | None = None
    idempotency_key: str | None = None
    #: `{"url", "events"?, "extra_params", "timeout_s", "base_url", "origin", "sealed"?}` or None; never a secret.
    #: `origin` says whose it is: `core.webhooks.keys.REQUEST` or `ENVIRONMENT`; `sealed` names the secrets it came
    #: with, where that is not `webhook_secret` alone.
    webhook: dict[str, Any] | None = None
    #: What ComfyUI gives to nodes that ask for it, and writes into files, as JSON text; kept like the graph.
    extra_pnginfo: str | None = None
    #: Seconds from its end for which it is kept with its files; None means the fleet's rule.
    retention_s: float | None = None
    #: Secrets, JSON-able, by their names in `core.ledger.secrets.PURPOSES`; sealed before they reach the database.
    secrets: dict[str, Any] | None = field(default=None, repr=False)
    timeout_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of the ledger, without its graph."""

    id: str
    contract: str
    status: str
    #: Counts tries; the fencing token of every write a worker makes.
    attempt: int
    #: Number of the newest event in the job's log.
    last_seq: int
    priority: int
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
    metadata: Any = None
    # These five as in `NewJob`.
    workflow: str | None = None
    parameters: dict[str, Any] | None = None
    shape: str | None = None
    inputs: list[dict[str, str]] | None = None
    delivery: dict[str, Any] | None = None
    request_id: str | None = None
    expected_time_s: float | None = None
    webhook: dict[str, Any] | None = None
    timeout_s: float | None = None
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
    def is_terminal(self) -> bool:
        """Whether nothing can change any more."""
        return self.status in TERMINAL
