"""The entries of `node_errors` in ComfyUI's own words and shape, without anything of the host in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Error = dict[str, Any]
"""`{"type", "message", "details", "extra_info"}`."""

#: A client's value is repeated in the answer; past this many characters it is cut.
_MAX_SHOWN_CHARS = 200
#: ComfyUI leaves the configuration out above this many options: they are somebody's file list.
MAX_SHOWN_OPTIONS = 20
#: Errors that one text names, and its length beyond the first of them.
_MAX_NAMED, _MAX_TEXT_CHARS = 10, 700
#: Nodes of a cycle that an error names.
_MAX_CYCLE_NODES = 20


def entry(class_type: str | None, found: list[Error], dependent_outputs: list[str] | None = None) -> dict[str, Any]:
    """One node's value in `node_errors`."""
    return {"errors": found, "dependent_outputs": dependent_outputs or [], "class_type": class_type}


def error(kind: str, message: str, details: str, extra_info: dict[str, Any]) -> Error:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def summary(node_errors: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with the first nodes, in one text; how much more there is, if there is."""
    every = [
        f"Node {shown(node_id)} ({shown(one['class_type'] or 'no class')}): {said(each)}"
        for node_id, one in node_errors.items()
        for each in one["errors"]
    ]
    named = every[:1]
    while len(named) < min(len(every), _MAX_NAMED) and len("; ".join(named)) + len(every[len(named)]) < _MAX_TEXT_CHARS:
        named.append(every[len(named)])
    more = len(every) - len(named)
    return "; ".join(named) + (f" (and {more} more)" if more else "")


def said(found: Mapping[str, Any]) -> str:
    """One error in words: its message with its details, one stop at most."""
    return f"{str(found['message']).rstrip('.')}: {found['details']}" if found["details"] else str(found["message"])


def shown(value: Any) -> str:
    """A value as text for a message: cut, since one body must not come back many times its size."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def received(value: Any) -> Any:
    """A value for `received_value`: itself if it is small, otherwise its beginning as text."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = shown(value)
    return value if not text.endswith("...") else text


def missing_class_type(node_id: str) -> Error:
    return error(
        "missing_node_type",
        "Cannot execute because a node is missing the class_type property.",
        f"Node ID '#{shown(node_id)}'",
        {"node_id": node_id, "class_type": None, "node_title": None},
    )


def unknown_class(node_id: str, node: dict[str, Any]) -> Error:
    return error(
        "missing_node_type",
        f"Cannot execute because node {shown(node['class_type'])} does not exist.",
        f"Node ID '#{shown(node_id)}'",
        {"node_id": node_id, "class_type": received(node["class_type"]), "node_title": _title(node)},
    )


def refused_class(node_id: str, node: dict[str, Any], reason: str) -> Error:
    return error(
        "node_type_refused",
        f"This server does not run {node['class_type']} nodes: {reason}.",
        f"Node ID '#{shown(node_id)}'",
        {"node_id": node_id, "class_type": node["class_type"], "node_title": _title(node)},
    )


def _title(node: dict[str, Any]) -> Any:
    meta = node.get("_meta")
    return received(meta.get("title")) if isinstance(meta, dict) else None


def required_input_missing(name: str) -> Error:
    return error("required_input_missing", "Required input is missing", name, {"input_name": name})


def bad_link(name: str, config: Any, value: Any, problem: str = "") -> Error:
    """`problem` says what is wrong with a link that does have two elements."""
    return error(
        "bad_linked_input",
        "Bad linked input, must be a length-2 list of [node_id, slot_index]",
        f"{shown(name)}: {problem}" if problem else shown(name),
        {"input_name": shown(name), "input_config": config, "received_value": received(value)},
    )


def type_mismatch(name: str, config: Any, received_type: Any, input_type: Any, link: list[Any]) -> Error:
    return error(
        "return_type_mismatch",
        "Return type mismatch between linked nodes",
        f"{name}, received_type({shown(received_type)}) mismatch input_type({shown(input_type)})",
        {"input_name": name, "input_config": config, "received_type": received(received_type), "linked_node": link},
    )


def not_convertible(name: str, config: Any, input_type: str, value: Any, reason: str) -> Error:
    return error(
        "invalid_input_type",
        f"Failed to convert an input value to a {input_type} value",
        f"{name}, {shown(value)}, {shown(reason)}",
        {
            "input_name": name,
            "input_config": config,
            "received_value": received(value),
            "exception_message": shown(reason),
        },
    )


def out_of_bounds(name: str, config: Any, value: Any, limit: Any, *, too_small: bool) -> Error:
    kind, words = (
        ("value_smaller_than_min", "smaller than min") if too_small else ("value_bigger_than_max", "bigger than max")
    )
    return error(
        kind,
        f"Value {shown(value)} {words} of {limit}",
        name,
        {"input_name": name, "input_config": config, "received_value": received(value)},
    )


def not_in_list(name: str, config: Any, value: Any, wrong: list[Any], options: list[Any]) -> Error:
    known = str(options) if len(options) <= MAX_SHOWN_OPTIONS else f"(list of length {len(options)})"
    return error(
        "value_not_in_list",
        "Value not in list",
        f"{name}: {shown(', '.join(map(repr, wrong)))} not in {known}",
        {"input_name": name, "input_config": config, "received_value": received(value)},
    )


def bad_file(name: str, kind: str, value: Any) -> Error:
    """`kind` is image, video, audio or empty. The same words whether the name is unsafe or unknown: no oracle."""
    label = f"{kind} file" if kind else "file"
    return error(
        "custom_validation_failed",
        "Custom validation failed for node",
        f"{name} - Invalid {label}: {shown(value)}",
        {"input_name": name},
    )


def cycle(node_id: str, cycle_nodes: list[str], graph: dict[str, dict[str, Any]]) -> Error:
    named = cycle_nodes[:_MAX_CYCLE_NODES]
    steps = [f"{shown(each)} ({shown(graph[each]['class_type'])})" for each in named]
    if len(named) < len(cycle_nodes):
        steps.append(f"{len(cycle_nodes) - len(named)} more")
    return error(
        "dependency_cycle",
        "Dependency cycle detected",
        " -> ".join([*steps, steps[0]]),
        {"node_id": node_id, "cycle_nodes": named},
    )


def chain_too_long(node_id: str, length: int, limit: int) -> Error:
    return error(
        "dependency_chain_too_long",
        "Too many nodes depend on each other in a row",
        f"{length} nodes lead to this one, at most {limit} are accepted",
        {"node_id": node_id},
    )
