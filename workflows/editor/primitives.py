"""Primitive nodes: they give their value to the widgets that they are linked to, and are gone from the graph."""

from __future__ import annotations

from collections.abc import Iterable

from workflows.editor.nodes import PRIMITIVE, Canvas, Node
from workflows.editor.texts import Texts

_REPLACES = "Run widget replace on values"


def apply_primitives(canvases: Iterable[Canvas], texts: Texts) -> None:
    """Give the values of all primitive nodes to the widgets at the other ends of their links."""
    for canvas in canvases:
        for node in canvas.nodes.values():
            if node.type == PRIMITIVE and node.is_editors_own:
                _give(node, texts)


def _give(primitive: Node, texts: Texts) -> None:
    values = primitive.stored.values
    if not isinstance(values, list) or not values:
        return
    value = values[0]
    if isinstance(value, str) and value and primitive.stored.properties.get(_REPLACES):
        value = texts.replaced(value)
    for link in primitive.links_out:
        widget = link.target.slots[link.target_slot].widget if link.target is not None else None
        if widget is not None:
            widget.value = value
