"""Ids of nodes within subgraphs, made unique in the whole document as the editor does when it loads one."""

from __future__ import annotations

from workflows.editor.document import Document, StoredCanvas, StoredLink


def make_ids_unique(document: Document) -> None:
    """Give nodes of subgraphs whose id is taken already a new one, in the document itself."""
    taken = {node.id for node in document.root.nodes}
    last = document.last_node_id
    renamed: dict[str, dict[str, str]] = {}
    for canvas in document.subgraphs:
        new_ids: dict[str, str] = {}
        for node in canvas.nodes:
            if node.id in taken:
                last += 1
                while str(last) in taken:
                    last += 1
                new_ids[node.id] = str(last)
                taken.add(str(last))
            else:
                taken.add(node.id)
                last = max(last, int(node.id)) if _is_number(node.id) else last
        if new_ids:
            _rename(canvas, new_ids)
            renamed[canvas.id] = new_ids
    for canvas in (document.root, *document.subgraphs):
        _rename_shown(canvas, renamed)


def _rename(canvas: StoredCanvas, new_ids: dict[str, str]) -> None:
    for node in canvas.nodes:
        node.id = new_ids.get(node.id, node.id)
    canvas.links = [
        StoredLink(
            id=link.id,
            origin_id=new_ids.get(link.origin_id, link.origin_id),
            origin_slot=link.origin_slot,
            target_id=new_ids.get(link.target_id, link.target_id),
            target_slot=link.target_slot,
        )
        for link in canvas.links
    ]


def _rename_shown(canvas: StoredCanvas, renamed: dict[str, dict[str, str]]) -> None:
    """Have what subgraphs show of their inner nodes name these by their new ids."""
    for node in canvas.nodes:
        new_ids = renamed.get(node.type)
        shown = node.properties.get("proxyWidgets")
        if not new_ids or not isinstance(shown, list):
            continue
        node.properties = {
            **node.properties,
            "proxyWidgets": [
                [new_ids.get(str(each[0]), str(each[0])), *each[1:]] if isinstance(each, list) and each else each
                for each in shown
            ],
        }


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 16 and str(int(text)) == text
