"""Input files of a job, put where its graph can name them, on an instance whose folders we cannot write to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from comfy.client.client import ComfyClient
from core.errors import PromptRejected


def stage(client: ComfyClient, files: Mapping[str, Path | bytes]) -> None:
    """Upload the input files of one job. A second attempt overwrites what the first has sent.

    ComfyUI has no way to delete them again; they can be written over with nothing.

    Parameters:
      files: `{name: content}`, relative to the input folder, by the names the graph has for them.
    Raises:
      PromptRejected: the server refuses a file, mostly for its size, or has put it elsewhere.
      ComfyUnavailable: the server does not answer.
    """
    for reference, content in files.items():
        folder, _, name = reference.rpartition("/")
        uploaded = client.upload_image(content, name=name, subfolder=folder, overwrite=True)
        if uploaded.reference != reference:
            raise PromptRejected(f"ComfyUI stored the input file {reference} as {uploaded.reference}.")
