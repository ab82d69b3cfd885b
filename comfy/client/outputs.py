"""The results in a history entry, as one flat list of files, texts and JSON values."""

from __future__ import annotations

import json
import mimetypes
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from comfy.client.history import History
from core.output import Folder, Kind

_KIND_BY_KEY: dict[str, Kind] = {
    "images": "image",
    "gifs": "video",
    "video": "video",
    "videos": "video",
    "audio": "audio",
    "latents": "latent",
    "text": "text",
}
_KIND_BY_MAIN_TYPE: dict[str, Kind] = {"image": "image", "video": "video", "audio": "audio"}

#: What Python's own table lacks or has only in newer versions.
_CONTENT_TYPES = {
    ".avif": "image/avif",
    ".exr": "image/x-exr",
    ".flac": "audio/flac",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".jxl": "image/jxl",
    ".m4a": "audio/mp4",
    ".m4v": "video/x-m4v",
    ".mkv": "video/x-matroska",
    ".obj": "model/obj",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".stl": "model/stl",
    ".wav": "audio/wav",
    ".webp": "image/webp",
}
_OTHER = "application/octet-stream"
#: Not `mimetypes.guess_type`: that reads /etc/mime.types, and results would differ between machines.
_STANDARD_TYPES = mimetypes.MimeTypes()
#: A path may name its folder: `mesh.glb [output]`.
_ANNOTATED = re.compile(r"^(?P<path>.+?) \[(?P<folder>output|temp|input)\]$")
#: Keys that say something about the files beside them, or that there is nothing yet.
_FLAGS = frozenset({"animated", "unfinished_batch"})
_JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class ReportedOutput:
    """One result of one node: a file on the instance, or a text, which may be a JSON value."""

    #: Id in the submitted graph, also for nodes inside an expansion.
    node_id: str
    kind: Kind
    #: The node's own name for the list the item was in: "images", "gifs", "3d", ...
    key: str
    filename: str | None = None
    subfolder: str | None = None
    #: ComfyUI's directory that the file is in; it calls it the `type`.
    folder: Folder | None = None
    content_type: str = _OTHER
    #: Only texts, with `content_type` text/plain or application/json; then there is no file.
    text: str | None = None
    #: Whatever else the node said about the item.
    extra: Mapping[str, Any] = field(default_factory=dict)


def content_type_of(filename: str) -> str:
    """Guess by extension; `application/octet-stream` if it tells nothing."""
    extension = posixpath.splitext(filename)[1].lower()
    return _CONTENT_TYPES.get(extension) or _STANDARD_TYPES.guess_type("x" + extension)[0] or _OTHER


def outputs_of(history: History) -> list[ReportedOutput]:
    """All files, texts and values, in the order in which the nodes finished; a file that a node names twice, once.

    Results that came from ComfyUI's cache are included; they look like fresh ones. Nodes may return anything: strings,
    numbers and booleans become texts, all else JSON. What stands under `text` is one result each, what stands under
    another key one result together. Left out are null, what is empty, flags such as `animated: [true]`, unfinished
    batches of the VideoHelperSuite, and the camera data behind a 3D preview's path.
    """
    items: list[ReportedOutput] = []
    for node_id, results in history.outputs.items():
        owner = _graph_node(history, node_id)
        named = set()
        for key, values in results.items():
            for item in _items(owner, key, values):
                place = (item.folder, item.subfolder, item.filename)
                if item.filename is None or place not in named:
                    items.append(item)
                named.add(place)
    return items


def _items(node_id: str, key: str, values: object) -> Iterator[ReportedOutput]:
    values = values if isinstance(values, list) else [values]
    if key in _FLAGS:
        return
    if key == "result" and values and isinstance(values[0], str):
        path = _result_path(node_id, values)
        if path is not None:
            yield path
            return
    rest = []
    for value in values:
        if isinstance(value, dict) and isinstance(value.get("filename"), str) and value["filename"]:
            yield _file(node_id, key, value)
        elif key == "text" and value is not None:
            yield _value(node_id, key, value)
        elif value not in (None, "", [], {}) and not (isinstance(value, dict) and _FLAGS.issuperset(value)):
            rest.append(value)
    if rest:
        yield _value(node_id, key, rest[0] if len(rest) == 1 else rest)


def _value(node_id: str, key: str, value: Any) -> ReportedOutput:
    text = value if isinstance(value, str) else _json_text(value)
    content_type = _JSON if isinstance(value, (list, dict)) else "text/plain"
    return ReportedOutput(node_id=node_id, kind="text", key=key, content_type=content_type, text=text)


def _json_text(value: Any) -> str:
    """JSON that every reader takes: ASCII, and with what JSON has no numbers for as text, "NaN" for one."""
    try:
        return json.dumps(value, allow_nan=isinstance(value, float))
    except ValueError:
        return json.dumps(json.loads(json.dumps(value), parse_constant=str))


def local_path(item: ReportedOutput, data_dir: Path) -> Path | None:
    """Where the file of an output lies; None if it has none, or a name that leads out of its folder."""
    parts = [*(item.subfolder or "").replace("\\", "/").split("/"), *(item.filename or "").split("/")]
    if not item.filename or item.filename.startswith("/") or ".." in parts or any("\0" in part for part in parts):
        return None
    return (data_dir / (item.folder or "output")).joinpath(*(part for part in parts if part not in ("", ".")))


def file_item(node_id: str, filename: str, subfolder: str) -> ReportedOutput:
    """A file of the output folder that its node did not report."""
    return _file(node_id, "files", {"filename": filename, "subfolder": subfolder, "type": "output"})


def _file(node_id: str, key: str, value: Mapping[str, Any]) -> ReportedOutput:
    filename, subfolder, folder = value["filename"], str(value.get("subfolder") or ""), value.get("type")
    annotated = _ANNOTATED.match(filename)
    if annotated:
        filename, folder = annotated["path"], annotated["folder"]
    if "/" in filename.strip("/") and not filename.startswith("/"):
        # ComfyUI hands files out by their last name only.
        inner, filename = posixpath.split(filename)
        subfolder = posixpath.join(subfolder, inner)
    content_type = content_type_of(filename)
    return ReportedOutput(
        node_id=node_id,
        kind=_kind(key, content_type, filename),
        key=key,
        filename=filename,
        subfolder=subfolder,
        folder=folder if folder in ("output", "temp", "input") else "output",
        content_type=content_type,
        extra={name: entry for name, entry in value.items() if name not in ("filename", "subfolder", "type")},
    )


def _kind(key: str, content_type: str, filename: str) -> Kind:
    """The key says what the node meant, the file what it is: SaveVideo lists its mp4 under `images`."""
    by_content = _KIND_BY_MAIN_TYPE.get(content_type.partition("/")[0])
    if by_content in ("video", "audio"):
        return by_content
    if filename.endswith(".latent"):
        return "latent"
    by_key = _KIND_BY_KEY.get(key)
    if by_key is None or by_content == by_key:
        return by_content or "file"
    # A known type that is no medium (a mesh, a PDF, JSON) is not an image because it is in an image list.
    if by_content is None and content_type != _OTHER and by_key in ("image", "video", "audio"):
        return "file"
    return by_key


def _result_path(node_id: str, values: list[Any]) -> ReportedOutput | None:
    """Preview3D returns `[path, camera]` with the path relative to the output folder and no file item at all."""
    path, folder = str(values[0]).replace("\\", "/"), "output"
    annotated = _ANNOTATED.match(path)
    if annotated:
        path, folder = annotated["path"], annotated["folder"]
    subfolder, filename = posixpath.split(path)
    if not posixpath.splitext(filename)[1] or path.startswith("/") or ".." in path.split("/"):
        return None
    value = {"filename": filename, "subfolder": subfolder, "type": folder, "rest": values[1:]}
    return _file(node_id, "result", value)


def _graph_node(history: History, node_id: str) -> str:
    """The node of the submitted graph that made a result: nodes inside an expansion have ids such as `2.0.0.3`."""
    meta = history.meta.get(node_id, {})
    candidates = [node_id, *(meta.get(name) for name in ("real_node_id", "display_node", "parent_node"))]
    candidates.append(node_id.partition(".")[0])
    return next((str(candidate) for candidate in candidates if candidate in history.graph), node_id)
