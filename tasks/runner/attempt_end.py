"""How one attempt at a job ended on its GPU."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import ComfylineError


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    """Base: which attempt it was."""

    job_id: str
    attempt: int
    has_webhook: bool


@dataclass(frozen=True, kw_only=True)
class Finished(AttemptEnd):
    """The prompt ran whole; its files wait to be stored."""


@dataclass(frozen=True, kw_only=True)
class Failed(AttemptEnd):
    """The job has ended as failed."""

    error: ComfylineError


@dataclass(frozen=True, kw_only=True)
class Requeued(AttemptEnd):
    """The job came back without a result; it waits for another turn."""


@dataclass(frozen=True, kw_only=True)
class Dropped(AttemptEnd):
    """The job was cancelled, or belongs to another attempt."""
