"""History entries as real servers keep them, read into results and errors."""

from __future__ import annotations

from typing import Any

import pytest

from comfy.client.history import History, parse_entry
from core.errors import ComfyOutOfMemory, PromptFailed, PromptInterrupted

PROMPT_ID = "e5ab4b56-af2c-4b66-bdb6-994e43141e53"
START = ["execution_start", {"prompt_id": PROMPT_ID, "timestamp": 1795315355268}]


def _history(status: str, *messages: list[Any]) -> History:
    entry = {
        "prompt": [3, PROMPT_ID, {"1": {"class_type": "EmptyImage", "inputs": {}}}, {"client_id": "c"}, ["1"]],
        "outputs": {},
        "status": {"status_str": status, "completed": status == "success", "messages": [START, *messages]},
        "meta": {},
    }
    return parse_entry(PROMPT_ID, entry)


def _error(**fields: Any) -> list[Any]:
    data = {
        "prompt_id": PROMPT_ID,
        "node_id": "2",
        "node_type": "T_Err",
        "executed": ["4", "1"],
        "exception_message": "boom\n",
        "exception_type": "RuntimeError",
        "traceback": ['  File "execution.py", line 496\n', "    raise\n"],
        "timestamp": 1795315355291,
    }
    return ["execution_error", {**data, **fields}]


def test_success_is_no_failure() -> None:
    history = _history("success", ["execution_success", {"prompt_id": PROMPT_ID, "timestamp": 1795315355300}])
    assert history.failure() is None
    assert history.timestamp_ms("execution_start") == 1795315355268


def test_a_node_error_keeps_all_that_helps() -> None:
    failure = _history("error", _error()).failure()
    assert isinstance(failure, PromptFailed)
    assert (failure.message, failure.node_id, failure.node_class) == ("boom", "2", "T_Err")
    assert failure.exception_type == "RuntimeError"
    assert failure.traceback == '  File "execution.py", line 496\n    raise\n'


@pytest.mark.parametrize(
    "fields",
    [
        {"exception_type": "torch.OutOfMemoryError"},
        {"exception_type": "torch.cuda.OutOfMemoryError"},
        {"exception_message": "Allocation on device\nThis error means you ran out of memory on your GPU.\n"},
        {"exception_message": "CUDA error\nThis error means you ran out of memory on your GPU.\n\nTIPS: ..."},
    ],
)
def test_out_of_memory_by_its_types_and_marks(fields: dict[str, Any]) -> None:
    failure = _history("error", _error(**fields)).failure()
    assert isinstance(failure, ComfyOutOfMemory)
    assert (failure.node_id, failure.node_class) == ("2", "T_Err")


def test_an_interrupt_is_not_a_node_error() -> None:
    interrupted = ["execution_interrupted", {"prompt_id": PROMPT_ID, "node_id": "2", "executed": ["1"]}]
    assert isinstance(_history("error", interrupted).failure(), PromptInterrupted)


def test_an_error_message_beats_a_status_of_success() -> None:
    failure = _history("success", _error(exception_type="DependencyCycleError", node_id="1")).failure()
    assert isinstance(failure, PromptFailed)
    assert failure.exception_type == "DependencyCycleError"


def test_a_blocked_branch_is_not_a_failure() -> None:
    blocked = _error(exception_type="ExecutionBlocked", exception_message="Execution Blocked: blocked!")
    assert _history("success", blocked, ["execution_success", {}]).failure() is None


def test_an_error_without_a_message_is_still_an_error() -> None:
    assert isinstance(_history("error").failure(), PromptFailed)


@pytest.mark.parametrize(
    "entry", [{}, {"prompt": None, "status": None, "outputs": None}, {"prompt": [1], "outputs": {"1": None}}]
)
def test_a_bare_entry_is_read_as_an_empty_success(entry: dict[str, Any]) -> None:
    history = parse_entry(PROMPT_ID, entry)
    assert history.failure() is None
    assert (history.outputs, history.graph, history.messages) == ({}, {}, ())
