"""How ComfyUI itself answers errors: its words for a prompt that it refuses, and how a browser asks for a key."""

from __future__ import annotations

from typing import Annotated

from flask import Response
from pydantic import Field
from typing_extensions import TypedDict

from api.http.error_shapes import ErrorShape, error_headers, told_error
from api.http.errors import STATUS, json_response
from core.errors import ComfylineError, InvalidRequest, InvalidWorkflow, MissingAsset, Unauthorized
from core.texts.json_types import JsonObject

#: ComfyUI answers 400 to whatever is wrong with a request's content.
_STATUSES = STATUS | dict.fromkeys((InvalidRequest, InvalidWorkflow, MissingAsset), 400)


class ComfyuiErrorBodyView(TypedDict):
    type: Annotated[str, Field(description="ComfyUI's own word where it has one, else our code; for programs.")]
    message: Annotated[str, Field(description="For people.")]
    details: str
    extra_info: JsonObject


class ComfyuiErrorView(TypedDict):
    """What ComfyUI itself answers to a prompt that it refuses."""

    error: ComfyuiErrorBodyView
    node_errors: JsonObject


class ComfyuiShape(ErrorShape):
    """How ComfyUI itself answers errors."""

    @property
    def view(self) -> type[ComfyuiErrorView]:
        return ComfyuiErrorView

    def body(self, error: ComfylineError) -> ComfyuiErrorView:
        if isinstance(error, InvalidWorkflow):
            return refused_prompt(error)
        told = told_error(error, self.status(error))["error"]
        return comfyui_error(told["code"], told["message"], extra_info=told["details"])

    def response(self, error: ComfylineError) -> Response:
        headers = error_headers(error)
        if isinstance(error, Unauthorized):
            # A browser asks its user for a key then, and sends it with everything that its pages fetch from here.
            headers = {
                "WWW-Authenticate": 'Basic realm="Comfyline: any name, and a key as the password", charset="UTF-8"'
            }
        return json_response(self.body(error), self.status(error), headers)


COMFYUI = ComfyuiShape(statuses=_STATUSES)


def comfyui_error(
    kind: str,
    message: str,
    *,
    details: str = "",
    extra_info: JsonObject | None = None,
    node_errors: JsonObject | None = None,
) -> ComfyuiErrorView:
    """Return the body of an error of ComfyUI's own protocol. Parameters: kind - its `type`."""
    body: ComfyuiErrorBodyView = {"type": kind, "message": message, "details": details, "extra_info": extra_info or {}}
    return {"error": body, "node_errors": node_errors or {}}


def refused_prompt(error: InvalidWorkflow) -> ComfyuiErrorView:
    """Say why a prompt cannot run: in ComfyUI's words where it is a node's fault, else in ours."""
    found = [each for entry in error.node_errors.values() for each in entry["errors"]]
    for each in found:
        # ComfyUI looks no further then, and tells of it as the fault of the whole.
        if each["type"] == "missing_node_type":
            return comfyui_error(each["type"], each["message"], details=each["details"], extra_info=each["extra_info"])
    if found:
        return comfyui_error(
            "prompt_outputs_failed_validation",
            "Prompt outputs failed validation",
            details=error.message,
            node_errors=error.node_errors,
        )
    kind = "prompt_no_outputs" if type(error) is InvalidWorkflow else "invalid_prompt"
    return comfyui_error(kind, error.message)
