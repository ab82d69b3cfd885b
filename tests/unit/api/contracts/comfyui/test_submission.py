"""What of a prompt can run, where not all of it can."""

from __future__ import annotations

from typing import Any

import pytest

from api.contracts.comfyui.submission import only_for, what_can_run
from workflows.graphs import node_errors as errors
from workflows.graphs.graph import Graph


def graph(*links: tuple[str, str]) -> Graph:
    """A graph of nodes `a` to `e`, each with a link from the first of a pair to the second."""
    made: Graph = {node: {"class_type": "Save" if node in "de" else "Make", "inputs": {}} for node in "abcde"}
    for source, node in links:
        made[node]["inputs"][f"from_{source}"] = [source, 0]
    return made


WHOLE = graph(("a", "b"), ("b", "d"), ("c", "e"))


def outputs(of: Graph) -> list[str]:
    return [node for node, entry in of.items() if entry["class_type"] == "Save"]


def wrong(node: str, *dependent: str, kind: str = "value_not_in_list") -> dict[str, Any]:
    return {node: errors.entry("Make", [errors.error(kind, "m", "", {})], list(dependent))}


def test_what_depends_on_nothing_wrong_is_left() -> None:
    assert list(what_can_run(WHOLE, wrong("c", "e"), outputs) or {}) == ["a", "b", "d"]
    assert list(what_can_run(WHOLE, wrong("a"), outputs) or {}) == ["c", "e"]


@pytest.mark.parametrize(
    "node_errors",
    [
        {},
        wrong("a") | wrong("e", "e"),
        wrong("c", "e", kind="missing_node_type"),
        wrong("c", "e", kind="dependency_cycle"),
    ],
)
def test_nothing_is_left(node_errors: dict[str, Any]) -> None:
    assert what_can_run(WHOLE, node_errors, outputs) is None


def test_targets_take_what_they_need() -> None:
    assert list(only_for(WHOLE, ["d", "nope"])) == ["a", "b", "d"]
    assert only_for(WHOLE, ["nope"]) == {}
