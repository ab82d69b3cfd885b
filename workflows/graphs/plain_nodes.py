"""Nodes in which, by themselves, nothing is wrong; kept, so that a node that comes again costs its links only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from workflows.graphs.boundaries import OPENED, boundary_errors
from workflows.graphs.catalogue import ANY_TYPE, CompiledCatalogue, NodeSpec, PlainNode
from workflows.graphs.graph import is_link
from workflows.graphs.node_facts import KEPT_NODES, NodeFacts
from workflows.graphs.structured import missing_inputs
from workflows.graphs.values import accepts_type, literal_error

_NO_FILES: Collection[str] = ()


def plain_node(
    catalogue: CompiledCatalogue, spec: NodeSpec, node: Mapping[str, Any], facts: NodeFacts
) -> PlainNode | None:
    """Return what is left to check of a node that will run; None where all of it is.

    It has no input that its class does not declare by name, all that it needs, literals that are accepted whatever
    files are staged, no path that leads elsewhere, and links that look like links.

    Parameters:
      spec: what the catalogue says of the node's class.
    """
    known = catalogue.plain_nodes
    if facts in known:
        return known[facts]
    found = _found(spec, node, facts)
    if facts.is_kept:
        if len(known) >= KEPT_NODES:
            known.clear()
        known[facts] = found
    return found


def fits(plain: PlainNode, specs: Mapping[str, NodeSpec | None]) -> bool:
    """Whether all that a node links to is there, has such an output, and that of a type that is taken."""
    for source, index, wanted in plain.links:
        spec = specs.get(source)
        if spec is None:
            return False
        if spec.is_built_in:
            outputs = spec.outputs
            if not 0 <= index < len(outputs):
                return False
            received = outputs[index]
            if wanted is not ANY_TYPE and received != wanted and not accepts_type(received, wanted):
                return False
    return True


def _found(spec: NodeSpec, node: Mapping[str, Any], facts: NodeFacts) -> PlainNode | None:
    inputs = node["inputs"]
    if not inputs.keys() <= spec.by_name.keys() or missing_inputs(spec, inputs):
        return None
    links = []
    for name, value in inputs.items():
        declared = spec.by_name[name]
        if type(value) is not list:
            if literal_error(declared, value, _NO_FILES) is not None:
                return None
        elif declared.file_kind is not None or not is_link(value) or type(value[1]) is not int:
            return None
        else:
            links.append((value[0], value[1], declared.type if spec.is_built_in else ANY_TYPE))
    if (facts.paths or spec.class_type in OPENED) and boundary_errors(node, spec, _NO_FILES):
        return None
    return PlainNode(links=tuple(links))
