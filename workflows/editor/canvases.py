"""Lays out the nodes of a document, those of subgraphs before the nodes that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workflows.editor.document import INPUTS_ID, OUTPUTS_ID, Document, StoredCanvas, StoredLink, StoredNode, StoredSlot
from workflows.editor.layout import MATCH_TYPE, lay_out
from workflows.editor.nodes import EDITORS_OWN, Canvas, Entry, Link, Node, Slot
from workflows.editor.own_options import add_own_options
from workflows.editor.promoted import number_listed, show_widgets
from workflows.editor.refusals import refused_document
from workflows.editor.stored import restore
from workflows.graphs.graph import Catalogue

#: Inputs of all nodes that stand for subgraphs.
_MAX_SHOWN = 200_000


def read_canvases(document: Document, catalogue: Catalogue) -> tuple[Canvas, list[Canvas]]:
    """Lay out a document. Returns: its own canvas, and those of its subgraphs, the inner before the outer.

    Raises: EditorWorkflow.
    """
    _refuse_too_many_shown(document)
    subgraphs: dict[str, Canvas] = {}
    for stored in _inner_first(document.subgraphs):
        subgraphs[stored.id] = _canvas(stored, catalogue, subgraphs)
    return _canvas(document.root, catalogue, subgraphs), list(subgraphs.values())


def _refuse_too_many_shown(document: Document) -> None:
    """A subgraph with many inputs that many nodes stand for would take all memory."""
    inputs = {each.id: len(each.inputs) for each in document.subgraphs}
    hosts = [node for each in (document.root, *document.subgraphs) for node in each.nodes if node.type in inputs]
    for node in hosts:
        inputs[node.type] += number_listed(node)
    if sum(inputs[node.type] for node in hosts) > _MAX_SHOWN:
        raise refused_document(f"the nodes for its subgraphs have more than {_MAX_SHOWN} inputs together")


def _inner_first(subgraphs: Sequence[StoredCanvas]) -> list[StoredCanvas]:
    by_id = {each.id: each for each in subgraphs}
    inner = {each.id: {node.type for node in each.nodes if node.type in by_id} for each in subgraphs}
    found: list[StoredCanvas] = []
    outer: dict[str, list[str]] = {each: [] for each in by_id}
    for each, uses in inner.items():
        for used in uses:
            outer[used].append(each)
    ready = [each for each in by_id if not inner[each]]
    while ready:
        each = ready.pop()
        found.append(by_id[each])
        for user in outer[each]:
            inner[user].discard(each)
            if not inner[user]:
                ready.append(user)
    if len(found) < len(by_id):
        within = next(by_id[each] for each, uses in inner.items() if uses)
        raise refused_document(f"the subgraph {within.name or within.id!r:.100} contains itself")
    return found


def _canvas(stored: StoredCanvas, catalogue: Catalogue, subgraphs: Mapping[str, Canvas]) -> Canvas:
    canvas = Canvas(
        name=stored.name,
        entries=[Entry(name=each.name, type=each.type) for each in stored.inputs],
        exit_types=[each.type for each in stored.outputs],
        exits=[None] * len(stored.outputs),
    )
    links = {link.id: link for link in stored.links}
    names = _names_of_targets(stored, links)
    for node in stored.nodes:
        canvas.nodes[node.id] = _node(node, catalogue, subgraphs)
    # Links that their targets name come first: of several to one input the editor keeps these.
    for link in sorted(stored.links, key=lambda link: link.id not in names):
        _connect(canvas, link, names.get(link.id))
    _sort_entries(canvas, stored)
    show_widgets(canvas)
    return canvas


def _names_of_targets(stored: StoredCanvas, links: Mapping[int, StoredLink]) -> dict[int, str]:
    """The input of its target that says it has a link, by the link's id."""
    found: dict[int, str] = {}
    for node in stored.nodes:
        for slot in node.inputs:
            if slot.link is None:
                continue
            link = links.get(slot.link)
            if link is None or link.target_id != node.id:
                node.refuse(f"its input {slot.name!r:.100} has link {slot.link}, which is not there")
            found[link.id] = slot.name
    return found


def _node(stored: StoredNode, catalogue: Catalogue, subgraphs: Mapping[str, Canvas]) -> Node:
    if stored.type in subgraphs:
        return _standing_for(stored, subgraphs[stored.type])
    info = catalogue.get(stored.type)
    if info is None or stored.type in EDITORS_OWN:
        slots = [Slot(name=each.name, type=each.type) for each in stored.inputs]
        return Node(stored=stored, slots=slots, output_types=[each.type for each in stored.outputs])
    return _of_class(stored, info)


def _standing_for(stored: StoredNode, subgraph: Canvas) -> Node:
    node = Node(
        stored=stored,
        slots=[Slot(name=each.name, type=each.type) for each in subgraph.entries],
        output_types=subgraph.exit_types,
        subgraph=subgraph,
    )
    subgraph.hosts.append(node)
    return node


def _of_class(stored: StoredNode, info: Mapping[str, Any]) -> Node:
    connected = {slot.name for slot in stored.inputs if slot.link is not None}
    layout = lay_out(stored.type, info, connected)
    add_own_options(stored, layout)
    extra = restore(stored, layout, info, connected)
    widgets = {widget.name: widget for widget in reversed(layout.widgets)}
    stored_types = {slot.name: slot.type for slot in stored.inputs}
    slots = [
        Slot(
            name=slot.name,
            type=stored_types.get(slot.name, slot.type) if slot.is_matched else slot.type,
            widget=widgets.get(slot.widget) if slot.widget else None,
        )
        for slot in layout.slots
    ]
    known = {slot.name for slot in slots}
    for each in stored.inputs:
        if each.name in known or (each.widget is not None and each.widget not in widgets) or layout.drops(each.name):
            continue
        slots.append(Slot(name=each.name, type=each.type, widget=widgets.get(each.widget or "")))
    return Node(
        stored=stored,
        slots=slots,
        output_types=_output_types(stored.outputs, info.get("output")),
        widgets=layout.widgets,
        extra=extra,
        info=info,
    )


def _output_types(stored: Sequence[StoredSlot], declared: Any) -> list[Any]:
    """The types of outputs: those of the class, but for those that become what is connected."""
    types = ["COMBO" if isinstance(each, list) else each for each in declared or ()]
    found = [
        stored[number].type if each == MATCH_TYPE and number < len(stored) else each
        for number, each in enumerate(types)
    ]
    return [*found, *(slot.type for slot in stored[len(found) :])]


def _connect(canvas: Canvas, link: StoredLink, name: str | None) -> None:
    """Put a link into the slot at its end. One that no input has, from or to nowhere, the editor drops as well."""
    origin, target = canvas.nodes.get(link.origin_id), canvas.nodes.get(link.target_id)
    if origin is None and link.origin_id != INPUTS_ID:
        if target is not None and name is not None:
            target.refuse(f"its input {name!r:.100} is linked to node {link.origin_id:.100}, which is not there")
        return
    made = Link(id=link.id, origin=origin, origin_slot=link.origin_slot, target=target, target_slot=link.target_slot)
    if target is None:
        if link.target_id == OUTPUTS_ID and 0 <= link.target_slot < len(canvas.exits):
            canvas.exits[link.target_slot] = canvas.exits[link.target_slot] or made
        return
    if name is not None:
        made.target_slot = target.numbers.get(name, -1)
    if not 0 <= made.target_slot < len(target.slots) or target.slots[made.target_slot].link is not None:
        return
    target.slots[made.target_slot].link = made
    if origin is not None:
        origin.links_out.append(made)
    elif 0 <= link.origin_slot < len(canvas.entries):
        canvas.entries[link.origin_slot].links.append(made)


def _sort_entries(canvas: Canvas, stored: StoredCanvas) -> None:
    """Have what an input of a subgraph leads to in the order that is stored: the first says what is shown of it."""
    for entry, slot in zip(canvas.entries, stored.inputs, strict=True):
        place = {link_id: number for number, link_id in enumerate(slot.links)}
        entry.links.sort(key=lambda link: place.get(link.id, len(place)))
