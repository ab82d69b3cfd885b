"""Find a graph that stands elsewhere than it should: in the field of another system, in a wrapper, as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from workflows.graphs.node_errors import shown

_DEPTH = 3
#: What may hold a graph for other reasons.
_OTHERWISE_USED = frozenset({"extra_data", "extra_pnginfo", "metadata"})
_AS_OBJECT = "send it as an object, not as text"


def is_document(value: Any) -> bool:
    """Whether a value is a document of the editor: what it saves, which is converted where a graph is wanted."""
    return isinstance(value, dict) and isinstance(value.get("nodes"), list) and "links" in value


def misplaced_graph(body: Any, wanted: str) -> str | None:
    """Say where in a body the graph stands, and where it belongs; None if there is none.

    Parameters:
      body: a request's body in which the graph is not where it should be.
      wanted: the path of its field, such as `input.workflow_json`.
    """
    if (advice := _advice(body)) is not None:
        return f"{wanted} is missing. The body is itself a graph: send {_sketch(wanted)}{advice}."
    for path, value in _parts(body, (), _DEPTH):
        if path != tuple(wanted.split(".")) and (advice := _advice(value)) is not None:
            place = shown(".".join(path))
            return f"{wanted} is missing. A graph stands in {place}: send {_sketch(wanted)}{advice}."
    return None


def wrapped_graph(value: Any) -> str | None:
    """Say what is around a graph, given something in its place; None if there is none in it."""
    if isinstance(value, str):
        return f"it is text: {_AS_OBJECT}" if _is_text(value) else None
    for path, part in _parts(value, (), _DEPTH):
        if (advice := _advice(part)) is not None:
            return f"a graph stands in its {shown('.'.join(path))}: send that alone{advice}"
    return None


def _advice(value: Any) -> str | None:
    """What else to do with what may be a graph; None if it is none."""
    if _is_graph(value):
        return ""
    return f"; {_AS_OBJECT}" if isinstance(value, str) and _is_text(value) else None


def _parts(value: Any, path: tuple[str, ...], depth: int) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What a body holds in fields, the outer ones first."""
    if not isinstance(value, dict) or not depth:
        return
    inner = [(key, part) for key, part in value.items() if key not in _OTHERWISE_USED]
    for key, part in inner:
        yield (*path, key), part
    for key, part in inner:
        if not _is_graph(part):
            yield from _parts(part, (*path, key), depth - 1)


def _is_graph(value: Any) -> bool:
    if is_document(value):
        return True
    # Also one with nodes that are broken: which they are is said when it stands where it belongs.
    return (
        isinstance(value, dict)
        and all(isinstance(node, dict) for node in value.values())
        and any(isinstance(node.get("class_type"), str) for node in value.values())
    )


def _is_text(value: str) -> bool:
    return value.lstrip().startswith("{") and ('"class_type"' in value or '"links"' in value)


def _sketch(path: str) -> str:
    text = "{...}"
    for name in reversed(path.split(".")):
        text = f'{{"{name}": {text}}}'
    return text
