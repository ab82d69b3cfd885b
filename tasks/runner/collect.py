"""Takes the files of a prompt that has just ended into its job's own folder, where no later prompt writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy.client.client import ComfyClient
from comfy.client.outputs import ReportedOutput, file_item, local_path
from comfy.prompts.session import PromptResult
from core.errors import ComfyUnavailable
from core.job_files import PREFIX, job_folder
from core.ledger import Ledger
from core.records.instance import InstanceRecord
from tasks.runner.recorder import persistently
from tasks.runner.reporter import SENDING_CLASS
from workflows.graphs.file_names import job_in_path
from workflows.graphs.graph import Graph
from workflows.graphs.rewrite import folders_of

#: Classes whose files are `<prefix>_<number>.png`, or with two numbers where they do not write over others.
NUMBERING = ("SaveImageDataSetToFolder", "SaveImageTextDataSetToFolder")
#: Those whose files are `<prefix>_<number>_.png`, with a text of the same name if they are given one.
COUNTING = ("SaveImageKJ",)
#: Files of one such node that are looked for over HTTP.
MAX_NUMBERED = 10_000


class Collector:
    """What one runner knows of the nodes of its instance, and of other jobs, when it secures files."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        #: Classes that gave a graph in their place whose nodes reported outputs: from the cache they report none. And
        #: those in the middle of graphs that the cache spared although their files were taken, as they always are.
        self._to_run: set[str] = set()

    def nodes_to_run(self, graph: Graph) -> list[str]:
        """Return the nodes of a graph that ComfyUI's cache must not spare, as far as earlier prompts have shown."""
        return [node_id for node_id, node in graph.items() if node["class_type"] in self._to_run]

    def collect(
        self, result: PromptResult, graph: Graph, instance: InstanceRecord, client: ComfyClient, job_id: str
    ) -> tuple[PromptResult, set[str]]:
        """Secure the files of a prompt, before the next one can write over them or be given them from the cache.

        On an instance of ours, files outside `<job id>/` (previews, nodes that name their files themselves) are renamed
        into it, within their file system. What lies on another machine stays where it is.

        Parameters:
          graph: as it was posted; nodes of it that save into a folder may report nothing of it, see `folders_of`.
        Returns: the result with the names its files have now, and the ids of the nodes that ComfyUI's cache spared from
          running although their files are gone: they have to run again.
        Raises: ComfyUnavailable - an attached instance does not answer.
        """
        for node_id, meta in result.history.meta.items():
            owner = graph.get(str(meta.get("parent_node")))
            if node_id not in graph and owner is not None:
                self._to_run.add(owner["class_type"])
        result = self._without_foreign(result, job_id)
        result = _with_unreported(result, instance, client, folders_of(graph, job_id=job_id), graph)
        if instance.output_dir is not None:
            result, gone = _secured(result, Path(instance.output_dir).parent, job_id)
            self._to_run.update(graph[node_id]["class_type"] for node_id in gone if node_id in graph)
            return result, gone
        cached = [item for item in result.outputs if item.filename and item.node_id in result.cached_nodes]
        return result, {item.node_id for item in cached if not client.has(item)}

    def _without_foreign(self, result: PromptResult, job_id: str) -> PromptResult:
        """Leave out outputs of other jobs, to which a graph may have put a path together while it ran."""
        owners = [job_in_path(f"{item.subfolder}/{item.filename}") for item in result.outputs]
        others = {owner for owner in owners if owner is not None} - {job_id}
        known = persistently(lambda: self._ledger.jobs.states(list(others))) if others else {}
        if not known:
            return result
        items = [
            # Where nobody hands anything out: it is told of as missing.
            replace(item, subfolder="..") if owner in known else item
            for item, owner in zip(result.outputs, owners, strict=True)
        ]
        return replace(result, outputs=items)


def _secured(result: PromptResult, data_dir: Path, job_id: str) -> tuple[PromptResult, set[str]]:
    moved: dict[Path, ReportedOutput] = {}
    gone: set[str] = set()
    items = []
    for item in result.outputs:
        path = local_path(item, data_dir)
        if path is None or item.folder == "input":
            items.append(item)
            continue
        root = data_dir / (item.folder or "output")
        if path not in moved:
            moved[path] = _moved(item, path, root, job_id)
            if moved[path] is item and item.node_id in result.cached_nodes and not _is_own_file(path, root):
                gone.add(item.node_id)
        items.append(replace(item, filename=moved[path].filename, subfolder=moved[path].subfolder))
    return replace(result, outputs=items), gone


def _with_unreported(
    result: PromptResult, instance: InstanceRecord, client: ComfyClient, folders: Mapping[str, str], graph: Graph
) -> PromptResult:
    """Add what lies in the folders of nodes that reported no file."""
    reporting = {item.node_id for item in result.outputs if item.filename}
    items = list(result.outputs)
    for node_id, folder in folders.items():
        if node_id not in reporting:
            known = {(item.subfolder, item.filename) for item in items}
            names = _saved_there(graph[node_id], folder, instance, client)
            items += [file_item(node_id, name, folder) for name in names if (folder, name) not in known]
    return replace(result, outputs=items)


def _saved_there(node: Mapping[str, Any], folder: str, instance: InstanceRecord, client: ComfyClient) -> list[str]:
    # Where the folder is the job's own, other nodes have saved there, too.
    prefix = str(node["inputs"].get(PREFIX))
    beginning = f"{prefix.partition('/')[2]}_" if prefix.startswith(f"{folder}/") else ""
    if instance.output_dir is not None:
        try:
            entries = sorted((Path(instance.output_dir) / folder).iterdir())
        except OSError:
            return []
        return [
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and entry.name.startswith(beginning) and entry.is_file()
        ]
    # Over HTTP no folder can be listed, but ComfyUI's own savers number their files.
    if node["class_type"] in NUMBERING:
        return list(_numbered(node["inputs"], folder, client))
    return list(_counted(beginning, node["inputs"], folder, client)) if node["class_type"] in COUNTING else []


def _numbered(inputs: Mapping[str, Any], folder: str, client: ComfyClient) -> Iterator[str]:
    for number in range(MAX_NUMBERED):
        middle = f"{number + 1:05}_{number:05}" if inputs.get("mode") == "increment" else f"{number:05}"
        stem = f"{inputs.get('filename_prefix')}_{middle}"
        if not client.has(file_item("", f"{stem}.png", folder)):
            return
        yield f"{stem}.png"
        if inputs.get("texts") is not None and client.has(file_item("", f"{stem}.txt", folder)):
            yield f"{stem}.txt"


def _counted(beginning: str, inputs: Mapping[str, Any], folder: str, client: ComfyClient) -> Iterator[str]:
    extension = str(inputs.get("caption_file_extension") or ".txt")
    for number in range(1, MAX_NUMBERED + 1):
        stem = f"{beginning}{number:05}_"
        if not client.has(file_item("", f"{stem}.png", folder)):
            return
        yield f"{stem}.png"
        if inputs.get("caption") is not None and client.has(file_item("", f"{stem}{extension}", folder)):
            yield f"{stem}{extension}"


def _moved(item: ReportedOutput, path: Path, root: Path, job_id: str) -> ReportedOutput:
    """The item as it is called in the job's folder; the very same one if it stays where it is."""
    folder = job_folder(root, job_id)
    if folder in path.parents or not _is_own_file(path, root):
        return item
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = _free(path.name, folder)
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


def _free(name: str, folder: Path) -> str:
    number = 1
    candidate = name
    while (folder / candidate).exists():
        number += 1
        candidate = f"{number}_{name}"
    return candidate


def require_sent_pictures(graph: Graph, sent: Sequence[tuple[str, bytes]], result: PromptResult) -> None:
    """Raise ComfyUnavailable if pictures that a node sent over the websocket were lost with it: they exist nowhere."""
    arrived = {node_id for node_id, _ in sent}
    senders = {node_id for node_id, node in graph.items() if node["class_type"] == SENDING_CLASS}
    if result.is_heard_in_part and not senders <= arrived:
        raise ComfyUnavailable(f"ComfyUI's websocket was away, and with it what {SENDING_CLASS} sent")
