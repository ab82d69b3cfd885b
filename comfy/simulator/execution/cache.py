"""Keeps what nodes returned, for later prompts with equal nodes, under ComfyUI's four rules."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from comfy.simulator.machine.node import NodeClasses
from comfy.simulator.machine.running_graph import Graph, as_link
from comfy.simulator.media.stand_ins import Model


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """What one node returned."""

    values: tuple[Any, ...]
    ui: Mapping[str, Any] | None = None


class NodeCache:
    """Results by signature.

    classic keeps only what the latest prompt has too; lru drops whole generations while there are too many
    entries; ram drops what the running prompt lacks while less RAM than its headroom is free; none keeps nothing.
    """

    def __init__(self, mode: str, max_entries: int, *, headroom_bytes: int = 0) -> None:
        self._mode = mode
        self._max_entries = max_entries
        self._headroom_bytes = headroom_bytes
        self._entries: dict[str, CacheEntry] = {}
        self._generation = 0
        self._last_used: dict[str, int] = {}

    def begin(self, signatures: set[str]) -> None:
        """A prompt with these nodes starts: drop what the rule no longer keeps."""
        self._generation += 1
        for key in signatures & self._entries.keys():
            self._last_used[key] = self._generation
        if self._mode == "none":
            self._entries.clear()
        elif self._mode == "classic":
            self._entries = {key: entry for key, entry in self._entries.items() if key in signatures}
        elif self._mode == "lru":
            self._drop_old_generations()

    def relieve(self, available_bytes: Callable[[], int]) -> None:
        """A node is through: make RAM free, if the rule says so. What the running prompt has is kept.

        `available_bytes` is asked again after each entry that goes. Models go first, then what is longest unused.
        """
        if self._mode != "ram" or available_bytes() >= self._headroom_bytes:
            return
        idle = [key for key in self._entries if self._last_used[key] < self._generation]
        for key in sorted(idle, key=lambda key: (not _holds_model(self._entries[key]), self._last_used[key])):
            del self._entries[key], self._last_used[key]
            if available_bytes() >= self._headroom_bytes:
                return

    def end(self) -> None:
        """The prompt is over."""
        if self._mode == "none":
            self.clear()

    def get(self, signature: str | None) -> CacheEntry | None:
        return None if signature is None else self._entries.get(signature)

    def put(self, signature: str, entry: CacheEntry) -> None:
        self._entries[signature] = entry
        self._last_used[signature] = self._generation

    def clear(self) -> None:
        """Forget everything, as `POST /free {"free_memory": true}` asks."""
        self._entries.clear()
        self._last_used.clear()

    def _drop_old_generations(self) -> None:
        while len(self._entries) > self._max_entries:
            oldest = min(self._last_used[key] for key in self._entries)
            if oldest >= self._generation:
                return
            kept = {key: entry for key, entry in self._entries.items() if self._last_used[key] > oldest}
            self._entries = kept
            self._last_used = {key: self._last_used[key] for key in kept}


def _holds_model(entry: CacheEntry) -> bool:
    return any(isinstance(value, Model) for value in entry.values)


class Signatures:
    """The cache keys of one prompt's nodes.

    A key covers the class, all literal inputs (those the class does not know too), the fingerprint (the bytes of
    an uploaded picture), and the same for everything before it. Node ids do not matter, unless the class says so.
    """

    def __init__(self, graph: Graph, classes: NodeClasses, fingerprint: Callable[[str], str | None]) -> None:
        self._graph = graph
        self._classes = classes
        self._fingerprint = fingerprint
        self._known: dict[str, str] = {}

    def of(self, node_id: str) -> str:
        """The key of one node."""
        # Parents first, without recursion: a chain may be longer than Python's stack. What is open and not yet known
        # lies on the way here, so meeting it again is a cycle; no output leads there, but the graph may hold one.
        todo, opened = [node_id], set[str]()
        while todo:
            current = todo[-1]
            if current in self._known:
                todo.pop()
            elif current in opened:
                self._known[current] = self._compute(current)
            else:
                opened.add(current)
                sources = (source for source, _ in self._graph.links(current))
                todo += [s for s in sources if s not in self._known and s not in opened and self._graph.has(s)]
        return self._known[node_id]

    def _compute(self, node_id: str) -> str:
        class_type = self._graph.class_type(node_id)
        parts: list[Any] = [class_type, self._fingerprint(node_id)]
        if not self._classes[class_type].idempotent:
            parts.append(node_id)
        for name, value in sorted(self._graph.inputs(node_id).items()):
            link = as_link(value)
            parts.append([name, value] if link is None else [name, self._known.get(link[0]), link[1]])
        text = json.dumps(parts, sort_keys=True, default=repr)
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
