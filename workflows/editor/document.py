"""The shape of a document of the editor, in both forms of its links. Reads only what the graph depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from workflows.editor.refusals import refused_document, refused_node

#: Nodes of a whole document, those in subgraphs and those that never run included.
MAX_NODES = 10_000
#: Slots and links; a node has few.
_MAX_LINKS = 200_000
_MAX_SUBGRAPHS = 2_000
#: Inputs, or outputs, of one node.
_MAX_SLOTS = 1_000
#: The ends of links within a subgraph that lead out of it.
INPUTS_ID, OUTPUTS_ID = "-10", "-20"
#: Modes of nodes; those of all others run.
MUTED, BYPASSED = 2, 4
_LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


@dataclass(frozen=True, kw_only=True)
class StoredLink:
    """One link."""

    id: int
    origin_id: str
    origin_slot: int
    target_id: str
    target_slot: int


@dataclass(frozen=True, kw_only=True)
class StoredSlot:
    """An input or output of a node, or of a whole subgraph."""

    name: str
    type: Any
    #: The widget whose value the input can take the place of.
    widget: str | None = None
    #: Of a node's input.
    link: int | None = None
    #: Of a subgraph's input or output, in order.
    links: tuple[int, ...] = ()


@dataclass(kw_only=True)
class StoredNode:
    """One node, as it was stored."""

    id: str
    type: str
    title: str
    mode: int
    inputs: list[StoredSlot]
    outputs: list[StoredSlot]
    #: By position, or (some packs) by name.
    values: list[Any] | dict[str, Any]
    properties: Mapping[str, Any]

    def refuse(self, reason: str) -> NoReturn:
        """Refuse the document for this node. Raises EditorWorkflow."""
        raise refused_node(self.id, self.type, self.title, reason)

    @property
    def is_active(self) -> bool:
        return self.mode not in (MUTED, BYPASSED)


@dataclass(kw_only=True)
class StoredCanvas:
    """The document's own nodes, or those of one subgraph."""

    #: A subgraph's id, by which its nodes name it as their type.
    id: str
    name: str
    nodes: list[StoredNode]
    links: list[StoredLink]
    inputs: list[StoredSlot] = field(default_factory=list)
    outputs: list[StoredSlot] = field(default_factory=list)


@dataclass(kw_only=True)
class Document:
    """A whole document."""

    root: StoredCanvas
    subgraphs: list[StoredCanvas]
    #: The highest id that was given to a node.
    last_node_id: int


def read_document(value: Mapping[str, Any]) -> Document:
    """Read a document. Raises EditorWorkflow: it is broken, or far larger than any that can run."""
    found = [value, *_subgraphs(value)]
    nodes = sum(len(_listed(each, "nodes")) for each in found)
    if nodes > MAX_NODES:
        raise refused_document(f"it has {nodes} nodes, at most {MAX_NODES} are read")
    if sum(len(_listed(each, "links")) for each in found) > _MAX_LINKS:
        raise refused_document(f"it has more than {_MAX_LINKS} links")
    canvases = [_canvas(each) for each in found]
    state = value.get("state")
    last = state.get("lastNodeId") if isinstance(state, dict) else value.get("last_node_id")
    return Document(root=canvases[0], subgraphs=canvases[1:], last_node_id=last if type(last) is int else 0)


def _subgraphs(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All definitions of subgraphs, those within others behind them; of several with one id the first."""
    found: dict[str, Mapping[str, Any]] = {}
    pending = list(reversed(_definitions(value)))
    while pending:
        each = pending.pop()
        if not isinstance(each.get("id"), str):
            raise refused_document("a subgraph has no id")
        found.setdefault(each["id"], each)
        pending.extend(reversed(_definitions(each)))
        if len(found) + len(pending) > _MAX_SUBGRAPHS:
            raise refused_document(f"it has more than {_MAX_SUBGRAPHS} subgraphs")
    return list(found.values())


def _definitions(value: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    definitions = value.get("definitions")
    listed = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    if listed is not None and not (isinstance(listed, list) and all(isinstance(each, dict) for each in listed)):
        raise refused_document("its subgraphs are no list of objects")
    return listed or []


def _canvas(value: Mapping[str, Any]) -> StoredCanvas:
    canvas = StoredCanvas(
        id=str(value.get("id") or ""),
        name=str(value.get("name") or ""),
        nodes=[_node(each) for each in _listed(value, "nodes")],
        links=[_link(each) for each in _listed(value, "links") if each is not None],
        inputs=[_slot(each) for each in _listed(value, "inputs")],
        outputs=[_slot(each) for each in _listed(value, "outputs")],
    )
    seen: set[str] = set()
    for node in canvas.nodes:
        if node.id in seen:
            node.refuse("another node has the same id")
        seen.add(node.id)
    return canvas


def _listed(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    if isinstance(found, dict) and key == "links":
        # Some versions have stored links by their ids.
        return list(found.values())
    if found is not None and not isinstance(found, list):
        raise refused_document(f"its {key} are no list")
    return found or []


def _node(value: Any) -> StoredNode:
    if not isinstance(value, dict) or not _is_id(value.get("id")) or not isinstance(value.get("type"), str):
        raise refused_document("a node has no id or no type")
    node_id, type_ = str(value["id"]), value["type"]
    title = value.get("title") if isinstance(value.get("title"), str) else ""
    mode = value.get("mode")
    node = StoredNode(
        id=node_id,
        type=type_,
        title=str(title),
        mode=mode if isinstance(mode, int) else 0,
        inputs=[],
        outputs=[],
        values=[],
        properties=value["properties"] if isinstance(value.get("properties"), dict) else {},
    )
    values = value.get("widgets_values")
    if values is not None and not isinstance(values, (list, dict)):
        node.refuse("its widgets_values are neither a list nor an object")
    node.values = values or []
    if any(isinstance(value.get(each), list) and len(value[each]) > _MAX_SLOTS for each in ("inputs", "outputs")):
        node.refuse(f"it has more than {_MAX_SLOTS} inputs or outputs")
    node.inputs = [_slot(each, node) for each in _listed(value, "inputs")]
    node.outputs = [_slot(each, node) for each in _listed(value, "outputs")]
    return node


def _slot(value: Any, node: StoredNode | None = None) -> StoredSlot:
    if not isinstance(value, dict):
        if node is not None:
            node.refuse("one of its inputs or outputs is no object")
        raise refused_document("an input or output of a subgraph is no object")
    name, widget, link = value.get("name"), value.get("widget"), value.get("link")
    if link is not None and type(link) is not int:
        link = -1 if node is None else node.refuse(f"the link of its input {name!r:.100} is no number")
    ids = value.get("linkIds")
    widget_name = widget.get("name") if isinstance(widget, dict) else None
    return StoredSlot(
        name=name if isinstance(name, str) else "",
        type=value.get("type", "*"),
        widget=widget_name if isinstance(widget_name, str) else None,
        link=link,
        links=tuple(each for each in ids if type(each) is int) if isinstance(ids, list) else (),
    )


def _link(value: Any) -> StoredLink:
    fields = dict(_named(value))
    numbers = [fields.get(name) for name in ("id", "origin_slot", "target_slot")]
    if not all(type(each) is int for each in numbers) or not all(
        _is_id(fields.get(name)) for name in ("origin_id", "target_id")
    ):
        raise refused_document(f"a link is broken: {value!r:.200}")
    return StoredLink(
        id=fields["id"],
        origin_id=str(fields["origin_id"]),
        origin_slot=fields["origin_slot"],
        target_id=str(fields["target_id"]),
        target_slot=fields["target_slot"],
    )


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from zip(_LINK_FIELDS, value, strict=False)


def _is_id(value: Any) -> bool:
    return type(value) is int or (isinstance(value, str) and value != "")
