"""Server-sent events from an open HTTP answer, each as soon as it is there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from urllib3.exceptions import HTTPError

READ_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class SseEvent:
    """One event of a job: `status`, `progress`, `preview`, `output` or `log`."""

    name: str
    #: `status`: `{"status", "queue_position"?, "queue"?}`; `progress`: `{"value", "nodes_done", "nodes_total",
    #: "current_node"?, "current_node_class"?, "step"?, "steps"?}`, value from 0 to 1.
    data: dict[str, Any]


def read_events(raw: Any) -> Iterator[SseEvent]:
    """Yield events until the stream ends, breaks off or falls silent; the caller asks for the job's state then.

    Parameters:
      raw: urllib3's answer, not yet read.
    """
    name, data = "message", ""
    for line in _lines(raw):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data += ("\n" if data else "") + value
        elif not line:
            event = _event(name, data)
            name, data = "message", ""
            if event is not None:
                yield event


def _lines(raw: Any) -> Iterator[str]:
    rest = b""
    while True:
        try:
            # read1 hands out what has come so far, where read would wait for a whole buffer.
            chunk = raw.read1(READ_BYTES)
        except (HTTPError, OSError):
            return
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r").decode(errors="replace")


def _event(name: str, data: str) -> SseEvent | None:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return SseEvent(name=name, data=value) if isinstance(value, dict) else None
