"""Sums up what a prompt put out, as `/api/jobs` tells it: how many things, how many to look at, and which to show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN_KINDS = ("images", "video", "audio", "gifs", "3d")
_MESHES = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
_TEXTS = (".txt", ".md", ".json")
#: Longer texts are cut where they are shown.
_SHOWN_CHARS = 1024


def named_files(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs, with file items in place of the mere names of 3D files, and without null."""
    return {
        node_id: {
            kind: [_as_item(item) for item in items if item is not None] if _is_list(kind, items) else items
            for kind, items in ui.items()
        }
        for node_id, ui in outputs.items()
    }


def summary(outputs: Mapping[str, Any], *, shows_texts: bool) -> tuple[int, dict[str, Any] | None]:
    """How many things a prompt put out, and the one to show: a finished file before a temporary one, texts last.

    Newer releases show texts (`shows_texts`), and do not count those that are no files.
    """
    count, shown = 0, []
    for node_id, kind, item in _items(outputs):
        is_item = isinstance(item, dict)
        count += is_item or not shows_texts
        if is_item and (kind in _SHOWN_KINDS or (shows_texts and _is_shown(kind, item))):
            rank = 2 if _is_text(kind, item) else item.get("type") != "output"
            shown.append((rank, {"mediaType": kind, **item, "nodeId": node_id}))
        elif shows_texts and kind == "text":
            text = {"content": str(item)[:_SHOWN_CHARS]} | (
                {"truncated": True} if len(str(item)) > _SHOWN_CHARS else {}
            )
            shown.append((3, {**text, "nodeId": node_id, "mediaType": kind}))
    shown.sort(key=lambda ranked: ranked[0])
    return count, shown[0][1] if shown else None


def count_shown(outputs: Mapping[str, Any]) -> int:
    """How many files of a prompt are there to look at, listen to or read."""
    return sum(isinstance(item, dict) and _is_shown(kind, item) for _, kind, item in _items(outputs))


def _items(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for node_id, ui in outputs.items():
        for kind, items in ui.items():
            if _is_list(kind, items):
                yield from ((node_id, kind, item) for item in items)


def _is_list(kind: str, items: Any) -> bool:
    return kind != "animated" and isinstance(items, (list, tuple))


def _as_item(item: Any) -> Any:
    if isinstance(item, str) and item.lower().endswith(_MESHES):
        return {"filename": item, "type": "output", "subfolder": "", "mediaType": "3d"}
    return item


def _is_shown(kind: str, item: Mapping[str, Any]) -> bool:
    if kind in ("images", "video", "audio", "3d", "text") or str(item.get("format", "")).startswith(
        ("video/", "audio/")
    ):
        return True
    return str(item.get("filename", "")).lower().endswith((*_MESHES, *_TEXTS))


def _is_text(kind: str, item: Mapping[str, Any]) -> bool:
    return kind == "text" or str(item.get("filename", "")).lower().endswith(_TEXTS)
