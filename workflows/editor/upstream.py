"""Where a link comes from: through reroutes, bypassed nodes, and in and out of subgraphs, to a node that runs.

Each step leads to one other place, so a route is walked without recursion, and remembered for those that join it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workflows.editor.connections import fit, is_any
from workflows.editor.document import BYPASSED, MUTED
from workflows.editor.execution import Opened
from workflows.editor.nodes import REROUTE, Link


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an input gets: an output of a node that runs, or a value."""

    node: Opened | None = None
    slot: int = 0
    #: In a tuple: what a subgraph shows on its outside.
    value: tuple[Any] | None = None


#: An input or an output of a node, with the type that is wanted there.
_Place = tuple[Opened, bool, int, Any]


class Upstream:
    """Finds the sources of inputs, in one document."""

    def __init__(self) -> None:
        self._known: dict[_Place, Source | None] = {}

    def source(self, opened: Opened, slot: int) -> Source | None:
        """Return what an input of a node gets by its link; None if nothing comes by it.

        Raises: EditorWorkflow - the link leads back to where it comes from.
        """
        place: _Place = (opened, True, slot, opened.node.slots[slot].type)
        passed: dict[_Place, None] = {}
        found: Source | None = None
        while True:
            if place in self._known:
                found = self._known[place]
                break
            if place in passed:
                opened.node.refuse(f"its input {opened.node.slots[slot].name!r:.100} is linked in a circle")
            passed[place] = None
            step = _behind_input(place) if place[1] else _behind_output(place)
            if not isinstance(step, tuple):
                found = step
                break
            place = step
        for each in passed:
            self._known[each] = found
        return found


def _behind_input(place: _Place) -> _Place | Source | None:
    opened, _, slot, type_ = place
    link = opened.node.slots[slot].link
    if link is None:
        return None
    if link.origin is None:
        return _outside(opened, link)
    return opened.beside[link.origin.id], False, link.origin_slot, type_


def _outside(opened: Opened, link: Link) -> _Place | Source | None:
    """What comes into a subgraph: by a link, or the value that the node for it shows."""
    host = opened.host
    if host is None or not 0 <= link.origin_slot < len(host.node.slots):
        return opened.node.refuse("one of its links comes from an input of a subgraph that is not there")
    slot = host.node.slots[link.origin_slot]
    if slot.link is not None:
        return host, True, link.origin_slot, slot.type
    return Source(value=(slot.widget.value,)) if slot.widget is not None else None


def _behind_output(place: _Place) -> _Place | Source | None:
    opened, _, slot, type_ = place
    node = opened.node
    if node.stored.mode == MUTED:
        return None
    if node.stored.mode == BYPASSED:
        number = _bypass(opened, slot, type_)
        return None if number is None else (opened, True, number, node.slots[number].type)
    if node.subgraph is not None:
        link = node.subgraph.exits[slot] if 0 <= slot < len(node.subgraph.exits) else None
        if link is None:
            return None
        if link.origin is None:
            # The subgraph hands an input through.
            return node.refuse("its subgraph leads from an input straight to an output")
        return opened.within[link.origin.id], False, link.origin_slot, type_
    if node.is_editors_own:
        if node.type == REROUTE and slot < len(node.slots):
            return opened, True, slot, type_
        return None
    return Source(node=opened, slot=slot)


def _bypass(opened: Opened, slot: int, wanted: Any) -> int | None:
    """Which input of a bypassed node takes the place of an output: the same by number if it fits, or the first."""
    slots, types = opened.node.slots, opened.node.output_types
    if not 0 <= slot < len(types):
        return opened.node.refuse(f"it is bypassed, and has no output {slot}")
    if is_any(wanted):
        return (slot if len(slots) > slot else 0) if slots else None
    given = types[slot]

    def fits(number: int) -> bool:
        return fit(slots[number].type, given) and fit(slots[number].type, wanted)

    if slot < len(slots) and fits(slot):
        return slot
    exact = next((number for number, each in enumerate(slots) if each.type == wanted), None)
    return exact if exact is not None else next((number for number in range(len(slots)) if fits(number)), None)
