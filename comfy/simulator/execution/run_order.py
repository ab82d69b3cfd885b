"""Says which node of the running prompt runs next."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from comfy.simulator.machine.node import NodeClass, NodeClasses
from comfy.simulator.machine.running_graph import Graph, as_link


class RunOrder:
    """Which nodes wait for which, and which goes next.

    Only what the outputs need is in it, and nothing behind a cached value: as in ComfyUI, an ancestor whose
    result is cached is never visited.
    """

    def __init__(
        self, graph: Graph, classes: NodeClasses, is_cached: Callable[[str], bool], *, hides_unasked: bool
    ) -> None:
        self._graph = graph
        self._classes = classes
        self._is_cached = is_cached
        self._hides_unasked = hides_unasked
        #: Unfinished nodes -> the nodes they still wait for.
        self._waiting: dict[str, set[str]] = {}
        self._blocked_by: dict[str, list[str]] = {}
        #: Nodes -> the nodes whose values they are given: all they are linked to, except by lazy inputs not asked for.
        self._sources: dict[str, set[str]] = {}
        self._paused: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, node_id: str) -> None:
        """Take in a node with everything it needs for sure; what its lazy inputs are linked to stays out."""
        todo = [node_id]
        while todo:
            current = todo.pop()
            if current in self._waiting:
                continue
            self._waiting[current] = set()
            sources = [source for source, _ in self._graph.links(current, without=self._class(current).lazy_inputs)]
            self._sources[current] = set(sources)
            needed = [source for source in sources if not self._is_cached(source)]
            todo += needed
            self.wait_for(current, needed)

    def ask_for(self, node_id: str, source: str) -> None:
        """Give a node a lazy input's value too: hold it back until that is there."""
        self._sources[node_id].add(source)
        if not self._is_cached(source):
            self.add(source)
            self.wait_for(node_id, [source])

    def missing(self, node_id: str) -> dict[str, str]:
        """A node's lazy inputs that have no value yet -> the nodes they are linked to."""
        inputs = self._graph.inputs(node_id)
        lazy = {name: link[0] for name in self._class(node_id).lazy_inputs if (link := as_link(inputs.get(name)))}
        unasked = set(lazy.values()) - self._sources[node_id] if self._hides_unasked else set()
        return {name: source for name, source in lazy.items() if source in unasked or not self._is_cached(source)}

    def wait_for(self, node_id: str, needed: Iterable[str]) -> None:
        """Hold a node back until others are done."""
        for source in needed:
            if source not in self._waiting[node_id]:
                self._waiting[node_id].add(source)
                self._blocked_by.setdefault(source, []).append(node_id)

    def pause(self, node_id: str) -> None:
        """Leave a node out until it is resumed: it runs in the background."""
        self._paused.add(node_id)

    def resume(self, node_id: str) -> None:
        self._paused.discard(node_id)

    def done(self, node_id: str) -> None:
        """A node is finished; those that waited for it may be ready."""
        del self._waiting[node_id]
        for blocked in self._blocked_by.pop(node_id, ()):
            self._waiting[blocked].discard(node_id)

    def next(self) -> str | None:
        """The node to run now, or None when all the ready ones are in the background (or none can ever be ready).

        Among ready nodes an output or background node goes first, then one that feeds an output, then one
        that feeds a feeder: results appear early.
        """
        ready = [node_id for node_id, needed in self._waiting.items() if not needed and node_id not in self._paused]
        if not ready:
            return None
        return ready[0] if len(ready) == 1 else min(ready, key=self._distance_from_output)

    def _distance_from_output(self, node_id: str) -> int:
        if self._is_output(node_id) or self._class(node_id).background:
            return 0
        followers = self._blocked_by.get(node_id, ())
        if any(self._is_output(follower) for follower in followers):
            return 1
        second = (far for follower in followers for far in self._blocked_by.get(follower, ()))
        return 2 if any(self._is_output(far) for far in second) else 3

    def _is_output(self, node_id: str) -> bool:
        return self._class(node_id).output_node

    def _class(self, node_id: str) -> NodeClass:
        return self._classes[self._graph.class_type(node_id)]
