"""Input files of a job, put where its graph can name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from comfy.client import ComfyClient

#: File systems stop at 255 bytes; this leaves room for the number in front.
_MAX_NAME_CHARS = 120


def stage(client: ComfyClient, files: Mapping[str, Path | bytes], *, job_id: str) -> dict[str, str]:
    """Upload the input files of one job and return the names to write into its graph.

    Each job has its own folder below ComfyUI's input folder, so names never meet those of other jobs, and a second
    attempt overwrites the first. ComfyUI has no way to delete them again: the owner of the folder does.

    Parameters:
      files: `{name: content}`; a name is what the graph calls the file now. Only its last path part is used.
      job_id: names the folder.
    Returns: `{name: "<job id>/<index>-<safe name>"}`, in the form that LoadImage and its like accept.
    Raises:
      PromptRejected: the server refuses a file, mostly for its size.
      ComfyUnavailable: the server does not answer.
    """
    staged = {}
    for index, (name, content) in enumerate(files.items()):
        uploaded = client.upload_image(content, name=f"{index}-{safe_name(name)}", subfolder=job_id, overwrite=True)
        staged[name] = uploaded.reference
    return staged


def safe_name(name: str) -> str:
    """A file name without folders or characters that mean something in paths, URLs or ComfyUI's `name [folder]`.

    The extension survives, since nodes go by it.
    """
    last = re.split(r"[\\/]", name)[-1]
    stem, dot, extension = last.rpartition(".")
    if not dot:
        stem, extension = extension, ""
    stem = re.sub(r"[^\w-]+", "_", stem, flags=re.ASCII).strip("_") or "file"
    extension = re.sub(r"[^A-Za-z0-9]+", "", extension)[:10]
    return stem[:_MAX_NAME_CHARS] + (f".{extension}" if extension else "")
