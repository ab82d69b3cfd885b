"""The shape of an API-format graph, its links, and which of its nodes will run; nothing here recurses."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from core.errors import EditorWorkflow, InvalidWorkflow
from workflows.graphs import node_errors as errors
from workflows.graphs.misplaced import is_document, wrapped_graph

#: `{node_id: {"class_type": str, "inputs": {name: literal or [node_id, output index]}, "_meta"?: ...}}`.
Graph = dict[str, dict[str, Any]]
#: One instance's `/object_info`: `{class_type: {"input", "output", "output_node", ...}}`.
Catalogue = Mapping[str, Mapping[str, Any]]

MAX_NODES = 2000
#: A node's id stands in errors, progress and outputs, and is paid for there each time.
MAX_ID_CHARS = 512
#: Nodes named in one answer.
_MAX_REPORTED_NODES = 100


def parse_graph(value: Any) -> Graph:
    """Check that a value has the shape of an API-format graph, and return it, unchanged.

    Raises:
      EditorWorkflow: the editor's save format.
      InvalidWorkflow: any other shape; `node_errors` names the node where there is one.
    """
    if not isinstance(value, dict):
        hint = wrapped_graph(value)
        but = f"; {hint}" if hint else ""
        raise InvalidWorkflow(f"The workflow must be an object: node id -> {{class_type, inputs}}{but}.")
    if is_document(value):
        raise EditorWorkflow(
            "This is the editor's save format. Convert it by comfyline workflows convert, or in ComfyUI choose "
            "Workflow menu -> Export (API)."
        )
    if not value:
        raise InvalidWorkflow("The workflow has no nodes.")
    if len(value) > MAX_NODES:
        raise InvalidWorkflow(f"The workflow has {len(value)} nodes; at most {MAX_NODES} are accepted.")
    found = {
        node_id: wrong
        for node_id, node in value.items()
        if not _has_shape(node_id, node) and (wrong := _shape_error(node_id, node)) is not None
    }
    if found:
        node_errors = {
            errors.shown(node_id): errors.entry(_class_of(value[node_id]), [wrong])
            for node_id, wrong in list(found.items())[:_MAX_REPORTED_NODES]
        }
        hint = wrapped_graph(value)
        but = f"; {hint}." if hint else ""
        raise InvalidWorkflow(f"{errors.summary(node_errors)}{but}", node_errors)
    return cast(Graph, value)


def _has_shape(node_id: Any, node: Any) -> bool:
    """Whether there is nothing to say against a node; most are so, and in each submission there are many."""
    if not (type(node_id) is str and 0 < len(node_id) <= MAX_ID_CHARS and type(node) is dict):
        return False
    class_type = node.get("class_type")
    return type(class_type) is str and class_type != "" and type(node.get("inputs")) is dict


def _shape_error(node_id: Any, node: Any) -> errors.Error | None:
    if not isinstance(node_id, str) or not node_id:
        return errors.error("invalid_node", "Every node id must be a non-empty string", repr(node_id), {})
    if len(node_id) > MAX_ID_CHARS:
        words = f"A node id must have at most {MAX_ID_CHARS} characters"
        return errors.error("invalid_node", words, errors.shown(node_id), {})
    if not isinstance(node, dict):
        return errors.error("invalid_node", "A node must be an object with class_type and inputs", "", {})
    class_type = node.get("class_type")
    if not isinstance(class_type, str) or not class_type:
        return errors.missing_class_type(node_id)
    if not isinstance(node.get("inputs"), dict):
        return errors.error("invalid_inputs", "The node needs an `inputs` object, even if empty", "'inputs'", {})
    return None


def _class_of(node: Any) -> str | None:
    class_type = node.get("class_type") if isinstance(node, dict) else None
    return errors.shown(class_type) if isinstance(class_type, str) and class_type else None


def is_link(value: Any) -> bool:
    """Whether ComfyUI would follow this input value to another node when it runs the graph."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], (int, float))
    )


def sources(graph: Graph, node_id: str) -> list[str]:
    """The nodes a node takes inputs from, as far as they exist; declared inputs or not, as ComfyUI's scheduler does."""
    found = []
    for value in graph[node_id]["inputs"].values():
        if type(value) is list and is_link(value) and value[0] in graph:
            found.append(value[0])  # noqa: PERF401 - faster: up to Python 3.11, a comprehension is one more call
    return found


def output_nodes(graph: Graph, catalogue: Catalogue) -> list[str]:
    """The ids of the nodes that make a graph worth running (`output_node` in the catalogue), in graph order."""
    return [node_id for node_id, node in graph.items() if is_output_class(catalogue, node["class_type"])]


def is_output_class(catalogue: Catalogue, class_type: str) -> bool:
    info = catalogue.get(class_type)
    return info is not None and info.get("output_node") is True


def ancestors(graph: Graph, roots: Iterable[str]) -> set[str]:
    """The given nodes and all nodes they depend on."""
    found = set(roots)
    pending = list(found)
    while pending:
        for source in sources(graph, pending.pop()):
            if source not in found:
                found.add(source)
                pending.append(source)
    return found


def all_sources(graph: Graph) -> dict[str, list[str]]:
    """For each node those it takes inputs from."""
    return {node_id: sources(graph, node_id) for node_id in graph}


def reached_in_order(sources_of: Mapping[str, Collection[str]], roots: Iterable[str]) -> set[str] | None:
    """The roots and all nodes they depend on, if each of these stands behind its sources, as the editor exports them.

    A fraction of the work of `measure_depths`, and in such an order there is no cycle.

    Parameters:
      sources_of: in the graph's order, for each node those it takes inputs from, whether they exist or not.
    Returns: None if a node stands before one of its sources; then nothing is known.
    """
    found = set(roots)
    passed: set[str] = set()
    for node_id in reversed(list(sources_of)):
        passed.add(node_id)
        if node_id in found:
            taken = sources_of[node_id]
            if not passed.isdisjoint(taken):
                return None
            found.update(taken)
    return found & passed


def measure_depths(sources_of: Mapping[str, Sequence[str]], roots: Iterable[str], depths: dict[str, int]) -> list[str]:
    """Add to `depths` how many nodes stand in the longest chain that ends in each node the roots depend on.

    Parameters:
      sources_of: for each node those it takes inputs from.
    Returns: the first cycle met, each node once, consumer before source; [] if there is none. The link that closes a
    cycle counts for no depth.
    """
    cycle: list[str] = []
    for root in roots:
        if root in depths:
            continue
        # The nodes under way, in order, each with the longest chain found so far among its sources.
        path = {root: 0}
        stack = [(root, iter(sources_of[root]))]
        while stack:
            node_id, rest = stack[-1]
            for source in rest:
                depth = depths.get(source)
                if depth is not None:
                    if depth > path[node_id]:
                        path[node_id] = depth
                elif source not in path:
                    path[source] = 0
                    stack.append((source, iter(sources_of[source])))
                    break
                elif not cycle:
                    on_path = list(path)
                    cycle = on_path[on_path.index(source) :]
            else:
                stack.pop()
                depth = depths[node_id] = path.pop(node_id) + 1
                if stack and depth > path[stack[-1][0]]:
                    path[stack[-1][0]] = depth
    return cycle
