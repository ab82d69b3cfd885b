"""What ComfyUI says when it refuses a prompt or an upload, turned into our errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import requests

from comfy.client.transport import excerpt
from core.errors import NodeErrors, PromptRejected

#: More than this many node errors in the message hide the first; all of them are in `node_errors`.
_SHOWN_NODES = 3


def rejected_graph(response: requests.Response) -> PromptRejected:
    """For 400 (JSON `{"error", "node_errors"}`) and 413 (plain text) answers of `POST /prompt`."""
    if response.status_code == requests.codes.request_entity_too_large:
        return PromptRejected(f"the prompt is larger than this ComfyUI accepts: {excerpt(response)}")
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    body = body if isinstance(body, dict) else {}
    error, node_errors = body.get("error"), body.get("node_errors")
    node_errors = cleaned(node_errors) if isinstance(node_errors, dict) else {}
    return PromptRejected(_message(error, node_errors) or excerpt(response) or "the prompt was refused", node_errors)


def dropped_outputs(node_errors: NodeErrors) -> PromptRejected:
    """For a 200 that names invalid nodes: ComfyUI would run the other outputs, but a job runs whole or not at all."""
    node_errors = cleaned(node_errors)
    return PromptRejected(f"some outputs cannot run: {_summary(node_errors)}", node_errors)


def rejected_upload(response: requests.Response, name: str) -> PromptRejected:
    """For 400 (empty body: the name leads out of the folder) and 413 answers of `POST /upload/image`."""
    if response.status_code == requests.codes.request_entity_too_large:
        return PromptRejected(f"input file {name} is larger than this ComfyUI accepts: {excerpt(response)}")
    return PromptRejected(f"ComfyUI refuses the input file name {name!r}")


def cleaned(node_errors: Mapping[str, Any]) -> NodeErrors:
    """Return the errors without Python tracebacks and class names, which show paths of the GPU machine to clients."""
    result: NodeErrors = {}
    for node_id, entry in node_errors.items():
        if not isinstance(entry, dict):
            continue
        errors = [error for error in entry.get("errors") or [] if isinstance(error, dict)]
        result[str(node_id)] = {**entry, "errors": [_without_traceback(error) for error in errors]}
    return result


def _without_traceback(error: Mapping[str, Any]) -> dict[str, Any]:
    extra = error.get("extra_info")
    extra = extra if isinstance(extra, dict) else {}
    kept = {key: value for key, value in extra.items() if key not in ("traceback", "exception_type")}
    return {**error, "extra_info": kept}


def _message(error: object, node_errors: NodeErrors) -> str:
    if not isinstance(error, dict):
        return str(error) if error else ""
    message = str(error.get("message") or error.get("type") or "the prompt was refused")
    if node_errors:
        return f"{message}: {_summary(node_errors)}"
    if error.get("details"):
        return f"{message.rstrip('.')}: {error['details']}"
    if error.get("type") == "prompt_outputs_failed_validation":
        # ComfyUI names neither node nor reason when links go in a circle.
        return f"{message}, without a reason given: do its links form a cycle?"
    return message


def _summary(node_errors: NodeErrors) -> str:
    parts = []
    for node_id, entry in list(node_errors.items())[:_SHOWN_NODES]:
        first = entry["errors"][0] if entry["errors"] else {}
        text = ": ".join(str(part).rstrip(".") for part in (first.get("message"), first.get("details")) if part)
        parts.append(f"node {node_id} ({entry.get('class_type')}): {text or 'invalid'}")
    hidden = len(node_errors) - len(parts)
    return "; ".join(parts) + (f"; and {hidden} more" if hidden else "")
