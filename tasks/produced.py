"""From what an instance reports to the files a job has made, each with the place where the io worker finds it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from comfy.outputs import OutputItem
from core.ledger.claims import ProducedFile
from core.ledger.instances import InstanceRecord
from core.stored_json import whole_text


def produced_files(items: list[OutputItem], instance: InstanceRecord) -> list[ProducedFile]:
    """One record for each file or inline text, in the order of the job's nodes."""
    return [_produced(item, number, instance) for number, item in enumerate(items)]


def sent_files(pictures: list[tuple[str, bytes]], folder: Path) -> list[ProducedFile]:
    """Write down the PNGs that nodes sent instead of saving; `folder` is the job's own, in the output directory."""
    if pictures:
        folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, (node_id, data) in enumerate(pictures, start=1):
        path = folder / f"websocket_{number:05}_.png"
        path.write_bytes(data)
        files.append(
            ProducedFile(
                asset_id=str(uuid.uuid4()),
                node_id=node_id,
                name=path.name,
                type="image",
                content_type="image/png",
                comfy_type="output",
                comfy_key="images",
                subfolder=folder.name,
                source={"root": str(folder.parent), "path": str(path)},
            )
        )
    return files


def _produced(item: OutputItem, number: int, instance: InstanceRecord) -> ProducedFile:
    return ProducedFile(
        asset_id=str(uuid.uuid4()),
        node_id=whole_text(item.node_id),
        name=whole_text(item.filename or f"text_{item.node_id}_{number:05}.txt"),
        type=item.kind,
        content_type=item.content_type,
        comfy_type=item.type or "output",
        comfy_key=whole_text(item.key),
        subfolder=whole_text(item.subfolder or ""),
        source=_source(item, instance),
    )


def _source(item: OutputItem, instance: InstanceRecord) -> dict[str, str]:
    if item.filename is None:
        return {"text": whole_text(item.text or "")}
    # ComfyUI's word for the directory is also its name in the data directory of an instance of ours.
    folder = item.type or "output"
    if instance.output_dir is not None:
        root = Path(instance.output_dir).parent / folder
        return {"root": str(root), "path": str(root / (item.subfolder or "") / item.filename)}
    query: dict[str, Any] = {"filename": item.filename, "subfolder": item.subfolder or "", "type": folder}
    return {"url": f"{instance.url}/view?{urlencode(query)}"}
