"""Widgets that subgraphs show on their outside.

An input of a subgraph that leads to a widget within shows it, with a value of its own for each node that stands for the
subgraph. Older documents name such widgets in a list beside (`proxyWidgets`); the editor makes inputs of these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workflows.editor.connections import is_any
from workflows.editor.document import StoredNode
from workflows.editor.nodes import PRIMITIVE, Canvas, Entry, Link, Node, Slot
from workflows.editor.widgets import Widget

_LISTED, _SET_ASIDE = "proxyWidgets", "proxyWidgetErrorQuarantine"
#: The node that a listed widget names if it is the subgraph's own.
_OWN = "-1"
#: What the editor shows of pictures, and no widget.
_PREVIEW = "$$"
_PREFIX = re.compile(r"\s*(\d+)\s*:\s*(.+)", re.DOTALL)
_MAX_LISTED = 1000


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """One widget that is named beside."""

    node_id: str
    name: str
    #: The node within that subgraph, if `node_id` is a subgraph itself.
    inner_id: str | None
    #: Its value, in a tuple; None if there is none.
    value: tuple[Any] | None


def show_widgets(canvas: Canvas) -> None:
    """Give the nodes of a canvas that stand for subgraphs the widgets that these show."""
    hosts = [(node, node.subgraph) for node in canvas.nodes.values() if node.subgraph is not None]
    for host, subgraph in hosts:
        for slot, entry in zip(host.slots, subgraph.entries, strict=True):
            slot.widget = _shown(entry)
        _restore(host)
    for host, subgraph in hosts:
        for listed, slot_name in _places(host, subgraph):
            _show_listed(host, subgraph, listed, slot_name)


def number_listed(host: StoredNode) -> int:
    """How many widgets are named beside for a node: each may become an input."""
    return min(len(_list_property(host, _LISTED)), _MAX_LISTED)


def _shown(entry: Entry) -> Widget | None:
    """The widget that a subgraph shows for an input; None if none of what it leads to has one."""
    inner = next((slot.widget for slot in _targets(entry) if slot.widget is not None), None)
    if inner is None:
        return None
    return Widget(name=entry.name, type=inner.type, value=inner.value, is_stored=inner.is_stored)


def _targets(entry: Entry) -> Sequence[Slot]:
    return [link.target.slots[link.target_slot] for link in entry.links if link.target is not None]


def _restore(host: Node) -> None:
    values = host.stored.values
    aside = dict(_set_aside(host))
    shown = [slot for slot in host.slots if slot.widget is not None]
    if isinstance(values, dict):
        host.refuse("the values of its widgets are stored by name, which subgraphs never do")
    for number, slot in enumerate(shown):
        assert slot.widget is not None
        if slot.name in aside:
            slot.widget.value = aside[slot.name]
        elif number < len(values):
            slot.widget.value = values[number]
    host.widgets = [slot.widget for slot in shown if slot.widget is not None]


def _set_aside(host: Node) -> Sequence[tuple[str, Any]]:
    """Values that an editor could not place, the first of each name last."""
    found = []
    for each in reversed(_list_property(host.stored, _SET_ASIDE)):
        entry = each.get("originalEntry") if isinstance(each, dict) else None
        if isinstance(entry, list) and len(entry) > 1 and str(entry[0]) == _OWN and "hostValue" in each:
            found.append((str(entry[1]), each["hostValue"]))
    return found


def _places(host: Node, subgraph: Canvas) -> list[tuple[_Listed, str | None]]:
    """The widgets that are named beside, and which input shows each already, before any of them is added."""
    values = host.stored.values
    found = []
    for number, each in enumerate(_list_property(host.stored, _LISTED)[:_MAX_LISTED]):
        if not isinstance(each, list) or len(each) < 2 or not all(isinstance(part, (str, int)) for part in each):
            continue
        value = (values[number],) if isinstance(values, list) and number < len(values) else None
        inner_id = str(each[2]) if len(each) > 2 else None
        listed = _normal(subgraph, _Listed(node_id=str(each[0]), name=str(each[1]), inner_id=inner_id, value=value))
        found.append((listed, _input_for(subgraph, listed)))
    return found


def _normal(subgraph: Canvas, listed: _Listed) -> _Listed:
    """Without the ids of nodes that some editors have put before the widget's name."""
    if _resolves(subgraph, listed.node_id, listed.name):
        return listed
    name, inner_id = listed.name, listed.inner_id
    while (found := _PREFIX.fullmatch(name)) is not None:
        inner_id, name = found[1], found[2]
    return _Listed(node_id=listed.node_id, name=name, inner_id=inner_id, value=listed.value)


def _resolves(subgraph: Canvas, node_id: str, name: str) -> bool:
    node = subgraph.nodes.get(node_id)
    while node is not None and node.subgraph is not None:
        entry = next((each for each in node.subgraph.entries if each.name == name), None)
        target = _first_target(entry) if entry else None
        if target is None:
            return False
        node, name = target
    return node is not None and node.widget(name) is not None


def _first_target(entry: Entry) -> tuple[Node, str] | None:
    """The first node that an input of a subgraph leads to, with its widget, or its input if it is a subgraph."""
    for link in entry.links:
        node = link.target
        if node is None:
            continue
        slot = node.slots[link.target_slot]
        if node.subgraph is not None:
            return node, slot.name
        if slot.widget is not None:
            return node, slot.widget.name
    return None


def _input_for(subgraph: Canvas, listed: _Listed) -> str | None:
    for entry in subgraph.entries:
        target = _first_target(entry)
        if target is not None and target[0].id == listed.node_id and target[1] == listed.name:
            return entry.name
    return None


def _show_listed(host: Node, subgraph: Canvas, listed: _Listed, slot_name: str | None) -> None:
    node = subgraph.nodes.get(listed.node_id)
    if slot_name is None and node is not None and not listed.name.startswith(_PREVIEW):
        if node.type == PRIMITIVE and node.is_editors_own:
            slot_name = _add_for_primitive(subgraph, node, listed)
        else:
            slot_name = _add(subgraph, node, listed)
    elif slot_name is None and listed.node_id == _OWN:
        slot_name = listed.name
    slots = [slot for slot in host.slots if slot.name == slot_name]
    if len(slots) == 1 and slots[0].widget is not None and listed.value is not None:
        slots[0].widget.value = listed.value[0]


def _add(subgraph: Canvas, node: Node, listed: _Listed) -> str | None:
    """Make an input of the subgraph that leads to a widget within; returns its name."""
    number = next((n for n, slot in enumerate(node.slots) if _is_meant(node, slot, listed)), None)
    if number is None:
        return None
    return _add_entry(subgraph, listed.name, node.slots[number].type, [(node, number)])


def _is_meant(node: Node, slot: Slot, listed: _Listed) -> bool:
    if slot.widget is None:
        return False
    if node.subgraph is None:
        return slot.widget.name == listed.name
    entry = next((each for each in node.subgraph.entries if each.name == slot.name), None)
    target = _first_target(entry) if entry else None
    if listed.inner_id is not None:
        return target is not None and (target[0].id, target[1]) == (listed.inner_id, listed.name)
    return slot.name == listed.name or (target is not None and target[1] == listed.name)


def _add_for_primitive(subgraph: Canvas, primitive: Node, listed: _Listed) -> str | None:
    """Make an input of the subgraph in place of a primitive node."""
    targets = [(link.target, link.target_slot) for link in primitive.links_out if link.target is not None]
    type_ = primitive.output_types[0] if primitive.output_types else "*"
    fitting = [is_any(type_) or is_any(each) or each == type_ for each in (n.slots[i].type for n, i in targets)]
    if not targets or not all(fitting):
        return None
    return _add_entry(subgraph, primitive.stored.title or listed.name, type_, targets)


def _add_entry(subgraph: Canvas, name: str, type_: Any, targets: Sequence[tuple[Node, int]]) -> str:
    taken = {entry.name for entry in subgraph.entries}
    unique, further = name, 0
    while unique in taken:
        further += 1
        unique = f"{name}_{further}"
    entry = Entry(name=unique, type=type_)
    place = len(subgraph.entries)
    subgraph.entries.append(entry)
    for node, number in targets:
        before = node.slots[number].link
        if before is not None:
            others = subgraph.entries[before.origin_slot].links if before.origin is None else before.origin.links_out
            others.remove(before)
        link = Link(id=-1, origin=None, origin_slot=place, target=node, target_slot=number)
        node.slots[number].link = link
        entry.links.append(link)
    for host in subgraph.hosts:
        slot = Slot(name=unique, type=type_, widget=_shown(entry))
        host.slots.append(slot)
        if slot.widget is not None:
            host.widgets.append(slot.widget)
    return unique


def _list_property(host: StoredNode, name: str) -> list[Any]:
    value = host.properties.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return []
    return value if isinstance(value, list) else []
