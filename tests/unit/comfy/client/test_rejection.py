"""Refusals as real servers (0.3.64, 0.10.0) answer them, turned into one readable error."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from comfy.client.rejection import dropped_outputs, rejected_graph

MISSING_FILE = {
    "1": {
        "errors": [
            {
                "type": "custom_validation_failed",
                "message": "Custom validation failed for node",
                "details": "image - Invalid image file: zzz.png",
                "extra_info": {"input_name": "image"},
            }
        ],
        "dependent_outputs": ["2"],
        "class_type": "LoadImage",
    }
}


def _response(status: int, body: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response._content = body
    return response


def _refusal(error: dict[str, Any], node_errors: dict[str, Any]) -> requests.Response:
    return _response(400, json.dumps({"error": error, "node_errors": node_errors}).encode())


def _error(kind: str, message: str, details: str = "") -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def test_the_first_node_error_is_in_the_message() -> None:
    error = _error("prompt_outputs_failed_validation", "Prompt outputs failed validation")
    rejected = rejected_graph(_refusal(error, MISSING_FILE))
    assert rejected.message == (
        "Prompt outputs failed validation: node 1 (LoadImage): "
        "Custom validation failed for node: image - Invalid image file: zzz.png"
    )
    assert rejected.node_errors == MISSING_FILE


def test_an_unknown_class_is_named() -> None:
    message = "Cannot execute because node Nope does not exist."
    rejected = rejected_graph(_refusal(_error("invalid_prompt", message, "Node ID '#1'"), {}))
    assert rejected.message == "Cannot execute because node Nope does not exist: Node ID '#1'"


def test_the_silent_refusal_of_a_cycle_is_explained() -> None:
    error = _error("prompt_outputs_failed_validation", "Prompt outputs failed validation")
    assert "cycle" in rejected_graph(_refusal(error, {})).message


def test_tracebacks_with_paths_of_the_server_do_not_get_out() -> None:
    error = {
        "type": "exception_during_validation",
        "message": "Exception when validating node",
        "details": "'9'",
        "extra_info": {"exception_type": "KeyError", "traceback": ['  File "/opt/ComfyUI/execution.py", line 788']},
    }
    node_errors = {"2": {"errors": [error], "dependent_outputs": ["2"], "class_type": "SaveImage"}}
    rejected = rejected_graph(_refusal(_error("x", "Prompt outputs failed validation"), node_errors))
    assert rejected.node_errors["2"]["errors"][0]["extra_info"] == {}
    assert "/opt/ComfyUI" not in json.dumps(rejected.node_errors) + rejected.message
    assert rejected.node_errors["2"]["dependent_outputs"] == ["2"]


def test_a_body_that_is_too_large_is_plain_text() -> None:
    text = "Maximum request body size 104857600 exceeded, actual body size 105010444"
    assert text in rejected_graph(_response(413, text.encode())).message


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "no"}', b'{"node_errors": []}'])
def test_any_other_body_still_makes_an_error(body: bytes) -> None:
    assert rejected_graph(_response(400, body)).message


def test_many_errors_are_summed_up() -> None:
    node_errors = {str(number): MISSING_FILE["1"] for number in range(5)}
    rejected = dropped_outputs(node_errors)
    assert rejected.message.endswith("; and 2 more")
    assert len(rejected.node_errors) == 5
