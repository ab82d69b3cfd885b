"""The nodes that run: each subgraph laid open where a node stands for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from workflows.editor.nodes import Canvas, Node
from workflows.editor.refusals import refused_document
from workflows.graphs.graph import MAX_ID_CHARS

#: Nodes of all subgraphs laid open, those that do not run included: far more than a graph may have.
MAX_OPENED = 20_000


@dataclass(eq=False, kw_only=True)
class Opened:
    """One node where it stands: within a subgraph there is one of it for each node that stands for the subgraph."""

    node: Node
    #: Unique: the ids of the nodes for the subgraphs around it and its own, joined by colons.
    id: str
    #: The node for the subgraph around it.
    host: Opened | None
    #: The nodes beside it, by their own ids.
    beside: dict[str, Opened]
    #: Of a node for a subgraph the nodes within.
    within: dict[str, Opened] = field(default_factory=dict)


def open_subgraphs(canvas: Canvas) -> list[Opened]:
    """Return all nodes of a document, each behind the one for the subgraph it is in.

    A subgraph on the document's own canvas that is muted or bypassed stays closed; within others the nodes' own modes
    count, as in the editor. Raises: EditorWorkflow - they are too many.
    """
    found: list[Opened] = []
    seen: set[str] = set()
    pending: list[tuple[Canvas, Opened | None]] = [(canvas, None)]
    while pending:
        inner, host = pending.pop()
        beside = host.within if host is not None else {}
        for node in inner.nodes.values():
            node_id = node.id if host is None else f"{host.id}:{node.id}"
            if node_id in seen:
                node.refuse(f"another node has the id {node_id:.100}, too, once subgraphs are laid open")
            if len(node_id) > MAX_ID_CHARS:
                node.refuse("it stands in too many subgraphs, one in another")
            seen.add(node_id)
            opened = Opened(node=node, id=node_id, host=host, beside=beside)
            beside[node.id] = opened
            found.append(opened)
            if node.subgraph is not None and (host is not None or node.is_active):
                pending.append((node.subgraph, opened))
        if len(found) > MAX_OPENED:
            raise refused_document(f"with its subgraphs laid open it has more than {MAX_OPENED} nodes")
    return found
