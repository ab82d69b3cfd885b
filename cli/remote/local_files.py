"""Files of this machine that a job needs: sent to the server, and named in the graph by what they have become there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol

from cli.remote.answers import RequestRefused
from cli.remote.client import Client
from cli.remote.download import OnBytes
from cli.remote.written_files import is_file
from core.errors import ConfigurationError
from core.texts.json_types import JsonObject

#: A value is only taken for a file if it ends like one that people make: models and texts stay where they are.
EXTENSIONS = frozenset(
    f".{ending}"
    for endings in (
        "avif bmp gif heic jpeg jpg png tif tiff webp",
        "avi m4v mkv mov mp4 webm",
        "aac flac m4a mp3 ogg opus wav",
        "fbx glb gltf obj ply spz stl",
        "latent",
    )
    for ending in endings.split()
)
ASSET_TAG = "core/ASSET"


class Shown(Protocol):
    """Where what becomes of the files is shown."""

    def transfer(self, name: str) -> AbstractContextManager[OnBytes | None]:
        """Show how much of a file has gone while the block lasts."""

    def line(self, text: str) -> None:
        """Show a line."""


def upload(client: Client, file: Path, shown: Shown) -> JsonObject:
    """Send a file, with a bar on a terminal; returns its asset, `{"id", "size_bytes", ...}`.

    Raises:
      ConfigurationError: the file cannot be read.
      RequestRefused: the server does not take it; the message names the file.
    """
    try:
        with file.open("rb") as source, shown.transfer(file.name) as on_bytes:
            return client.upload_asset(source, file.name, on_bytes)
    except OSError as exc:
        raise ConfigurationError(f"{file} cannot be read: {exc.strerror}.") from exc
    except RequestRefused as exc:
        raise RequestRefused(f"{file}: {exc}", exc.envelope) from exc


def prepared(workflow: JsonObject, folder: Path, client: Client, shown: Shown) -> tuple[JsonObject, JsonObject]:
    """A workflow with the files of this machine uploaded that it names, and what to send beside it.

    What the editor saves is converted first if it names any; it then goes into the outputs, as the server does it.
    """
    graph = client.convert(workflow)
    if graph != workflow and not any(local_files(graph, folder)):
        return workflow, {}
    uploaded = with_uploads(graph, folder, client, shown)
    return uploaded, {} if graph == workflow else {"extra_data": {"extra_pnginfo": {"workflow": workflow}}}


def with_uploads(graph: Mapping[str, Any], folder: Path, client: Client, shown: Shown) -> JsonObject:
    """The graph with every file of this machine uploaded that its loaders name; each file is sent once.

    Parameters:
      folder: where names are looked up that begin with no slash: the graph's own folder.
    """
    nodes = dict(graph)
    assets: dict[tuple[Path, str], str] = {}
    for node_id, name, file in local_files(graph, folder):
        # Behind a link's name too it is the same file, unless a loader would see another ending.
        same = (file.resolve(), file.suffix.lower())
        if same not in assets:
            assets[same] = str(upload(client, file, shown)["id"])
            shown.line(f"Uploaded {file} for node {node_id} ({graph[node_id]['class_type']}.{name})")
        tagged = {"__type": ASSET_TAG, "info": {"id": assets[same]}}
        node = nodes[node_id]
        nodes[node_id] = {**node, "inputs": {**node["inputs"], name: tagged}}
    return nodes


def local_files(graph: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, str, Path]]:
    """`(node id, input name, file)` for each input of a loader that names a file there is."""
    for node_id, node in graph.items():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(inputs, dict) or "load" not in str(node.get("class_type")).lower():
            continue
        for name, value in inputs.items():
            file = _named(value, folder) if isinstance(value, str) else None
            if file is not None:
                yield node_id, name, file


def _named(value: str, folder: Path) -> Path | None:
    # The editor writes "photo.png [input]" for what lies in a folder of ComfyUI's own.
    if Path(value).suffix.lower() not in EXTENSIONS or "\0" in value:
        return None
    file = folder / value
    # It fails where there is no such user: then the tilde is a letter like any other.
    with suppress(RuntimeError):
        file = folder / Path(value).expanduser()
    return file if is_file(file) else None
