"""Holds the graph of the running prompt, which nodes may extend while it runs."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

Link = tuple[str, int]


def as_link(value: Any) -> Link | None:
    """The node id and output slot an input value points to, or None for a literal."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], (int, float)):
        return value[0], int(value[1])
    return None


class Graph:
    """The submitted nodes, and those that came in by expansion."""

    def __init__(self, prompt: Mapping[str, Any]) -> None:
        self.original = prompt
        self._added: dict[str, Any] = {}
        self._parents: dict[str, str] = {}

    def node(self, node_id: str) -> Mapping[str, Any]:
        """`{"class_type", "inputs"}` of one node; raises KeyError."""
        found = self.original.get(node_id)
        found = found if found is not None else self._added[node_id]
        assert isinstance(found, Mapping)
        return found

    def has(self, node_id: str) -> bool:
        return node_id in self.original or node_id in self._added

    def class_type(self, node_id: str) -> str:
        return str(self.node(node_id)["class_type"])

    def inputs(self, node_id: str) -> Mapping[str, Any]:
        """A node's inputs; none where they are missing, which only nodes that no output needs can get away with."""
        inputs = self.node(node_id).get("inputs")
        return inputs if isinstance(inputs, Mapping) else {}

    def links(self, node_id: str, *, without: Container[str] = ()) -> list[Link]:
        """What a node's inputs are linked to, in their order; `without` names inputs to leave out."""
        inputs = self.inputs(node_id).items()
        return [link for name, value in inputs if name not in without and (link := as_link(value)) is not None]

    def add(self, node_id: str, node: Mapping[str, Any], parent_id: str) -> None:
        """Take in one node of an expansion."""
        self._added[node_id] = node
        self._parents[node_id] = parent_id

    def is_added(self, node_id: str) -> bool:
        return node_id in self._added

    def all_ids(self) -> list[str]:
        return [*self.original, *self._added]

    def parent_id(self, node_id: str) -> str | None:
        return self._parents.get(node_id)

    def real_id(self, node_id: str) -> str:
        """The submitted node that a node belongs to."""
        while node_id in self._parents:
            node_id = self._parents[node_id]
        return node_id

    def display_id(self, node_id: str) -> str:
        """The node an editor would light up."""
        return self.real_id(node_id)
