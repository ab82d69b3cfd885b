"""Make a graph one job's own: its files go into its own folder, and its results are nobody else's cached ones."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from core.job_files import is_id, is_job_id, is_prefix, job_path
from workflows.graphs.graph import Graph, sources

DEFAULT_PREFIX = "ComfyUI"
#: An input that no class has. ComfyUI keeps it from the node, but all literal inputs are part of its cache key.
RUN_INPUT = "fleet_run"
#: Beginnings of the classes whose files have random names, or that only send them.
_PREVIEWS = ("Preview", "SaveImageWebsocket")
#: Inputs that name a folder below the output folder, of nodes that have a prefix beside it. Such a prefix is a plain
#: name: joined to the folder as it is, it would lead into one that nobody has made.
_FOLDERS = frozenset(
    {
        *("folder", "folder_name", "foldername", "subfolder", "sub_folder", "directory", "subdirectory", "path"),
        *("output_path", "output_folder", "output_dir", "output_directory"),
        *("save_path", "save_folder", "save_dir", "save_directory"),
        *("custom_path", "custom_folder", "custom_directory", "output_subfolder", "subfolder_name", "sub_directory"),
    }
)
#: Classes that make a path of the prefix although they take a folder beside it, and what that folder has to be: of any
#: other they think that it is somewhere else on the machine.
_OUTPUT_FOLDER = {"SaveImageKJ": "output", "SaveStringKJ": "output"}
#: What ComfyUI has noted beside a node's inputs in a file. Taken from there, it would be believed, though the file that
#: the node loads may have changed since, and the loop that it was in may be another.
_NOTES = frozenset({"is_changed", "_loop_body", "_loop_end"})
_MAX_DEPTH = 8
_MAX_CHARS = 100
#: A file name has at most 255 bytes on Linux; the counter and the extension come after the prefix.
_MAX_BYTES = 200
#: What ComfyUI's `get_save_image_path` and the save nodes fill in: numbers, so nothing that could change the folder.
_TOKEN = re.compile(r"%(?:width|height|year|month|day|hour|minute|second|batch_num)%")
#: Not allowed in file names on some system, or special to a shell that handles the files later.
_SPECIAL = re.compile(r'[<>:"|?*~$`%]')


def for_job(graph: Graph, *, job_id: str, run_id: str | None = None, run_anew: Collection[str] = ()) -> Graph:
    """A copy of the graph whose save nodes write below `<job_id>/`; the graph given is not changed.

    Every `filename_prefix` becomes `<job_id>/<its last path component, cleaned>`, or `<job_id>/ComfyUI` if nothing is
    left of it. A linked prefix is replaced as well: what it brings is known only while the graph runs. Where a class
    takes a folder beside the prefix, the folder goes below `<job_id>/` and the prefix stays a plain name. What ComfyUI
    has noted of an earlier run of the same graph is left out.
    The prefix is part of ComfyUI's cache key, so no job is given an older job's file names. A last node without one, a
    preview for instance, is told the run instead: served from the cache, it would name files that were moved away. The
    nodes before it stay as they are, and cached.

    Parameters:
      run_id: new for each prompt; None leaves the nodes without a prefix to the cache.
      run_anew: ids of further nodes that must run, with all that follows them.
    Raises:
      ValueError: the job id cannot be a folder name; ours always can.
    """
    if not is_id(job_id):
        raise ValueError(f"not usable as a folder name: {job_id!r}")
    rewritten = {
        node_id: {key: part for key, part in node.items() if key not in _NOTES} | {"inputs": _inputs(node, job_id)}
        for node_id, node in graph.items()
    }
    if run_id is None:
        return rewritten
    read = {source for node_id in graph for source in sources(graph, node_id)}
    for node_id, node in rewritten.items():
        if node_id in run_anew or (node_id not in read and not any(map(is_prefix, node["inputs"]))):
            node["inputs"][RUN_INPUT] = run_id
    return rewritten


def names_own_files(graph: Graph) -> bool:
    """Whether a last node may write files whose names no prefix of the job's makes its own.

    Previews do not count: ComfyUI's draw a random name.
    """
    read = {source for node_id in graph for source in sources(graph, node_id)}
    return any(
        node_id not in read and not any(map(is_prefix, node["inputs"])) and not node["class_type"].startswith(_PREVIEWS)
        for node_id, node in graph.items()
    )


def folders_of(graph: Graph, *, job_id: str) -> dict[str, str]:
    """The folders that nodes of a rewritten graph write into, relative to the output folder, by node id.

    Only those whose class takes a folder: such classes may report nothing of what they save.
    """
    found = {}
    for node_id, node in graph.items():
        if node["class_type"] in _OUTPUT_FOLDER:
            found[node_id] = job_id
            continue
        for name in _folder_inputs(node["inputs"]):
            if isinstance(value := node["inputs"][name], str) and (value == job_id or value.startswith(f"{job_id}/")):
                found[node_id] = value
    return found


def is_rewritten(inputs: Mapping[str, Any], name: str) -> bool:
    """Whether `for_job` puts something of its own into this input of a node."""
    return is_prefix(name) or name == RUN_INPUT or (name in _FOLDERS and name in _folder_inputs(inputs))


def _inputs(node: dict[str, Any], job_id: str) -> dict[str, Any]:
    inputs = node["inputs"]
    folders = _folder_inputs(inputs)
    output_folder = _OUTPUT_FOLDER.get(node["class_type"])
    rewritten = {}
    for name, value in inputs.items():
        if name in folders:
            rewritten[name] = output_folder or job_path(job_id, *clean_folder(value))
        elif is_prefix(name):
            is_name = bool(folders) and not output_folder
            rewritten[name] = clean_prefix(value) if is_name else job_path(job_id, clean_prefix(value))
        else:
            rewritten[name] = value
    return rewritten


def _folder_inputs(inputs: Mapping[str, Any]) -> set[str]:
    """Names of the inputs that say where a prefix is to be: a text, or a link that may bring one."""
    if not any(map(is_prefix, inputs)):
        return set()
    return {name for name in _FOLDERS.intersection(inputs) if isinstance(inputs[name], (str, list, dict))}


def clean_folder(value: Any) -> list[str]:
    """The parts of a relative path that cannot lead anywhere else; [] for what is no text, for one that is linked."""
    if isinstance(value, dict):
        value = value.get("__value__")
    if not isinstance(value, str):
        return []
    parts = [part for part in value.replace("\\", "/").split("/") if part.strip(" .~")]
    # What an earlier run of the same graph has put in front.
    parts = [part for part in parts if not is_job_id(part)]
    return [clean_prefix(part) for part in parts[-_MAX_DEPTH:]]


def clean_prefix(value: Any) -> str:
    """The last path component of a prefix, fit to be the beginning of a file name; `ComfyUI` if there is none.

    `%width%` and the other tokens that ComfyUI itself replaces by numbers stay; at most 100 characters.
    """
    if isinstance(value, dict):
        value = value.get("__value__")
    if not isinstance(value, str):
        return DEFAULT_PREFIX
    name = value.replace("\\", "/").rsplit("/", 1)[-1]
    # "C" is control, format (such as right-to-left override), surrogate, private and unassigned characters.
    name = "".join(char for char in name if unicodedata.category(char)[0] != "C" and char not in "\u2028\u2029")
    kept = _cut(_keep_tokens(name)).replace("..", "").strip(" .")
    return kept or DEFAULT_PREFIX


def _keep_tokens(name: str) -> str:
    pieces: list[str] = []
    end = 0
    for token in _TOKEN.finditer(name):
        pieces += [_SPECIAL.sub("", name[end : token.start()]), token.group()]
        end = token.end()
    return "".join([*pieces, _SPECIAL.sub("", name[end:])])


def _cut(name: str) -> str:
    """Shorten, without leaving half of a token at the end."""
    cut = name[:_MAX_CHARS]
    cut = cut.encode("utf-8")[:_MAX_BYTES].decode("utf-8", errors="ignore")
    return cut[: cut.rindex("%")] if cut.count("%") % 2 else cut
