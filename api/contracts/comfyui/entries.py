"""Jobs in ComfyUI's words: items of its queue, entries of its history, and what it calls jobs itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from core.ledger.job_pages import Submitted
from core.records.job import (
    CANCELED,
    CANCELING,
    DELIVERING,
    EXPIRED,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    Job,
    Status,
)
from core.records.job_error import JobError
from core.records.output import Output
from core.texts.json_types import JsonObject

#: In ComfyUI's queue as what is running; storing outputs is part of that.
IN_PROGRESS: tuple[Status, ...] = (RUNNING, CANCELING, DELIVERING)
WAITING: tuple[Status, ...] = (QUEUED,)
ACTIVE: tuple[Status, ...] = (*WAITING, *IN_PROGRESS)
ENDED: tuple[Status, ...] = (SUCCEEDED, FAILED, CANCELED, EXPIRED)
#: ComfyUI's own words for how a job is, in the order in which its errors name them.
STATUS_WORDS: Mapping[str, tuple[Status, ...]] = {
    "pending": WAITING,
    "in_progress": IN_PROGRESS,
    "completed": (SUCCEEDED,),
    "failed": (FAILED, EXPIRED),
    "cancelled": (CANCELED,),
}
#: Labels under which a job keeps what ComfyUI's clients say of it.
CLIENT_ID, WORKFLOW_ID = "client_id", "workflow_id"
#: The key under which 3D previews name what they show.
MESH_KEY = "result"
#: Texts that nodes made are files here; more than this is not read for one answer.
MAX_TEXT_BYTES, MAX_TEXTS = 64 * 1024, 50

#: Returns the text of an output; None where it is not to be had now.
ReadText: TypeAlias = Callable[[Output], str | None]
#: Returns the ids of a graph's output nodes.
OutputNodes: TypeAlias = Callable[[Any], list[str]]


def prompt_id_of(job: Job) -> str:
    """Return the id by which clients of this protocol know a job: their own where they brought one."""
    return job.request_id or job.id


def label_of(job: Job, name: str) -> str | None:
    """Return what a client said of its job under `CLIENT_ID` or `WORKFLOW_ID`."""
    found = job.metadata.get(name) if isinstance(job.metadata, dict) else None
    return found if isinstance(found, str) else None


def number_of(job: Job) -> int:
    """Return the place of a job, by which ComfyUI sorts: the later the larger, and below zero what goes before."""
    return -job.created_at_ms if job.priority > 0 else job.created_at_ms


def queue_item(job: Job, submitted: Submitted | None, output_nodes: OutputNodes) -> list[Any]:
    """Return `[number, prompt id, graph, extra data, ids of output nodes]`."""
    graph = {} if submitted is None else json.loads(submitted.graph)
    return [number_of(job), prompt_id_of(job), graph, extra_data(job, submitted), output_nodes(graph)]


def extra_data(job: Job, submitted: Submitted | None) -> JsonObject:
    """Return what a client sent beside its graph, without secrets."""
    found: JsonObject = {"create_time": job.created_at_ms}
    if (client_id := label_of(job, CLIENT_ID)) is not None:
        found["client_id"] = client_id
    if submitted is not None and submitted.extra_pnginfo is not None:
        found["extra_pnginfo"] = json.loads(submitted.extra_pnginfo)
    return found


def history_entry(job: Job, submitted: Submitted | None, output_nodes: OutputNodes, read_text: ReadText) -> JsonObject:
    """Return the entry of an ended job."""
    outputs = outputs_by_node(job.outputs, read_text)
    return {
        "prompt": queue_item(job, submitted, output_nodes),
        "outputs": outputs,
        "status": history_status(job),
        "meta": {node: node_names(node) for node in outputs},
    }


def history_status(job: Job) -> JsonObject:
    """Return how a job ended, with the messages that its client was sent of that."""
    is_success = job.status == SUCCEEDED
    return {
        "status_str": "success" if is_success else "error",
        "completed": is_success,
        "messages": [[kind, data] for kind, data in [*beginning(job), end_message(job)]],
    }


def beginning(job: Job) -> list[tuple[str, JsonObject]]:
    """Return the messages with which a job begins; none of one that never did."""
    if job.started_at_ms is None:
        return []
    told = {"prompt_id": prompt_id_of(job), "timestamp": job.started_at_ms}
    return [("execution_start", told), ("execution_cached", {"nodes": [], **told})]


def end_message(job: Job) -> tuple[str, JsonObject]:
    """Return the message with which a job ends, and the data of it."""
    told: JsonObject = {"prompt_id": prompt_id_of(job), "timestamp": job.completed_at_ms or job.updated_at_ms}
    if job.status == SUCCEEDED:
        return "execution_success", told
    if job.status == CANCELED:
        progress = job.progress
        node, kind = (None, None) if progress is None else (progress.current_node, progress.current_node_class)
        return "execution_interrupted", {**told, "node_id": node, "node_type": kind, "executed": []}
    return "execution_error", {**told, **error_fields(job.error or JobError())}


def error_fields(error: JobError) -> JsonObject:
    """Return what ComfyUI says of an error. The class of the exception is not kept: its place has our code."""
    return {
        "node_id": error.node_id,
        "node_type": error.class_type,
        "executed": [],
        "exception_message": error.message,
        "exception_type": error.code,
        "traceback": (error.traceback or "").splitlines(keepends=True),
        "current_inputs": {},
        "current_outputs": [],
    }


def node_names(node: str) -> JsonObject:
    """Return under which names ComfyUI tells of a node: one of the submitted graph has but one."""
    return {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}


def outputs_by_node(outputs: Sequence[Output], read_text: ReadText) -> JsonObject:
    """Return `{node id: {key: [items]}}`. Files are named so that `/view` finds them."""
    found: dict[str, dict[str, list[Any]]] = {}
    texts = 0
    for output in outputs:
        items = found.setdefault(output.node_id, {}).setdefault(output.comfy_key, [])
        if output.kind != "text":
            items.append(_item(output))
        elif texts < MAX_TEXTS and output.size_bytes <= MAX_TEXT_BYTES and (text := read_text(output)) is not None:
            texts += 1
            items.append(_value(output, text))
        if output.kind == "video" and output.comfy_key == "images":
            # By which the editor knows what to show it as.
            found[output.node_id]["animated"] = [True]
    return found


def file_item(output: Output) -> JsonObject:
    """Return how a file is named: below a folder of its job's own."""
    return {"filename": output.stored_name, "subfolder": output.job_id, "type": _folder(output)}


def _folder(output: Output) -> str:
    return "temp" if output.folder == "temp" else "output"


def _item(output: Output) -> Any:
    if output.comfy_key == MESH_KEY:
        # 3D previews name a path, and no file item.
        return f"{output.job_id}/{output.stored_name}"
    return file_item(output) | ({"format": output.content_type} if output.comfy_key == "gifs" else {})


def _value(output: Output, text: str) -> Any:
    if output.content_type != "application/json":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
