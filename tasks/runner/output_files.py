"""From what an instance reports to the files a job has made, each with the place where the io worker finds it."""

from __future__ import annotations

import unicodedata
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from comfy.client.outputs import ReportedOutput, local_path
from core.records.instance import InstanceRecord
from core.records.output import FileSource, OutputFile
from core.texts.stored_json import whole_text

#: What the ledger's columns take.
MAX_NODE_ID_CHARS = 255
MAX_NAME_CHARS = 200
MAX_KEY_CHARS = 64
#: Longer texts are written to disk.
MAX_INLINE_CHARS = 64 * 1024


def output_files(job_id: str, items: list[ReportedOutput], instance: InstanceRecord) -> list[OutputFile]:
    """Make one record for each file or inline text, in the order of the job's nodes."""
    return [_output_file(job_id, item, number, instance) for number, item in enumerate(items)]


def written_down(files: list[OutputFile], folder: Path) -> list[OutputFile]:
    """Return the files with long texts written into `folder`, the job's own: the ledger is no place for megabytes."""
    return [_written_down(file, number, folder) for number, file in enumerate(files)]


def _written_down(file: OutputFile, number: int, folder: Path) -> OutputFile:
    text = file.source.text
    if text is None or len(text) <= MAX_INLINE_CHARS:
        return file
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"long_text_{number:05}"
    path.write_text(whole_text(text), encoding="utf-8")
    return replace(file, source=FileSource(root=str(folder.parent), path=str(path)))


def sent_files(job_id: str, pictures: list[tuple[str, bytes]], folder: Path) -> list[OutputFile]:
    """Write down the PNGs that nodes sent instead of saving; `folder` is the job's own, in the output directory."""
    if pictures:
        folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (node_id, data) in enumerate(pictures, start=1):
        path = folder / f"websocket_{number:05}_.png"
        path.write_bytes(data)
        files.append(
            OutputFile(
                id=str(uuid.uuid4()),
                job_id=job_id,
                node_id=node_id,
                name=path.name,
                kind="image",
                content_type="image/png",
                subfolder=folder.name,
                source=FileSource(root=str(folder.parent), path=str(path)),
            )
        )
    return files


def _output_file(job_id: str, item: ReportedOutput, number: int, instance: InstanceRecord) -> OutputFile:
    extension = "json" if item.content_type == "application/json" else "txt"
    return OutputFile(
        id=str(uuid.uuid4()),
        job_id=job_id,
        node_id=item.node_id[:MAX_NODE_ID_CHARS],
        name=_name(item.filename)
        if item.filename
        else f"text_{item.node_id}_{number:05}.{extension}"[-MAX_NAME_CHARS:],
        kind=item.kind,
        content_type=item.content_type,
        folder=item.folder or "output",
        comfy_key=_printable(item.key)[:MAX_KEY_CHARS],
        subfolder=_printable(item.subfolder or ""),
        source=_source(item, instance),
    )


def _name(filename: str) -> str:
    """Return the last name of a file, as far as a database can keep it, with its extension in any case."""
    name = _printable(filename.replace("\\", "/").rstrip("/").rpartition("/")[2]) or "output"
    return name if len(name) <= MAX_NAME_CHARS else name[: MAX_NAME_CHARS - 12] + name[-12:]


def _printable(text: str) -> str:
    # "Cc" is control, "Cs" surrogate characters: PostgreSQL takes neither NUL nor half a surrogate pair.
    return "".join(char for char in text if unicodedata.category(char) not in ("Cc", "Cs"))


def _source(item: ReportedOutput, instance: InstanceRecord) -> FileSource:
    if item.filename is None:
        return FileSource(text=whole_text(item.text or ""))
    # ComfyUI's word for the directory is also its name in the data directory of an instance of ours.
    folder = item.folder or "output"
    if instance.output_dir is not None:
        data_dir = Path(instance.output_dir).parent
        # A name that leads out of its folder is refused where it is stored, and told of there.
        path = local_path(item, data_dir) or data_dir / folder / (item.subfolder or "") / item.filename
        return FileSource(root=str(data_dir / folder), path=str(path))
    query: dict[str, Any] = {"filename": item.filename, "subfolder": item.subfolder or "", "type": folder}
    return FileSource(url=f"{instance.url}/view?{urlencode(query, errors='replace')}")
