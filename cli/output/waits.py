"""Where a waiting job stands, when it begins and why it waits, in words for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_place(data: Mapping[str, Any]) -> str:
    """For people: `place 3 in the queue, begins in about 2 min`; empty where nothing is said about it."""
    position, wait_ms = data.get("queue_position"), data.get("estimated_wait_ms")
    if not position:
        return ""
    wait = f", begins in about {about(wait_ms / 1000)}" if isinstance(wait_ms, (int, float)) else ""
    # Null, and not merely left out as by other servers: none that could run it is healthy.
    is_stranded = "estimated_wait_ms" in data and wait_ms is None
    return f"place {position} in the queue{', no GPU is ready for it' if is_stranded else wait}"


def describe_wait(data: Mapping[str, Any]) -> str:
    """For people: the place, and why it waits: `place 3 in the queue, begins in about 2 min: 2 jobs go first.`"""
    return ": ".join(filter(None, (describe_place(data), why_it_waits(data))))


def why_it_waits(data: Mapping[str, Any]) -> str:
    """The reason in a sentence, also of a job that has a GPU and does not go on; empty where nothing is said of it."""
    progress = data.get("progress")
    return str(_queue(data).get("reason") or note_of(progress if isinstance(progress, dict) else {}))


def note_of(progress: Mapping[str, Any]) -> str:
    """Why nothing moves, in a sentence; empty where something does."""
    return str(progress.get("note") or "")


def reason_code(data: Mapping[str, Any]) -> str:
    """The reason as a word; empty where nothing is said about it."""
    return str(_queue(data).get("reason_code") or "")


def short_place(job: Mapping[str, Any]) -> str:
    """For a list: `3, in 2 min`."""
    position, wait_ms = job.get("queue_position"), job.get("estimated_wait_ms")
    if not position:
        return "-"
    return f"{position}, in {about(wait_ms / 1000)}" if isinstance(wait_ms, (int, float)) else str(position)


def about(seconds: float) -> str:
    """A time as people say it: `12 s`, `4 min`, `2.5 h`."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    if seconds < 99.5 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _queue(data: Mapping[str, Any]) -> Mapping[str, Any]:
    queue = data.get("queue")
    return queue if isinstance(queue, dict) else {}
