"""What a graph refers to instead of naming a file of the input folder: assets, URLs, data URIs, a template's files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InvalidRequest, MissingAsset
from workflows.graphs.graph import Graph, is_link

#: Files that one job may bring.
MAX_REFERENCES = 64
ASSET_TAG = "core/ASSET"
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ASSET = re.compile(_UUID)
_ASSET_PATH = re.compile(rf"({_UUID})/[^/]+(?:/[^/]+)?")
#: As newer versions of ComfyUI name a file by its bytes.
_HASH = re.compile(r"blake3:[0-9a-f]{64}")
_URL = re.compile(r"https?://", re.IGNORECASE)
#: What any of them begins with: one look is enough for most texts.
_MAYBE = re.compile(r"(?i:https?:|data:)|[0-9a-f]{8}-|blake3:")
_DATA = re.compile(r"data:[a-z0-9.+-]+/[a-z0-9.+-]+[;,]|data:[;,]", re.IGNORECASE)

#: A shorter text is no id; then only one with a colon may be any of them.
_ID_CHARS = 36
_NEVER = frozenset({int, float, bool, list})

#: `(class_type, input name)` -> "image", "video", "audio" or "" (any file), or None when the input takes no file.
FileKind = Callable[[str, str], str | None]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One place in a graph that stands for a file. Exactly one of `asset`, `url`, `data`, `file` is set."""

    node_id: str
    input_name: str
    class_type: str
    #: What the place takes: image, video, audio, or "" for any file.
    kind: str
    #: An asset id, an uploaded file's `<id>/<name>`, an output's `<job id>/<name>`, or an input file's `blake3:<hash>`.
    asset: str | None = None
    url: str | None = None
    data: str | None = None
    #: A file of the template.
    file: Path | None = None
    #: The folder that the class lists its files from, if it is not the top of the input folder.
    folder: str = ""
    #: The keys and indexes that lead to it from the graph.
    path: tuple[str | int, ...]

    @property
    def place(self) -> str:
        """For messages."""
        return f"node {self.node_id}, input {self.input_name}"

    def put(self, graph: Graph, name: str) -> Graph:
        """Return the graph with the name of a file in this place; the graph given stays as it is."""
        changed: Graph = _put(graph, self.path, name)
        return changed


def find_references(
    graph: Graph, file_kind: FileKind, files: Mapping[str, Path] | None = None, *, has_tags: bool = True
) -> list[Reference]:
    """Every reference of a graph, in the order of its nodes.

    An object tagged `core/ASSET` is one wherever it stands; a string only where a node takes the name of a file.

    Parameters:
      files: a template's own files, by the names its graph calls them.
      has_tags: whether the graph may hold tagged objects; False spares looking for them.
    Raises:
      MissingAsset: an object tagged `core/ASSET` holds no id.
      InvalidRequest: there are too many.
    """
    found: list[Reference] = []
    place: dict[str, Any]
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            # Most inputs are numbers, links and plain texts; this is on the path of every submission.
            if not (files and type(value) is str) and not may_refer(value) and not (has_tags and type(value) is list):
                continue
            if type(value) is dict and isinstance(several := value.get("__value__"), list):
                found += _listed(several, (node_id, "inputs", name), node["class_type"], file_kind, files or {})
            meant = _meant(value, files or {}) if isinstance(value, str) else None
            if not meant and (not has_tags or not isinstance(value, (dict, list)) or is_link(value)):
                continue
            kind = file_kind(node["class_type"], name)
            place = {"node_id": node_id, "input_name": name, "class_type": node["class_type"], "kind": kind or ""}
            if not meant:
                found += _tagged(value, (node_id, "inputs", name), place)
            elif kind is not None:
                found.append(Reference(**place, path=(node_id, "inputs", name), **meant))
        for key, value in node.items() if has_tags else ():
            if key not in ("inputs", "class_type"):
                place = {"node_id": node_id, "input_name": key, "class_type": node["class_type"], "kind": ""}
                found += _tagged(value, (node_id, key), place)
        if len(found) > MAX_REFERENCES:
            raise InvalidRequest(f"The workflow names more than {MAX_REFERENCES} files.")
    return found


def may_refer(value: Any) -> bool:
    """Whether an input may refer to anything by itself: no template has files of its own, and no list holds tags."""
    if type(value) is str:
        return len(value) >= _ID_CHARS or ":" in value
    return type(value) not in _NEVER


def put_all(graph: Graph, references: Iterable[Reference], names: Iterable[str]) -> Graph:
    """Return the graph with the name of its file in the place of each reference; the graph given stays as it is."""
    for reference, name in zip(references, names, strict=True):
        graph = reference.put(graph, name)
    return graph


def _listed(
    names: list[Any], path: tuple[str, str, str], class_type: str, file_kind: FileKind, files: Mapping[str, Path]
) -> Iterator[Reference]:
    """Several files for one input: a list, which must be wrapped to be no link."""
    node_id, _inputs, input_name = path
    kind = file_kind(class_type, input_name)
    for index, name in enumerate(names) if kind is not None else ():
        meant = _meant(name, files) if isinstance(name, str) else None
        if meant:
            place: dict[str, Any] = {"node_id": node_id, "input_name": input_name, "class_type": class_type}
            yield Reference(**place, kind=kind or "", path=(*path, "__value__", index), **meant)


def _tagged(value: Any, path: tuple[str | int, ...], place: dict[str, Any]) -> Iterator[Reference]:
    """Objects tagged as assets, at any depth."""
    if isinstance(value, dict) and value.get("__type") == ASSET_TAG:
        yield Reference(**place, path=path, asset=_asset_id(value, place))
    elif isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tagged(part, (*path, key), place)


def _put(holder: Any, path: tuple[str | int, ...], name: str) -> Any:
    changed = holder.copy()
    changed[path[0]] = _put(holder[path[0]], path[1:], name) if path[1:] else name
    return changed


def _meant(value: str, files: Mapping[str, Path]) -> dict[str, Any] | None:
    if files and value in files:
        return {"file": files[value]}
    if not _MAYBE.match(value):
        return None
    if _URL.match(value):
        return {"url": value}
    if _DATA.match(value):
        return {"data": value}
    if _ASSET.fullmatch(value) or _ASSET_PATH.fullmatch(value) or _HASH.fullmatch(value):
        return {"asset": value}
    return None


def _asset_id(tagged: dict[str, Any], place: dict[str, Any]) -> str:
    info = tagged.get("info")
    asset = info.get("id") if isinstance(info, dict) else None
    if not isinstance(asset, str) or not asset:
        raise MissingAsset(
            f"Node {place['node_id']}, input {place['input_name']}: a {ASSET_TAG} object needs info.id, an asset's id."
        )
    return asset
