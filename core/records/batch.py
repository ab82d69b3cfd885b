"""The record of a batch: many jobs from one request, counted, paused and ended together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

from core.records.access import DEFAULT_TENANT
from core.records.job import EXPIRED, FAILED, TERMINAL, Status
from core.records.job_request import AcceptedJob
from core.records.output_options import AS_THEY_ARE, OutputOptions
from core.records.requirements import Requirements
from core.records.webhook_target import WebhookTarget
from core.texts.stored_json import known_fields

#: Jobs of one batch, however many requests brought them.
MAX_JOBS = 10_000
#: Events of a batch that its webhook can be told of.
BATCH_COMPLETED, BATCH_PROGRESS = "batch.completed", "batch.progress"
BATCH_EVENTS = (BATCH_COMPLETED, BATCH_PROGRESS)
#: How often progress is told at most where the webhook does not say: seconds, and a part of the whole.
PROGRESS_EVERY_S, PROGRESS_STEP = 30.0, 0.05

BatchState: TypeAlias = Literal["running", "paused", "completed"]
STATES: tuple[BatchState, ...] = ("running", "paused", "completed")
#: What a retry replaces where it does not say.
RETRIED: Final[tuple[Status, ...]] = (FAILED, EXPIRED)


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """What a client asked for: each field has its column in the ledger."""

    #: Who owns it, with its jobs.
    tenant: str = DEFAULT_TENANT
    #: The key that submitted it.
    key_id: str | None = None
    #: A client's word to find it by; its jobs have it, too.
    label: str | None = None
    #: How many of its jobs may run at once; None: as many as there are GPUs for.
    max_running: int | None = None
    #: Of its jobs.
    priority: int = 0
    #: Labels of the client, a map or one string; its jobs have them, too.
    metadata: Any = None
    #: What was varied: `[{"name", "count", "values"}]`, of long lists the first values only.
    over: list[dict[str, Any]] | None = None
    #: Where its events are to be told, if anywhere.
    webhook: WebhookTarget | None = None
    #: `batch.progress` is told no more often than this, and when it is so much further; None where nobody asked.
    progress_every_s: float | None = None
    progress_step: float | None = None


@dataclass(frozen=True, kw_only=True)
class Batch(BatchSpec):
    """One row of the ledger, with the counts of its jobs."""

    id: str
    #: None of its jobs begins until it is resumed.
    is_paused: bool = False
    #: The place of the next job that is added.
    next_index: int = 0
    created_at_ms: int
    #: When its last job had ended; None while one has not.
    completed_at_ms: int | None = None
    #: How often that came about: jobs may be added, or made again.
    completions: int = 0
    #: While the jobs that were made before are being cancelled, or replaced.
    cancel_before_ms: int | None = None
    retry_before_ms: int | None = None
    #: Jobs by status; of a batch that is completed, as they were then.
    counts: Mapping[Status, int] = field(default_factory=dict)

    @property
    def state(self) -> BatchState:
        """In one word."""
        if self.completed_at_ms is not None:
            return "completed"
        return "paused" if self.is_paused else "running"

    @property
    def total(self) -> int:
        """How many jobs it has."""
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        """How many of them have ended, one way or the other."""
        return sum(count for status, count in self.counts.items() if status in TERMINAL)

    @property
    def progress(self) -> float:
        """From 0 to 1: the part of its jobs that has ended."""
        return self.ended / self.total if self.total else 1.0


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all jobs of a batch have in common, kept for those that are added."""

    requires: Requirements | None = None
    timeout_s: float | None = None
    start_within_s: float | None = None
    retention_s: float | None = None
    output_options: OutputOptions = AS_THEY_ARE
    extra_pnginfo: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as a batch's row keeps it."""
        records = {"requires": self.requires, "output_options": self.output_options}
        plain = ("timeout_s", "start_within_s", "retention_s", "extra_pnginfo")
        kept = {name: getattr(self, name) for name in plain}
        kept |= {name: record.to_json() for name, record in records.items() if record is not None}
        return {name: value for name, value in kept.items() if value is not None}

    @classmethod
    def from_json(cls, value: Any) -> Common:
        """Read what `to_json` wrote, in this version or another. Raises TypeError - it is no object."""
        given = known_fields(cls, value)
        if given.get("requires") is not None:
            given["requires"] = Requirements.from_json(given["requires"])
        if given.get("output_options") is not None:
            given["output_options"] = OutputOptions.from_json(given["output_options"])
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class NewBatch:
    """A batch whose jobs were checked. Ready to be recorded."""

    spec: BatchSpec
    #: In the order of their places.
    jobs: tuple[AcceptedJob, ...]
    #: By its id, JSON text: what the jobs are different from.
    graphs: Mapping[str, str]
    #: What its jobs are made of, for those that are added: JSON text.
    source: str | None = None
    common: Common = Common()
    idempotency_key: str | None = None
    #: A strong hash of the request's body; kept only keyed.
    request_digest: bytes | None = None
    #: As in `JobRequest`: of its jobs, and of its webhook.
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class ErrorGroup:
    """Jobs that failed for the same cause."""

    code: str
    message: str
    node_id: str | None
    class_type: str | None
    count: int
    #: Some of them, the first in the order of the batch.
    job_ids: tuple[str, ...]
