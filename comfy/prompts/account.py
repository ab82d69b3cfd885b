"""What the websocket told of one prompt: enough to know how it ended when nobody keeps its history any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfy.client.history import BLOCKED, History, is_verdict
from comfy.client.outputs import ReportedOutput, outputs_of
from comfy.prompts.frames import Event

_KEPT = ("execution_start", "execution_cached")


@dataclass(frozen=True, kw_only=True)
class Blocked:
    """A branch that a node blocked on purpose, and why. ComfyUI says so on the websocket alone."""

    node_id: str | None
    node_class: str | None
    message: str


class Account:
    """Written by the thread that reads the socket; read by the one that waits when the verdict is there."""

    def __init__(self, prompt_id: str, graph: Mapping[str, Any]) -> None:
        self._prompt_id = prompt_id
        self._graph = graph
        self._messages: list[tuple[str, Mapping[str, Any]]] = []
        self._outputs: dict[str, Mapping[str, Any]] = {}
        self._meta: dict[str, Mapping[str, Any]] = {}
        self._has_verdict = False
        #: Whether every event up to now has come: they are told once, and to one connection.
        self._is_whole = True
        self.blocked: list[Blocked] = []

    @property
    def is_whole(self) -> bool:
        """Whether nothing that was said of the prompt can have been lost."""
        return self._is_whole

    def apply(self, event: Event) -> None:
        """Take one event of this prompt."""
        data = event.data
        if event.kind == "executed":
            self._take_output(data)
        elif event.kind in _KEPT:
            self._messages.append((event.kind, data))
        elif is_verdict(event.kind, data):
            self._messages.append((event.kind, data))
            self._has_verdict = True
        elif event.kind == "execution_error" and data.get("exception_type") == BLOCKED:
            self._take_blocked(data)

    def executed(self, event: Event) -> tuple[str, list[ReportedOutput]] | None:
        """Return which node of the graph an `executed` event is of, and what it reports; None: nothing."""
        node_id = str(event.data.get("node"))
        if not isinstance(event.data.get("output"), Mapping):
            return None
        alone = History(
            prompt_id=self._prompt_id,
            status="",
            messages=(),
            outputs={node_id: event.data["output"]},
            meta={node_id: {"node_id": node_id, "display_node": event.data.get("display_node")}},
            graph=self._graph,
        )
        found = outputs_of(alone)
        return (found[0].node_id, found) if found else None

    def miss(self) -> None:
        """Events may have been lost."""
        self._is_whole = self._is_whole and self._has_verdict

    def history(self) -> History | None:
        """Return what the history would say; None if too little is known."""
        if not self._has_verdict:
            return None
        succeeded = self._messages[-1][0] == "execution_success"
        if succeeded and not self._is_whole:
            return None
        return History(
            prompt_id=self._prompt_id,
            status="success" if succeeded else "error",
            messages=tuple(self._messages),
            outputs=dict(self._outputs),
            meta=dict(self._meta),
            graph=self._graph,
        )

    def _take_output(self, data: Mapping[str, Any]) -> None:
        node_id, output = str(data.get("node")), data.get("output")
        if isinstance(output, Mapping):
            self._outputs[node_id] = output
            self._meta[node_id] = {"node_id": node_id, "display_node": data.get("display_node")}

    def _take_blocked(self, data: Mapping[str, Any]) -> None:
        node_id, node_class = data.get("node_id"), data.get("node_type")
        self.blocked.append(
            Blocked(
                node_id=None if node_id is None else str(node_id),
                node_class=None if node_class is None else str(node_class),
                message=str(data.get("exception_message") or BLOCKED),
            )
        )
