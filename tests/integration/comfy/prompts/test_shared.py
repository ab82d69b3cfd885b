"""A server that others use, too: they clear its history and its queue, interrupt what runs, and keep it busy."""

from __future__ import annotations

import pytest
import requests

from comfy.liveness.watchdog import Limits, Watchdog
from comfy.prompts.session import ComfySession
from core.errors import ComfyUnavailable, PromptFailed, PromptInterrupted
from tests.comfy_target import new_id, picture, with_node, work
from tests.comfy_target import server as server
from tests.comfy_target import session as session
from tests.comfy_target import shared as shared
from tests.simulator_process import SimulatorProcess
from tests.waiting import eventually


def post_as_somebody_else(server: SimulatorProcess, seconds: float) -> None:
    """Queue a prompt that is none of ours, and see it run."""
    body = {"prompt": work(seconds, steps=40), "prompt_id": new_id(), "client_id": "somebody else"}
    assert requests.post(f"{server.base_url}/prompt", json=body, timeout=10).ok
    assert eventually(lambda: len(server.get("/queue")["queue_running"]) == 1)


# A history that is cleared.


@pytest.mark.parametrize("end_is_told", [True, False])
def test_what_the_socket_told_of_outputs_counts(
    server: SimulatorProcess, session: ComfySession, end_is_told: bool
) -> None:
    server.fault(history_cleared={}, **({} if end_is_told else {"null_lost": {}}))
    prompt_id, graph = new_id(), picture(f"cleared-{end_is_told}")
    result = session.submit(graph, prompt_id=prompt_id).wait(timeout_s=10)

    assert server.get("/history") == {}
    [output] = result.outputs
    assert (output.node_id, output.kind, output.filename) == ("3", "image", f"cleared-{end_is_told}_00001_.png")
    assert result.started_at_ms
    assert result.finished_at_ms
    # From the cache, and under the same name.
    server.fault(history_cleared={})
    again = session.submit(graph, prompt_id=new_id()).wait(timeout_s=10)
    assert [item.filename for item in again.outputs] == [output.filename]
    assert set(again.cached_nodes) == set(graph)


def test_outputs_inside_an_expansion_are_told_of_the_node_of_the_graph(
    server: SimulatorProcess, session: ComfySession
) -> None:
    server.fault(history_cleared={})
    result = session.submit(with_node("T_Expand"), prompt_id=new_id()).wait(timeout_s=10)
    assert sorted(output.node_id for output in result.outputs) == ["2", "3"]


def test_what_the_socket_told_of_a_failure_counts(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(history_cleared={})
    with pytest.raises(PromptFailed, match="boom") as caught:
        session.submit(with_node("T_Err", kind="runtime"), prompt_id=new_id()).wait(timeout_s=10)
    assert caught.value.node_id == "2"


def test_what_was_told_in_part_does_not_count(server: SimulatorProcess, session: ComfySession) -> None:
    handle = session.submit(work(1.0), prompt_id=new_id())
    assert handle.started.wait(30)
    server.fault(socket_drop={}, history_cleared={})
    with pytest.raises(ComfyUnavailable, match="lost the prompt"):
        handle.wait(timeout_s=10)


# An interrupt, and a queue that is emptied.


def test_an_interrupt_by_somebody_else_says_where(server: SimulatorProcess, session: ComfySession) -> None:
    handle = session.submit(work(20, steps=400), prompt_id=new_id())
    assert handle.started.wait(30)
    assert eventually(lambda: handle.progress.current_node == "2")
    requests.post(f"{server.base_url}/interrupt", timeout=5)
    with pytest.raises(PromptInterrupted, match="somebody") as caught:
        handle.wait(timeout_s=10)
    assert (caught.value.node_id, caught.value.node_class) == ("2", "SimulatedWork")


def test_a_prompt_that_somebody_removes_from_the_queue_is_interrupted(
    server: SimulatorProcess, session: ComfySession
) -> None:
    post_as_somebody_else(server, 2.0)
    handle = session.submit(picture(), prompt_id=new_id())
    requests.post(f"{server.base_url}/queue", json={"clear": True}, timeout=5)
    with pytest.raises(PromptInterrupted, match="removed"):
        handle.wait(timeout_s=10)


# Time behind others.


def test_time_behind_prompts_of_others_is_no_run_time(server: SimulatorProcess, session: ComfySession) -> None:
    post_as_somebody_else(server, 2.0)
    watchdog = Watchdog(Limits(idle_limit_s=1.0, silence_limit_s=1.0, dead_worker_s=1.0), server.pid)
    handle = session.submit(work(0.2), prompt_id=new_id(), watchdog=watchdog)
    result = handle.wait(timeout_s=0.9)
    assert result.outputs
    assert result.started_at_ms is not None
    assert result.finished_at_ms is not None
    assert result.finished_at_ms - result.started_at_ms < 1500
