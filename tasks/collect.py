"""Takes the files of a prompt that has just ended into its job's own folder, where no later prompt writes."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy.client import ComfyClient
from comfy.outputs import OutputItem, file_item
from comfy.session import PromptResult
from core.ledger.instances import InstanceRecord

#: Classes whose files are `<prefix>_<number>.png`, or with two numbers where they do not write over others.
NUMBERING = ("SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder")


def collect(
    result: PromptResult,
    instance: InstanceRecord,
    client: ComfyClient,
    job_id: str,
    folders: Mapping[str, str] | None = None,
) -> tuple[PromptResult, set[str]]:
    """Secure the files of a prompt, before the next one can write over them or be given them from the cache.

    On an instance of ours, files outside `<job id>/` (previews, nodes that name their files themselves) are renamed
    into it, within their file system. What lies on another machine stays where it is.

    Parameters:
      folders: nodes that save into a folder, which may report nothing of it; see `folders_of`.
    Returns: the result with the names its files have now, and the ids of the nodes that ComfyUI's cache spared from
      running although their files are gone: they have to run again.
    Raises: ComfyUnavailable - an attached instance does not answer.
    """
    cached = set(result.cached_nodes)
    result = _with_unreported(result, instance, client, folders or {})
    if instance.output_dir is None:
        files = [item for item in result.outputs if item.filename and item.node_id in cached]
        return result, {item.node_id for item in files if not client.has(item)}
    data_dir = Path(instance.output_dir).parent
    moved: dict[Path, OutputItem] = {}
    gone: set[str] = set()
    items = []
    for item in result.outputs:
        path = local_path(item, data_dir)
        if path is None or item.type == "input":
            items.append(item)
            continue
        if path not in moved:
            moved[path] = _moved(item, path, data_dir / (item.type or "output"), job_id)
            if moved[path] is item and item.node_id in cached and not path.is_file():
                gone.add(item.node_id)
        items.append(replace(item, filename=moved[path].filename, subfolder=moved[path].subfolder))
    return replace(result, outputs=items), gone


def _with_unreported(
    result: PromptResult, instance: InstanceRecord, client: ComfyClient, folders: Mapping[str, str]
) -> PromptResult:
    """Add what lies in the folders of nodes that reported no file."""
    reporting = {item.node_id for item in result.outputs if item.filename}
    items = list(result.outputs)
    for node_id, folder in folders.items():
        if node_id not in reporting:
            node = result.history.graph.get(node_id, {})
            known = {(item.subfolder, item.filename) for item in items}
            names = _saved_there(node, folder, instance, client)
            items += [file_item(node_id, name, folder) for name in names if (folder, name) not in known]
    return replace(result, outputs=items)


def _saved_there(node: Mapping[str, Any], folder: str, instance: InstanceRecord, client: ComfyClient) -> list[str]:
    if instance.output_dir is not None:
        try:
            entries = sorted((Path(instance.output_dir) / folder).iterdir())
        except OSError:
            return []
        return [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_file()]
    # Over HTTP no folder can be listed, but ComfyUI's own savers number their files.
    if node.get("class_type") not in NUMBERING:
        return []
    return list(_numbered(node.get("inputs", {}), folder, client))


def _numbered(inputs: Mapping[str, Any], folder: str, client: ComfyClient) -> Iterator[str]:
    for number in itertools.count():
        middle = f"{number + 1:05}_{number:05}" if inputs.get("mode") == "increment" else f"{number:05}"
        stem = f"{inputs.get('filename_prefix')}_{middle}"
        if not client.has(file_item("", f"{stem}.png", folder)):
            return
        yield f"{stem}.png"
        if inputs.get("texts") is not None and client.has(file_item("", f"{stem}.txt", folder)):
            yield f"{stem}.txt"


def local_path(item: OutputItem, data_dir: Path) -> Path | None:
    """Where the file of an output lies; None if it has none, or a name that leads out of its folder."""
    parts = [*(item.subfolder or "").replace("\\", "/").split("/"), *(item.filename or "").split("/")]
    if not item.filename or item.filename.startswith("/") or ".." in parts or any("\0" in part for part in parts):
        return None
    return (data_dir / (item.type or "output")).joinpath(*(part for part in parts if part not in ("", ".")))


def _moved(item: OutputItem, path: Path, root: Path, job_id: str) -> OutputItem:
    """The item as it is called in the job's folder; the very same one if it stays where it is."""
    folder = root / job_id
    if folder in path.parents or not _is_own_file(path, root):
        return item
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = _free(path.name, {entry.name for entry in folder.iterdir()})
        path.rename(folder / name)
    except OSError:
        # Whoever stores it finds out what is wrong with it.
        return item
    return replace(item, filename=name, subfolder=job_id)


def _is_own_file(path: Path, root: Path) -> bool:
    try:
        return path.is_file() and path.resolve().is_relative_to(root.resolve())
    except OSError:
        # A name that is too long for a file system, for one.
        return False


def _free(name: str, taken: Collection[str]) -> str:
    number = 1
    candidate = name
    while candidate in taken:
        number += 1
        candidate = f"{number}_{name}"
    return candidate
