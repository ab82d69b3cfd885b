"""Converts a document of the editor to the graph that the editor would queue."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from secrets import choice as draw_one
from typing import Any

from workflows.editor.canvases import read_canvases
from workflows.editor.document import read_document
from workflows.editor.execution import Opened, open_subgraphs
from workflows.editor.node_ids import make_ids_unique
from workflows.editor.nodes import Node
from workflows.editor.own_options import CHOICE, INDEX, number_of_choice
from workflows.editor.primitives import apply_primitives
from workflows.editor.refusals import refused_document, refused_nodes
from workflows.editor.texts import Texts
from workflows.editor.upstream import Source, Upstream
from workflows.editor.widgets import CURVE, IN_BROWSER, NOTHING, Widget
from workflows.graphs.graph import MAX_NODES, Catalogue, Graph

_UNKNOWN = (
    "no GPU of this fleet has such a node; if its pack has it in the editor alone, only the editor can convert it"
)


def convert(
    value: Mapping[str, Any],
    catalogue: Catalogue,
    *,
    now: datetime | None = None,
    choose: Callable[[list[str]], str] = draw_one,
) -> Graph:
    """Return the graph that the editor would queue for a document, sources before what they lead to.

    Parameters:
      value: the document; it stays as it is.
      now: for `%date:...%` in names of files.
      choose: draws one of the options of `{a|b}` in prompts.
    Raises:
      EditorWorkflow: a part of it cannot be converted; says which node, and why.
    """
    document = read_document(value)
    make_ids_unique(document)
    root, subgraphs = read_canvases(document, catalogue)
    canvases = (root, *subgraphs)
    texts = Texts(canvases, now or datetime.now().astimezone(), choose)
    apply_primitives(canvases, texts)
    opened = open_subgraphs(root)
    running = [each for each in opened if each.node.is_active and _is_sent(each.node)]
    _refuse_unknown(running)
    if not running:
        raise refused_document("none of its nodes runs")
    if len(running) > MAX_NODES:
        raise refused_document(f"{len(running)} of its nodes run, at most {MAX_NODES} are accepted")
    return _Sender(texts).graph(running)


def _is_sent(node: Node) -> bool:
    return node.subgraph is None and not node.is_editors_own


def _refuse_unknown(running: Iterable[Opened]) -> None:
    unknown = {each.id: each.node for each in running if each.node.info is None}
    if unknown:
        raise refused_nodes({node_id: (node.type, node.title, _UNKNOWN) for node_id, node in unknown.items()})


class _Sender:
    """Writes nodes as ComfyUI gets them."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self._upstream = Upstream()

    def graph(self, running: Iterable[Opened]) -> Graph:
        """Return the graph of these nodes."""
        nodes = {each.id: each for each in running}
        sources = {node_id: self._sources(each) for node_id, each in nodes.items()}
        graph: Graph = {}
        for node_id in _sources_first(sources):
            each = nodes[node_id]
            inputs = {**each.node.extra, **self._values(each, sources[node_id])}
            for name, source in sources[node_id].items():
                if source.node is not None:
                    inputs[name] = [source.node.id, source.slot]
                elif source.value is not None and source.value[0] is not NOTHING:
                    inputs[name] = _wrapped(source.value[0])
            graph[node_id] = {"class_type": each.node.type, "inputs": inputs, "_meta": {"title": each.node.title}}
        return graph

    def _sources(self, opened: Opened) -> dict[str, Source]:
        """What each input gets that has a link by which something comes."""
        found = {}
        for number, slot in enumerate(opened.node.slots):
            if slot.link is not None and (source := self._upstream.source(opened, number)) is not None:
                found[slot.name] = source
        return found

    def _values(self, opened: Opened, sources: Mapping[str, Source]) -> dict[str, Any]:
        """The values of a node's widgets, those that a link takes the place of included."""
        node, values = opened.node, {}
        for widget in node.widgets:
            if not widget.is_sent:
                continue
            value = self._value(node, widget, sources)
            if value is not NOTHING:
                values[widget.name] = value
        return values

    def _value(self, node: Node, widget: Widget, sources: Mapping[str, Source]) -> Any:
        value = widget.value
        if widget.type in IN_BROWSER and widget.name not in sources:
            node.refuse(f"{widget.name}: {IN_BROWSER[widget.type]}")
        if widget.type == INDEX:
            source, choice = sources.get(CHOICE), node.widget(CHOICE)
            given = source.value if source is not None else None
            return number_of_choice(node.widgets, given[0] if given else choice.value if choice else NOTHING)
        if isinstance(value, str):
            if self._texts.is_replaced(node, widget.name):
                return self._texts.replaced(value)
            return self._texts.drawn(value) if widget.is_drawn else value
        if widget.type == CURVE and value is not None:
            return {"__type__": CURVE, "__value__": value}
        return _wrapped(value)


def _wrapped(value: Any) -> Any:
    """A list has to be told from a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _sources_first(sources: Mapping[str, Mapping[str, Source]]) -> list[str]:
    """Return the nodes in an order in which each stands behind its sources; those in a circle come last."""
    waits_for = {
        node_id: {source.node.id for source in found.values() if source.node is not None} & sources.keys()
        for node_id, found in sources.items()
    }
    leads_to: dict[str, list[str]] = {}
    for node_id, waiting in waits_for.items():
        for source in waiting:
            leads_to.setdefault(source, []).append(node_id)
    ready = [node_id for node_id, waiting in waits_for.items() if not waiting]
    for node_id in ready:
        for target in leads_to.get(node_id, ()):
            waits_for[target].discard(node_id)
            if not waits_for[target]:
                ready.append(target)
    return [*ready, *(node_id for node_id, waiting in waits_for.items() if waiting)]
