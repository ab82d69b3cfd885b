"""What ComfyUI printed while a job ran: the pieces in which it is written down, and the whole as it is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PrintedPiece:
    """Lines of one attempt, ready to be kept: without secrets and control characters."""

    job_id: str
    attempt: int
    #: Counts the pieces of the attempt, from 1.
    place: int
    lines: tuple[str, ...]
    #: Pieces of the attempt up to this place are kept no longer.
    drop_until: int = 0
    #: Lines before these are missing.
    is_cut: bool = False
    #: Nothing of the attempt follows.
    is_last: bool = False


@dataclass(frozen=True, kw_only=True)
class PrintedLines:
    """What is kept of a job's, or the newer part of it."""

    #: Level and text are told apart by nobody: ComfyUI prints what nodes print.
    lines: tuple[str, ...]
    #: Of the newest piece; rises with each.
    number: int
    #: The beginning is missing.
    is_cut: bool
    #: Nothing follows, unless the job runs once more.
    is_whole: bool
    #: When the newest piece was written.
    at_ms: int
