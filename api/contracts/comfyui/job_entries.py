"""Jobs as ComfyUI's newer versions list them, below `/api/jobs`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from api.contracts.comfyui.entries import (
    MESH_KEY,
    STATUS_WORDS,
    WORKFLOW_ID,
    ReadText,
    end_message,
    extra_data,
    file_item,
    history_status,
    label_of,
    number_of,
    outputs_by_node,
    prompt_id_of,
)
from core.ledger.job_pages import Submitted
from core.records.job import EXPIRED, FAILED, Job
from core.records.output import Output
from core.texts.json_types import JsonObject

#: Keys of results that the editor shows, and endings of files that it shows under any key.
_SHOWN_KEYS = frozenset({"images", "video", "audio", "3d", "text", MESH_KEY})
_MESHES = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
_TEXTS = (".txt", ".md", ".json")


def job_entry(job: Job) -> JsonObject:
    """Return what ComfyUI's `/api/jobs` says of a job in a list; what is not known is left out."""
    files = [output for output in job.outputs if output.kind != "text"]
    shown = [file for file in files if _is_shown(file)]
    found: JsonObject = {
        "id": prompt_id_of(job),
        "status": next(word for word, statuses in STATUS_WORDS.items() if job.status in statuses),
        "priority": number_of(job),
        "create_time": job.created_at_ms,
        "execution_start_time": job.started_at_ms,
        "execution_end_time": job.completed_at_ms if job.started_at_ms is not None else None,
        "execution_error": end_message(job)[1] if job.status in (FAILED, EXPIRED) else None,
        "outputs_count": len(files),
        "previewable_outputs_count": len(shown),
        "preview_output": _preview(shown),
        "workflow_id": label_of(job, WORKFLOW_ID),
    }
    return {name: value for name, value in found.items() if value is not None}


def whole_job_entry(job: Job, submitted: Submitted | None, read_text: ReadText) -> JsonObject:
    """Return what ComfyUI's `/api/jobs/{id}` says of a job."""
    found = job_entry(job)
    graph = {} if submitted is None else json.loads(submitted.graph)
    found["workflow"] = {"prompt": graph, "extra_data": extra_data(job, submitted)}
    if job.is_terminal:
        found |= {"outputs": _normal(outputs_by_node(job.outputs, read_text)), "execution_status": history_status(job)}
    return found


def _preview(shown: Sequence[Output]) -> JsonObject | None:
    # As ComfyUI chooses: what was saved before what was only shown, and texts when there is nothing else.
    for file in sorted(shown, key=lambda each: (_is_text(each), each.folder == "temp")):
        return _item(file)
    return None


def _item(output: Output) -> JsonObject:
    if output.comfy_key == MESH_KEY:
        item: JsonObject = {"filename": f"{output.job_id}/{output.stored_name}", "type": "output", "subfolder": ""}
        return {**item, "nodeId": output.node_id, "mediaType": "3d"}
    item = file_item(output) | ({"format": output.content_type} if output.comfy_key == "gifs" else {})
    return {**item, "nodeId": output.node_id, "mediaType": output.comfy_key}


def _is_shown(output: Output) -> bool:
    """Whether the editor can show a file: by the key of its node's result, by what it is, or by its name."""
    name = output.stored_name.lower()
    return (
        output.comfy_key in _SHOWN_KEYS
        or output.content_type.startswith(("video/", "audio/"))
        or name.endswith((*_MESHES, *_TEXTS))
    )


def _is_text(output: Output) -> bool:
    return output.comfy_key == "text" or output.stored_name.lower().endswith(_TEXTS)


def _normal(outputs: JsonObject) -> JsonObject:
    """The outputs of a job, in which the path of a mesh has become a file like others."""
    return {
        node: {key: [_mesh(item) if key == MESH_KEY else item for item in items] for key, items in found.items()}
        for node, found in outputs.items()
    }


def _mesh(item: Any) -> Any:
    if not isinstance(item, str) or not item.lower().endswith(_MESHES):
        return item
    return {"filename": item, "type": "output", "subfolder": "", "mediaType": "3d"}
