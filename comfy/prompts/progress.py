"""How far a prompt is: one number that never falls, computed from the events of its run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from comfy.client.outputs import ReportedOutput
from comfy.prompts.frames import Event
from comfy.prompts.node_work import ExpectedWork, steps_of
from core.records.progress import Progress


class PromptListener(Protocol):
    """Hears about a running prompt. Its methods are called by the thread that waits for the prompt, in order.

    A listener slower than ComfyUI misses intermediate points, never the last one; what it raises is only logged.
    """

    def on_started(self) -> None:
        """ComfyUI took the prompt from its queue."""

    def on_progress(self, progress: Progress) -> None:
        """`progress` differs from the one before."""

    def on_cached(self, nodes: Sequence[str]) -> None:
        """ComfyUI has these nodes in its cache, and does not run them."""

    def on_executed(self, node_id: str, outputs: Sequence[ReportedOutput]) -> None:
        """A node of the graph has reported what it made."""

    def on_preview(self, node_id: str | None, content_type: str, data: bytes) -> None:
        """A picture in the making (JPEG), a picture sent instead of saved (PNG), or a node's text (`text/plain`)."""


class ProgressTracker:
    """Follows one prompt. Not thread-safe: only the thread that reads the socket applies events."""

    def __init__(
        self,
        graph: Mapping[str, Any],
        *,
        nodes_total: int | None = None,
        work: ExpectedWork | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._graph = graph
        self._total = max(1, nodes_total or len(graph))
        self._work = work or ExpectedWork(seconds=steps_of(graph))
        self._clock = clock
        self._done: set[str] = set()
        self._cached: set[str] = set()
        self._began_s: dict[str, float] = {}
        #: What each node took that has run to its end.
        self.seconds: dict[str, float] = {}
        #: `{node id of the graph: (value, max)}` of nodes that run now; several at once with async nodes.
        self._running: dict[str, tuple[float, float]] = {}
        self._current: str | None = None
        self._steps: tuple[float, float] | None = None
        self._exact = False
        self._latest = Progress(nodes_total=self._total)

    @property
    def latest(self) -> Progress:
        return self._latest

    def apply(self, event: Event) -> Progress | None:
        """Take one event of this prompt; the new point if it differs from the last one."""
        data = event.data
        if event.kind == "progress_state":
            self._apply_state(data.get("nodes"))
        elif event.kind == "progress":
            self._apply_step(str(data.get("node")), data.get("value"), data.get("max"))
        elif event.kind == "executing":
            self._apply_executing(data)
        elif event.kind == "execution_cached":
            nodes = data.get("nodes")
            self._take_cached([str(node) for node in nodes if node is not None] if isinstance(nodes, list) else [])
        elif event.kind == "executed":
            self._finish(str(data.get("node")))
        elif event.kind == "execution_success":
            # Nodes skipped by lazy inputs never run and are never reported: success means there is nothing left.
            return self._publish(value=1.0, done=self._total)
        else:
            return None
        return self._publish(value=self._value(), done=min(len(self._done), self._total))

    def _apply_executing(self, data: Mapping[str, Any]) -> None:
        node = data.get("display_node") or data.get("node")
        if node is None:
            return
        if not self._exact and self._current is not None and self._current != node:
            # Without `progress_state` the next node is the only sign that the one before has finished.
            self._finish(self._current)
        if self._current != node:
            self._steps = None
        self._current = str(node)
        if self._current in self._graph and self._current not in self._done:
            self._running.setdefault(self._current, (0.0, 1.0))
            self._began_s.setdefault(self._current, self._clock())

    def _apply_state(self, nodes: object) -> None:
        """`{id: {"value", "max", "state", "display_node_id", ...}}` of every node that has started so far."""
        if not isinstance(nodes, dict):
            return
        self._exact = True
        for node, state in nodes.items():
            if not isinstance(state, dict):
                continue
            if state.get("state") == "finished":
                self._finish(node)
            elif state.get("state") == "running":
                self._apply_step(node, state.get("value"), state.get("max"), str(state.get("display_node_id") or node))

    def _apply_step(self, node: str, value: object, maximum: object, display_node: str | None = None) -> None:
        if not isinstance(value, (int, float)) or not isinstance(maximum, (int, float)) or maximum <= 0:
            return
        if node in self._graph and node not in self._done:
            self._running[node] = (float(value), float(maximum))
            self._began_s.setdefault(node, self._clock())
        # Every node starts as 0 of 1, which says nothing: only a real count is worth showing.
        if maximum > 1 and (display_node or node) == self._current:
            self._steps = (float(value), float(maximum))

    def _take_cached(self, nodes: list[str]) -> None:
        self._finish(*nodes)
        self._cached.update(node for node in nodes if node in self._graph and node not in self.seconds)

    def _finish(self, *nodes: str) -> None:
        for node in nodes:
            self._running.pop(node, None)
            # Nodes made by expansion are not in the graph and would count a node more than once.
            if node not in self._graph or node in self._done:
                continue
            self._done.add(node)
            if node in self._began_s:
                self.seconds[node] = self._clock() - self._began_s[node]

    def _value(self) -> float:
        if len(self._done) >= self._total:
            return 1.0
        # Nodes that nothing asks for are in the graph, and do not run.
        needed = min(1.0, self._total / max(1, len(self._graph)))
        total = needed * sum(self._work.seconds.values()) - self._seconds_of(self._cached)
        done = self._seconds_of(self._done - self._cached) + self._running_seconds()
        return max(0.0, min(1.0, done / total)) if total > 0 else 0.0

    def _remaining_s(self) -> float | None:
        if not self._work.is_learned or self._total < len(self._graph):
            return None
        left = sum(self._work.seconds.values()) - self._seconds_of(self._done) - self._running_seconds()
        return round(max(0.0, left), 1)

    def _seconds_of(self, nodes: set[str]) -> float:
        return sum(self._work.seconds[node] for node in nodes)

    def _running_seconds(self) -> float:
        return sum(
            self._work.seconds[node] * min(value / maximum, 1.0) for node, (value, maximum) in self._running.items()
        )

    def _publish(self, *, value: float, done: int) -> Progress | None:
        node = self._graph.get(self._current) if self._current is not None else None
        point = Progress(
            # A lazy node runs twice, and a wrong total can put us past the end: what was reached once stays reached.
            value=max(value, self._latest.value),
            nodes_done=max(done, self._latest.nodes_done),
            nodes_total=self._total,
            current_node=self._current,
            current_node_class=node.get("class_type") if isinstance(node, Mapping) else None,
            step=int(self._steps[0]) if self._steps else None,
            steps=int(self._steps[1]) if self._steps else None,
            remaining_s=0.0 if value == 1.0 else self._remaining_s(),
        )
        if point == self._latest:
            return None
        self._latest = point
        return point
