"""Give every job its own output folder, by rewriting the file name prefixes in its graph."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from workflows.graph import Graph

DEFAULT_PREFIX = "ComfyUI"
_INPUT = "filename_prefix"
_MAX_CHARS = 100
#: A file name has at most 255 bytes on Linux; the counter and the extension come after the prefix.
_MAX_BYTES = 200
#: What ComfyUI's `get_save_image_path` and the save nodes fill in: numbers, so nothing that could change the folder.
_TOKEN = re.compile(r"%(?:width|height|year|month|day|hour|minute|second|batch_num)%")
_JOB_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}")
#: Not allowed in file names on some system, or special to a shell that handles the files later.
_SPECIAL = re.compile(r'[<>:"|?*~$`%]')


def for_job(graph: Graph, *, job_id: str) -> Graph:
    """A copy of the graph whose save nodes write below `<job_id>/`; the graph given is not changed.

    Every `filename_prefix` becomes `<job_id>/<its last path component, cleaned>`, or `<job_id>/ComfyUI` if nothing is
    left of it. A linked prefix is replaced as well: what it brings is known only while the graph runs.
    The prefix is part of ComfyUI's cache key, so no job is given an older job's file names.

    Raises:
      ValueError: the job id cannot be a folder name; ours always can.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError(f"not usable as a folder name: {job_id!r}")
    return {node_id: {**node, "inputs": _inputs(node["inputs"], job_id)} for node_id, node in graph.items()}


def _inputs(inputs: dict[str, Any], job_id: str) -> dict[str, Any]:
    return {
        name: f"{job_id}/{clean_prefix(value)}" if name == _INPUT or name.endswith(f".{_INPUT}") else value
        for name, value in inputs.items()
    }


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
