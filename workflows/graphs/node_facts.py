"""What nodes say by themselves, whatever graph they stand in. Kept: most of the nodes that come have come before."""

from __future__ import annotations

import marshal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from workflows.graphs.boundaries import Paths, paths_in
from workflows.graphs.graph import Graph, is_link
from workflows.graphs.model_files import models_in
from workflows.graphs.references import may_refer
from workflows.graphs.shape import digest_of, shape_in

#: Nodes that one process remembers; with what is kept of each, some 10 MB.
KEPT_NODES = 8192
#: A longer node is looked at each time it comes: one of a few long texts would push out many.
MAX_KEPT_BYTES = 4096


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeFacts:
    """One node. Compared by identity."""

    #: Whether the same node will have the same facts when it comes again, for a while.
    is_kept: bool
    #: The nodes it takes inputs from, whether they exist or not.
    sources: tuple[str, ...]
    #: Its part of the shape of its graph.
    shape: str
    #: The model files it names.
    models: tuple[str, ...]
    #: Input names and texts that may be paths.
    paths: tuple[tuple[str, str], ...]
    #: Whether it may refer to an asset, a URL or data; tagged objects in lists are left aside.
    may_refer: bool


class GraphFacts:
    """What the nodes of one graph say by themselves. The graph must not be changed afterwards."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: Mapping[str, NodeFacts] = {node_id: facts_of(node) for node_id, node in graph.items()}

    def with_nodes(self, graph: Graph, node_ids: Iterable[str]) -> GraphFacts:
        """Return the facts of a graph that has other nodes than this one in these places alone."""
        changed = GraphFacts({node_id: graph[node_id] for node_id in node_ids})
        changed.nodes = {**self.nodes, **changed.nodes}
        return changed

    @property
    def paths(self) -> Paths:
        """The texts that any rule about paths has to look at, see `paths_in`."""
        return {node_id: facts.paths for node_id, facts in self.nodes.items() if facts.paths}

    @cached_property
    def sources(self) -> Mapping[str, list[str]]:
        """For each node those it takes inputs from, as far as they exist."""
        nodes = self.nodes
        return {node_id: [each for each in facts.sources if each in nodes] for node_id, facts in nodes.items()}

    @property
    def shape(self) -> str:
        """As `shape_of` finds it."""
        return digest_of([facts.shape for facts in self.nodes.values()])

    @property
    def models(self) -> tuple[str, ...]:
        """As `models_of` finds them."""
        return tuple(sorted({name for facts in self.nodes.values() for name in facts.models}))


def facts_of(node: dict[str, Any]) -> NodeFacts:
    """Return what a node says by itself.

    Parameters:
      node: as `parse_graph` lets it through.
    """
    try:
        # Of version 2, which writes equal values as equal bytes, and tells 1 from 1.0 and true.
        key = marshal.dumps(node, 2)
    except ValueError:
        # No plain JSON, or nested too deeply.
        return _facts(node)
    return _kept(key) if len(key) <= MAX_KEPT_BYTES else _facts(node)


@lru_cache(maxsize=KEPT_NODES)
def _kept(key: bytes) -> NodeFacts:
    return _facts(marshal.loads(key), is_kept=True)  # noqa: S302 - bytes that this process has made


def _facts(node: Mapping[str, Any], *, is_kept: bool = False) -> NodeFacts:
    inputs = node["inputs"]
    return NodeFacts(
        is_kept=is_kept,
        sources=tuple(value[0] for value in inputs.values() if is_link(value)),
        shape=shape_in(node),
        models=tuple(models_in(inputs)),
        paths=tuple(paths_in(inputs)),
        may_refer=any(may_refer(value) for value in inputs.values()),
    )
