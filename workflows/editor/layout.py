"""The slots and widgets that a node of a class has in the editor.

Sockets come first, then widgets, each of which has an input as well. What a dynamic combo's option, or a connection to
a growing group, adds is laid out when the values of the node and its connections are known.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workflows.editor.declared import Declared, class_inputs, declared_inputs, in_order
from workflows.editor.widgets import DYNAMIC_COMBO, Widget, has_widget, widgets_of

AUTOGROW, MATCH_TYPE = "COMFY_AUTOGROW_V3", "COMFY_MATCHTYPE_V3"
#: Of a growing group without names; the editor's own limit.
_MAX_GROWN = 100
_NUMBER = re.compile(r"\d+$")
#: Inputs within inputs within inputs: no class has more.
_MAX_DEPTH = 8


@dataclass(eq=False, kw_only=True)
class LaidSlot:
    """An input of a class, as the editor lays it out."""

    name: str
    type: Any
    #: The widget whose value it can take the place of.
    widget: str | None = None
    #: Whether its type becomes that of what is connected.
    is_matched: bool = False


@dataclass(eq=False, kw_only=True)
class Layout:
    """The inputs and widgets of one node."""

    slots: list[LaidSlot] = field(default_factory=list)
    widgets: list[Widget] = field(default_factory=list)

    def choose(self, widget: Widget, connected: Collection[str]) -> None:
        """Lay out the inputs of the option that a dynamic combo has, behind it, in place of those of another."""
        prefix = f"{widget.name}."
        self.slots = [slot for slot in self.slots if not slot.name.startswith(prefix)]
        self.widgets = [each for each in self.widgets if not each.name.startswith(prefix)]
        part = Layout()
        for each in _inputs_of_option(widget):
            part.add(each.renamed(prefix + each.name), connected)
        after = next((n for n, slot in enumerate(self.slots, 1) if slot.name == widget.name), len(self.slots))
        self.slots[after:after] = part.slots
        after = self.widgets.index(widget) + 1
        self.widgets[after:after] = part.widgets

    def drops(self, name: str) -> bool:
        """Whether a name is that of an input of a dynamic combo's option, and not of the one that is chosen."""
        known = any(slot.name == name for slot in self.slots)
        return not known and any(
            widget.type == DYNAMIC_COMBO and name.startswith(f"{widget.name}.") for widget in self.widgets
        )

    def add(self, each: Declared, connected: Collection[str]) -> None:
        """Lay out one input at the end, its socket or its widget."""
        self.add_socket(each, connected)
        self.add_widgets(each, connected)

    def add_socket(self, each: Declared, connected: Collection[str]) -> None:
        """Lay out an input that has no widget."""
        if has_widget(each):
            return
        if each.type == AUTOGROW:
            for member in _members(each, connected):
                self.add(member, connected)
        elif each.type == MATCH_TYPE:
            self.slots.append(LaidSlot(name=each.name, type=_matched_types(each), is_matched=True))
        else:
            self.slots.append(LaidSlot(name=each.name, type=each.type))

    def add_widgets(self, each: Declared, connected: Collection[str]) -> None:
        """Lay out the widgets of an input that has some."""
        if not has_widget(each) or each.name.count(".") > _MAX_DEPTH:
            return
        own, *further = widgets_of(each)
        self.widgets += [own, *further]
        if own.has_input:
            self.slots.append(LaidSlot(name=each.name, type=each.type, widget=each.name))
        if own.type == DYNAMIC_COMBO:
            self.choose(own, connected)


def lay_out(class_type: str, info: Mapping[str, Any], connected: Collection[str]) -> Layout:
    """Lay out a node of a class, each widget with its first value.

    Parameters:
      connected: names of the node's inputs that are connected: growing groups have one more than these.
    """
    layout = Layout()
    inputs = in_order(class_inputs(class_type, info), info)
    for each in inputs:
        layout.add_socket(each, connected)
    for each in inputs:
        layout.add_widgets(each, connected)
    return layout


def _inputs_of_option(widget: Widget) -> Iterable[Declared]:
    options = widget.declared.choices if widget.declared else []
    for option in options:
        if isinstance(option, Mapping) and option.get("key") == widget.value:
            return declared_inputs(option.get("inputs"))
    return ()


def _members(group: Declared, connected: Collection[str]) -> Iterable[Declared]:
    """Return the inputs of a growing group: the least there are, one more, and one behind each that is connected."""
    template = group.options.get("template")
    if not isinstance(template, Mapping):
        return
    inputs = declared_inputs(template.get("input"))
    names = [each for each in template.get("names") or () if isinstance(each, str)]
    least = template.get("min", 1)
    most = len(names) or template.get("max", _MAX_GROWN)
    if not inputs or type(least) is not int or type(most) is not int:
        return
    count = max(least + 1, 1, _last_connected(group.name, names, connected) + 2)
    for number in range(min(count, most)):
        for each in inputs:
            stem = str(template.get("prefix") or "") if len(inputs) == 1 else each.name
            yield each.renamed(f"{group.name}.{names[number] if names else f'{stem}{number}'}")


def _last_connected(group: str, names: list[str], connected: Collection[str]) -> int:
    last = -1
    for each in connected:
        if not each.startswith(f"{group}."):
            continue
        name = each[len(group) + 1 :]
        if names:
            last = max(last, names.index(name) if name in names else -1)
        elif (number := _NUMBER.search(name)) is not None and len(number[0]) < 6:
            last = max(last, int(number[0]))
    return last


def _matched_types(each: Declared) -> Any:
    template = each.options.get("template")
    return template.get("allowed_types", "*") if isinstance(template, Mapping) else "*"
