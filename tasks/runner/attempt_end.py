"""How one attempt at a job ended on its GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from core.errors import ComfylineError
from core.records.job import CANCELED, DELIVERING, FAILED, QUEUED, SUCCEEDED


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    """Base: which attempt it was."""

    #: The status in which it leaves its job.
    status: ClassVar[str]

    job_id: str
    attempt: int
    has_webhook: bool
    #: Whose job it is, and the trace it belongs to.
    tenant: str | None = field(default=None, compare=False)
    trace_id: str | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True)
class Finished(AttemptEnd):
    """The prompt ran whole; its files wait to be stored."""

    status = DELIVERING


@dataclass(frozen=True, kw_only=True)
class Stored(Finished):
    """The prompt ran whole, and the job has ended as succeeded: its files are in storage."""

    status = SUCCEEDED


@dataclass(frozen=True, kw_only=True)
class Failed(AttemptEnd):
    """The job has ended as failed."""

    status = FAILED
    error: ComfylineError


@dataclass(frozen=True, kw_only=True)
class Requeued(AttemptEnd):
    """The job came back without a result; it waits for another turn."""

    status = QUEUED


@dataclass(frozen=True, kw_only=True)
class Dropped(AttemptEnd):
    """The job was cancelled, or belongs to another attempt."""

    status = CANCELED
