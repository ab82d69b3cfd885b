"""The values of widgets as a document stores them: by position, or (some packs) by name."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from workflows.editor.declared import Declared, class_inputs
from workflows.editor.document import StoredNode
from workflows.editor.layout import AUTOGROW, MATCH_TYPE, Layout
from workflows.editor.widgets import DYNAMIC_COMBO, NOTHING, Widget
from workflows.graphs.certainty import is_built_in

#: Structured types that are laid out.
_KNOWN = frozenset({AUTOGROW, MATCH_TYPE, DYNAMIC_COMBO})


def restore(node: StoredNode, layout: Layout, info: Mapping[str, Any], connected: Collection[str]) -> dict[str, Any]:
    """Give widgets the values that a node was stored with; those it has none for keep their first ones.

    Returns: values by name for which the class has no widget.
    Raises: EditorWorkflow - there are more values than the class has widgets, so that which is which is not known.
    """
    inputs = class_inputs(node.type, info)
    for each in inputs:
        if _is_of_the_editor(each.type):
            node.refuse(f"its input {each.name} is of the type {each.type:.60}, which only the editor can lay out")
    if isinstance(node.values, dict):
        return _restore_named(node.values, layout, connected)
    values = _without_forced(node.values, layout.widgets, inputs)
    rest = _restore_listed(values, layout, connected)
    if any(_says_something(each) for each in rest) and not is_built_in(info.get("python_module")):
        has_any = any(widget.is_stored and widget.is_sent for widget in layout.widgets)
        # A pack's node that only shows what it got stores that.
        if has_any or info.get("output_node") is not True:
            node.refuse(
                f"it is stored with {len(node.values)} values, {len(values) - len(rest)} of them for widgets that its "
                "class declares: its pack adds more in the editor, which only the editor knows"
            )
    return {}


def _restore_listed(values: list[Any], layout: Layout, connected: Collection[str]) -> list[Any]:
    """Return the values that are left over."""
    position, number = 0, 0
    # The list grows and shrinks behind a dynamic combo.
    while number < len(layout.widgets):
        widget = layout.widgets[number]
        number += 1
        if not widget.is_stored:
            continue
        if position < len(values):
            _set(widget, values[position], layout, connected)
        position += 1
    return values[position:]


def _restore_named(values: Mapping[str, Any], layout: Layout, connected: Collection[str]) -> dict[str, Any]:
    left, number = dict(values), 0
    while number < len(layout.widgets):
        widget = layout.widgets[number]
        number += 1
        if widget.name in left:
            _set(widget, left.pop(widget.name), layout, connected)
    return {name: value for name, value in left.items() if isinstance(value, (str, int, float, bool))}


def _set(widget: Widget, value: Any, layout: Layout, connected: Collection[str]) -> None:
    if widget.is_fixed:
        return
    if value is None and widget.choices:
        value = widget.choices[0]
    widget.value = value
    if widget.type == DYNAMIC_COMBO:
        layout.choose(widget, connected)


def _without_forced(values: list[Any], widgets: list[Widget], inputs: list[Declared]) -> list[Any]:
    """Leave out the values that older editors stored for inputs that are sockets by force."""
    by_name = {widget.name: widget for widget in widgets}
    is_forced: list[bool] = []
    for each in inputs:
        widget = by_name.get(each.name)
        if (widget is None and not each.forces_input) or (widget is not None and not widget.is_stored):
            continue
        is_forced.append(each.forces_input)
        if each.options.get("control_after_generate"):
            is_forced.append(False)
    if True not in is_forced and len(values) == sum(widget.is_stored for widget in widgets):
        return values
    compact = [value for number, value in enumerate(values) if number >= len(widgets) or widgets[number].is_stored]
    aligned = next((each for each in (compact, values) if len(each) == len(is_forced)), None)
    if aligned is None:
        return values
    return [value for value, forced in zip(aligned, is_forced, strict=True) if not forced]


def _is_of_the_editor(type_: str) -> bool:
    """Whether the editor has code of its own for a type, other than that which is known here."""
    is_structured = type_.startswith("COMFY_") and type_.endswith("_V3")
    return (is_structured and type_ not in _KNOWN) or type_.startswith("COMFY_BRANCH_")


def _says_something(value: Any) -> bool:
    return value not in (None, "", [], {}) and value is not NOTHING
