"""Inputs of a graph by their places, `node.input`: found, named where there is no such place, and given values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeAlias

from core.errors import InvalidRequest
from workflows.graphs.graph import Graph

#: A node's id, and the name of an input.
Place: TypeAlias = tuple[str, str]
#: Names most like an unknown one that an error tells; from 0 to 1 how much they have to be.
NEAREST, LIKENESS = 3, 0.3
#: Of a place, in a message.
MAX_SHOWN_CHARS = 60


def place_of(graph: Graph, path: str) -> Place | None:
    """Return the place of a path; None if no node has it. Both ids and names may hold dots."""
    at = path.find(".")
    while at != -1:
        node = graph.get(path[:at])
        if node is not None and path[at + 1 :] in node["inputs"]:
            return path[:at], path[at + 1 :]
        at = path.find(".", at + 1)
    return None


def find_place(graph: Graph, path: str, *, field: str, parameters: Iterable[str] = ()) -> Place:
    """Return the place of a path.

    Parameters:
      field: what of the request names it, for the error.
      parameters: names that would do as well, for the error.
    Raises: InvalidRequest - no node has it; names what is most like it.
    """
    found = place_of(graph, path)
    if found is not None:
        return found
    known = [*parameters, *(f"{node_id}.{name}" for node_id, node in graph.items() for name in node["inputs"])]
    near = difflib.get_close_matches(path, known, n=NEAREST, cutoff=LIKENESS)
    # An id alone is no near text to its own inputs.
    near += [name for name in known if name.startswith(f"{path.partition('.')[0]}.") and name not in near]
    hint = f" Most like it are: {', '.join(near[:NEAREST])}." if near else ""
    raise InvalidRequest(f"{field}.{path[:MAX_SHOWN_CHARS]}: no node of the workflow has this input.{hint}")


def with_values(graph: Graph, values: Iterable[tuple[Place, object]]) -> Graph:
    """Return a graph with values in these places; nodes without any are the same objects in both."""
    changed = dict(graph)
    for (node_id, name), value in values:
        node = changed[node_id]
        changed[node_id] = {**node, "inputs": {**node["inputs"], name: value}}
    return changed
