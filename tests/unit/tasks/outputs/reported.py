"""Files as an instance has left them, and the outputs that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.records.output import FileSource, OutputFile


def pending(source: dict[str, str], name: str = "a.png", asset_id: str = "1", **fields: Any) -> OutputFile:
    """One output of the job `job` on its way into storage.

    Parameters:
      source: the fields of its `FileSource`.
    """
    described: dict[str, Any] = {"node_id": "9", "content_type": "image/png", **fields}
    return OutputFile(id=asset_id, job_id="job", name=name, source=FileSource(**source), kind="image", **described)


def saved(folder: Path, name: str, content: bytes = b"picture") -> dict[str, str]:
    """Write a file into a folder of ComfyUI; returns where, as a `FileSource` has it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return {"root": str(folder), "path": str(folder / name)}
