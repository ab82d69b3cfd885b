"""Put values where the placeholders of a graph are: after parsing, never in JSON text."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import InvalidRequest
from core.records.requirements import Requirements
from workflows.graphs.graph import Graph
from workflows.templates.parameters import RANDOM_INT, Scalar, as_text

#: `(lowest, highest)` -> an integer between them, both included.
Draw = Callable[[int, int], int]

NAME = r"[A-Za-z][A-Za-z0-9_]{0,63}"
_PLACEHOLDER = re.compile(r"\{\{ *(" + NAME + r") *\}\}")
_OPEN = re.compile(_PLACEHOLDER.pattern + "|" + RANDOM_INT)
MAX_RANDOM = 2**32 - 1
_MAX_NAMED = 20
#: Where values may go. Ids, class names and all else belong to whoever wrote the template.
_OPEN_PARTS = ("inputs", "_meta")


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A graph ready to submit."""

    graph: Graph
    #: The final value of every parameter, those drawn included.
    values: dict[str, Scalar]
    #: The template's own files that the graph names, by those names.
    files: Mapping[str, Path] = field(default_factory=dict)
    #: What the template requires of a GPU.
    requires: Requirements | None = None
    #: What was drawn: names of parameters, and places as `node.input`.
    drawn: tuple[str, ...] = ()


def placeholders(value: Any) -> Iterator[str]:
    """The names of the placeholders anywhere in a JSON value, in small letters, as often as they occur."""
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, str):
            for found in _PLACEHOLDER.finditer(inner):
                yield found[1].lower()
        elif isinstance(inner, (dict, list)):
            pending += reversed(list(inner.values()) if isinstance(inner, dict) else inner)


def open_parts(node: Mapping[str, Any]) -> list[Any]:
    """The parts of a node in which placeholders stand for values."""
    return [node[part] for part in _OPEN_PARTS if part in node]


def has_placeholder(value: Any) -> bool:
    return next(placeholders(value), None) is not None


def has_random(node: Mapping[str, Any]) -> bool:
    """Return whether an integer is drawn in a node each time it is filled."""
    return any(_mentions(part, RANDOM_INT) for part in open_parts(node))


def substitute(graph: Graph, values: Mapping[str, Scalar], *, draw: Draw) -> Graph:
    """A copy of the graph with its placeholders replaced.

    A string that is one placeholder and nothing else becomes the value, with its type; inside longer text stands the
    value's text. Each `__RANDOM_INT__` becomes an integer of its own, 0 to 2^32 - 1. What comes in by a value is never
    looked at again.

    Parameters:
      values: by placeholder name in small letters.
    Raises:
      InvalidRequest: placeholders are left over; it names them.
    """
    filler = _Filler(values, draw)
    filled = {
        node_id: {part: filler.copy(value) if part in _OPEN_PARTS else value for part, value in node.items()}
        for node_id, node in graph.items()
    }
    if filler.left_over:
        names = ", ".join(f"{{{{{name.upper()}}}}}" for name in filler.left_over[:_MAX_NAMED])
        raise InvalidRequest(f"Nothing was given for {names} in the workflow.")
    return filled


def with_random_integers(graph: Any, *, draw: Draw) -> Any:
    """A graph with an integer of its own, 0 to 2^32 - 1, for each `__RANDOM_INT__`; inside longer text, its digits.

    Placeholders are texts like any other here. What is no graph comes back as it is, for its check to tell; so does a
    graph with nothing to draw, uncopied.
    """
    if not isinstance(graph, dict) or not any(_mentions(node, RANDOM_INT) for node in graph.values()):
        return graph
    filler = _Filler({}, draw)
    return {
        node_id: {part: filler.copy(value) if part in _OPEN_PARTS else value for part, value in node.items()}
        if isinstance(node, dict)
        else node
        for node_id, node in graph.items()
    }


def drawn_places(graph: Any) -> tuple[str, ...]:
    """The inputs of a graph that are an integer to be drawn and nothing else, as `node.input`; of no graph none."""
    nodes = graph.items() if isinstance(graph, dict) else ()
    return tuple(
        f"{node_id}.{name}"
        for node_id, node in nodes
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
        for name, value in node["inputs"].items()
        if isinstance(value, str) and value == RANDOM_INT
    )


def _mentions(value: Any, word: str) -> bool:
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, str):
            if word in inner:
                return True
        elif isinstance(inner, (dict, list)):
            pending += inner.values() if isinstance(inner, dict) else inner
    return False


class _Filler:
    """Copies values, and remembers the placeholders nobody fills."""

    def __init__(self, values: Mapping[str, Scalar], draw: Draw) -> None:
        self._values = values
        self._draw = draw
        self.left_over: list[str] = []

    def copy(self, value: Any) -> Any:
        # Without recursion: a body may be nested 500 levels deep.
        top = [value]
        pending: list[Any] = [top]
        while pending:
            container = pending.pop()
            for key, inner in list(container.items() if isinstance(container, dict) else enumerate(container)):
                if isinstance(inner, str):
                    container[key] = self._text(inner)
                elif isinstance(inner, (dict, list)):
                    container[key] = inner.copy()
                    pending.append(container[key])
        return top[0]

    def _text(self, text: str) -> Scalar:
        whole = _OPEN.fullmatch(text)
        if whole:
            return self._value(whole)
        return _OPEN.sub(lambda found: as_text(self._value(found)), text)

    def _value(self, found: re.Match[str]) -> Scalar:
        if found[1] is None:
            return self._draw(0, MAX_RANDOM)
        name = found[1].lower()
        if name not in self._values:
            if name not in self.left_over:
                self.left_over.append(name)
            return found[0]
        return self._values[name]
