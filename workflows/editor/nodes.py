"""Nodes with their slots, widgets and links, as they stand in the editor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

from workflows.editor.document import StoredNode
from workflows.editor.widgets import Widget

#: Nodes of the editor alone. Of them only a reroute leads on.
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
EDITORS_OWN = frozenset({REROUTE, PRIMITIVE, "Note", "MarkdownNote"})


@dataclass(eq=False, kw_only=True)
class Link:
    """A link from an output, or an input of the subgraph, to an input, or an output of the subgraph."""

    id: int
    #: None: an input of the subgraph.
    origin: Node | None
    origin_slot: int
    #: None: an output of the subgraph.
    target: Node | None
    target_slot: int


@dataclass(eq=False, kw_only=True)
class Slot:
    """An input of a node."""

    name: str
    type: Any
    #: The widget in whose place a link comes; of a subgraph what it shows of an inner one, see `promoted`.
    widget: Widget | None = None
    link: Link | None = None


@dataclass(eq=False, kw_only=True)
class Node:
    """One node of a canvas."""

    stored: StoredNode
    slots: list[Slot] = field(default_factory=list)
    output_types: Sequence[Any] = ()
    #: To the inputs of other nodes.
    links_out: list[Link] = field(default_factory=list)
    widgets: list[Widget] = field(default_factory=list)
    #: Values without a widget, which some packs store by name.
    extra: Mapping[str, Any] = field(default_factory=dict)
    #: What the catalogue says of its class; None for a node of the editor alone, a subgraph, or an unknown class.
    info: Mapping[str, Any] | None = None
    #: The canvas that it stands for.
    subgraph: Canvas | None = None

    @property
    def id(self) -> str:
        return self.stored.id

    @property
    def type(self) -> str:
        return self.stored.type

    @property
    def title(self) -> str:
        """What the editor shows above it."""
        shown = self.info.get("display_name") if self.info is not None else None
        named = self.subgraph.name if self.subgraph is not None else shown
        return self.stored.title or str(named or self.type)

    @property
    def is_editors_own(self) -> bool:
        return self.type in EDITORS_OWN and self.info is None and self.subgraph is None

    @property
    def is_active(self) -> bool:
        return self.stored.is_active

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The places of its inputs by their names, the first of each; those added later are not among them."""
        return {slot.name: number for number, slot in reversed(list(enumerate(self.slots)))}

    def widget(self, name: str) -> Widget | None:
        """The first of its widgets with this name."""
        return next((each for each in self.widgets if each.name == name), None)

    def refuse(self, reason: str) -> NoReturn:
        """Refuse the document for this node. Raises EditorWorkflow."""
        self.stored.refuse(reason)


@dataclass(eq=False, kw_only=True)
class Entry:
    """An input of a subgraph: all that it leads to within."""

    name: str
    type: Any
    links: list[Link] = field(default_factory=list)


@dataclass(eq=False, kw_only=True)
class Canvas:
    """The document's own nodes, or those of one subgraph."""

    name: str
    nodes: dict[str, Node] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    #: Of each output of the subgraph its type, and the link that leads to it.
    exit_types: list[Any] = field(default_factory=list)
    exits: list[Link | None] = field(default_factory=list)
    #: The nodes that stand for it.
    hosts: list[Node] = field(default_factory=list)
