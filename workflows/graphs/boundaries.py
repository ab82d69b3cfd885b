"""What a graph may not reach whatever its server says: files of other jobs, and folders outside of ComfyUI's own."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from workflows.graphs import node_errors as errors
from workflows.graphs.catalogue import ANY_TYPE, InputSpec, NodeSpec, is_structured
from workflows.graphs.file_names import MAX_PATH_CHARS, job_in_path, leads_elsewhere, names_a_jobs_file
from workflows.graphs.node_errors import Error
from workflows.graphs.rewrite import is_rewritten

#: Inputs that name a file or a folder of the input folder without an upload button, which the server opens as they are.
OPENED = {
    "LoadLatent": "latent",
    "OpenAIInputFiles": "file",
    "GeminiInputFiles": "file",
    "LoadImageSetFromFolderNode": "folder",
    "LoadImageTextSetFromFolderNode": "folder",
    "LoadImageDataSetFromFolder": "folder",
    "LoadImageTextDataSetFromFolder": "folder",
    "LoadVideoDataSetFromFolder": "folder",
    "LoadVideoTextDataSetFromFolder": "folder",
}
#: Folders of the input folder in which files of many jobs may lie side by side.
_SHARED_FOLDERS = frozenset({"", ".", "3d"})
#: Types whose literals are no paths, or are looked at by other rules.
_PLAIN_TYPES = frozenset({"INT", "FLOAT", "BOOLEAN", "COMBO", "STRING", ANY_TYPE})
#: Words in the names of inputs that take a path.
_PATH_WORD = re.compile(r"(?:^|[_.])(?:path|dir|directory|folder|subfolder|foldername)(?:$|[_.])", re.IGNORECASE)
#: ComfyUI's own address of a file, no path of any.
_VIEW = re.compile(r"/(?:api/)?view\?")
_ABSOLUTE = re.compile(r"[\\/~]|[A-Za-z]:[\\/]")
#: A text with none of these is no path out of a folder, and one shorter than an id leads to no job's files.
_PATH_MARKS, _ID_CHARS = ("/", "\\", "~", "..", "]", "\0"), 36
#: A list is a link, or meant as one.
_WITHOUT_TEXTS = frozenset({int, float, bool, list})

#: By node id, input names and texts in them.
Paths: TypeAlias = Mapping[str, Sequence[tuple[str, str]]]


def paths_in(inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and texts of one node's inputs that any rule about paths has to look at: few, and in most nodes none.

    What `for_job` replaces is not among them, and no part of what may be a link.
    """
    for name, value in inputs.items():
        if type(value) in _WITHOUT_TEXTS:
            continue
        for text in (value,) if type(value) is str else _texts(value):
            is_path = len(text) >= _ID_CHARS or _has_path_mark(text)
            if is_path and not is_rewritten(inputs, name):
                yield name, text


def boundary_errors(node: Mapping[str, Any], spec: NodeSpec, staged_files: Collection[str]) -> list[Error]:
    """What one node names that is not its job's to reach, whether the node will run or not.

    Parameters:
      staged_files: names of the job's own input files.
    """
    inputs, problems = node["inputs"], []
    opened = OPENED.get(spec.class_type)
    for name, value in inputs.items():
        if is_rewritten(inputs, name):
            continue
        declared = spec.by_name.get(name)
        if type(value) is list:
            if name == opened:
                reason = "what is read from the disk must be named here, it cannot be linked"
                problems.append(errors.bad_link(name, None, value, reason))
            continue
        for text in _texts(value):
            if text in staged_files:
                continue
            if _is_foreign(spec, declared, name, text) or (
                name == opened and (leads_elsewhere(text) or _is_shared(opened, text))
            ):
                problems.append(errors.bad_file(name, (declared.file_kind if declared else None) or "", text))
                break
    return problems


def jobs_named(paths: Paths) -> dict[str, tuple[str, str]]:
    """Ids that paths in a graph lead to the files of, if they are jobs: `{id: (node id, input name)}`."""
    found: dict[str, tuple[str, str]] = {}
    for node_id, texts in paths.items():
        for name, text in texts:
            if job_id := job_in_path(text):
                found.setdefault(job_id, (node_id, name))
    return found


def absolute_paths(paths: Paths) -> Iterator[tuple[str, str, Path]]:
    """`(node id, input name, path)` for each literal that may be an absolute path of the GPU machine."""
    for node_id, texts in paths.items():
        for name, text in texts:
            # A text that is short, one line, and not just a slash in a field that takes no path.
            if text.startswith("/") and len(text) <= MAX_PATH_CHARS and "\n" not in text and "\0" not in text:
                path = Path(posixpath.normpath(text))
                if len(path.parts) > 2 or _PATH_WORD.search(name):
                    yield node_id, name, path


def _is_foreign(spec: NodeSpec, declared: InputSpec | None, name: str, text: str) -> bool:
    if declared is not None and declared.type != "STRING":
        if isinstance(declared.type, list) or declared.type == "COMBO":
            return names_a_jobs_file(text)
        # Literals of sockets: what the editor's webcams, recorders, painters and 3D views have stored.
        is_plain = declared.type in _PLAIN_TYPES or is_structured(declared.type)
        return not is_plain and _may_be_path(text) and (leads_elsewhere(text) or names_a_jobs_file(text))
    if not _PATH_WORD.search(name) or "://" in text:
        return False
    if ".." in re.split(r"[\\/]", text):
        return True
    # Reading where the operator keeps files is his nodes' business; nothing is written there.
    return spec.output_node and _ABSOLUTE.match(text) is not None


def _may_be_path(text: str) -> bool:
    """Not what packs keep in types of their own: prompts of many lines, and addresses that their players show."""
    return len(text) <= MAX_PATH_CHARS and "\n" not in text and not _VIEW.match(text)


def _is_shared(opened: str | None, text: str) -> bool:
    # Some file systems do not tell large letters from small ones.
    return opened == "folder" and posixpath.normpath(text.strip().strip("/")).lower() in _SHARED_FOLDERS


@lru_cache(maxsize=4096)
def _has_path_mark(short_text: str) -> bool:
    """Kept, since the short texts of most graphs are the same few names of options."""
    return any(mark in short_text for mark in _PATH_MARKS)


def _texts(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            pending += part.values()
        elif isinstance(part, list):
            pending += part
