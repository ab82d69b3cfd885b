"""One entry of ComfyUI's history: what became of a prompt, and the error it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from core.errors import ComfylineError, ComfyOutOfMemory, PromptFailed, PromptInterrupted

#: `execution_error` of this type marks one branch that a node blocked on purpose; the prompt goes on without it.
BLOCKED = "ExecutionBlocked"


@dataclass(frozen=True, kw_only=True)
class History:
    """A finished prompt. ComfyUI writes it once, after the last node, and keeps it in the process's memory only."""

    prompt_id: str
    #: "success" or "error"; an interrupted prompt is an "error" too.
    status: str
    #: `(event, data)` of execution_start, execution_cached and the final event, each with a `timestamp` in ms.
    messages: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    #: `{node_id: {key: value}}` exactly as the nodes returned it; of failed prompts, what finished before.
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: `{node_id: {"node_id", "display_node", "parent_node", "real_node_id"}}`
    meta: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: The graph as it ran.
    graph: Mapping[str, Any] = field(default_factory=dict)

    def message(self, event: str) -> Mapping[str, Any] | None:
        """Return the data of the last message of that name, or None."""
        return next((data for name, data in reversed(self.messages) if name == event), None)

    def timestamp_ms(self, *events: str) -> int | None:
        """Milliseconds since the epoch, ComfyUI's clock, of the first of these events that is present."""
        for event in events:
            value = (self.message(event) or {}).get("timestamp")
            if isinstance(value, int):
                return value
        return None

    def failure(self) -> ComfylineError | None:
        """Return the error this entry stands for, or None if the prompt ran whole.

        The messages are asked before the status: after a dependency cycle that shows only while running, ComfyUI up
        to 0.10.0 reports the error but leaves the status at "success".
        """
        for event, data in reversed(self.messages):
            if event == "execution_error" and data.get("exception_type") != BLOCKED:
                return node_failure(data)
            if event == "execution_interrupted":
                return _interruption(data)
        if self.status == "error":
            return PromptFailed("ComfyUI reports an error but not which one")
        return None


def is_verdict(event: str, data: Mapping[str, Any]) -> bool:
    """Return whether a message tells how its prompt ended; on the websocket, the end marker follows at once."""
    if event == "execution_error":
        return data.get("exception_type") != BLOCKED
    return event in ("execution_success", "execution_interrupted")


def parse_entry(prompt_id: str, entry: Mapping[str, Any]) -> History:
    """Read one value of `/history/{prompt_id}`; missing parts become empty, since forks and versions differ."""
    status = _mapping(entry.get("status"))
    prompt = entry.get("prompt")
    prompt = prompt if isinstance(prompt, list) else []
    return History(
        prompt_id=prompt_id,
        status=str(status.get("status_str") or "success"),
        messages=tuple(_messages(status.get("messages"))),
        outputs={str(node): ui for node, ui in _mapping(entry.get("outputs")).items() if isinstance(ui, Mapping)},
        meta={str(node): value for node, value in _mapping(entry.get("meta")).items() if isinstance(value, Mapping)},
        graph=_mapping(prompt[2]) if len(prompt) > 2 else {},
    )


def node_failure(data: Mapping[str, Any]) -> ComfylineError:
    """Return the error for the data of an `execution_error` message."""
    kind = _text(data.get("exception_type"))
    message = (_text(data.get("exception_message")) or kind or "a node failed").strip()
    node_id, node_class = _text(data.get("node_id")), _text(data.get("node_type"))
    lines = data.get("traceback")
    traceback = "".join(str(line) for line in lines) if isinstance(lines, list) else _text(lines)
    if _out_of_memory(kind, message):
        return ComfyOutOfMemory(message, node_id, node_class, traceback)
    return PromptFailed(message, node_id, node_class, kind, traceback)


def _interruption(data: Mapping[str, Any]) -> PromptInterrupted:
    """Return the error of an interrupted prompt; the waiting side knows whether we interrupted it, or a node did."""
    node_id, node_class = _text(data.get("node_id")), _text(data.get("node_type"))
    return PromptInterrupted(f"somebody interrupted the prompt in ComfyUI, at node {node_id}", node_id, node_class)


def _out_of_memory(kind: str | None, message: str) -> bool:
    """Torch moved the class (`torch.cuda.OutOfMemoryError`, then `torch.OutOfMemoryError`), so its last name counts.

    The two texts are ComfyUI's own mark: newer builds put it on driver errors of other types that mean the same.
    """
    if kind is not None and kind.rpartition(".")[2] == "OutOfMemoryError":
        return True
    return message.startswith("Allocation on device") or "This error means you ran out of memory on your GPU" in message


def _messages(value: object) -> list[tuple[str, Mapping[str, Any]]]:
    pairs = value if isinstance(value, list) else []
    return [(str(p[0]), p[1]) for p in pairs if isinstance(p, list) and len(p) == 2 and isinstance(p[1], Mapping)]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)
