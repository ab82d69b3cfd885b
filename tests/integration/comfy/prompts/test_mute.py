"""A server that answers nothing for a while, because a node holds the interpreter's lock: no prompt is lost to that."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy.client.client import ComfyClient
from comfy.client.timeouts import Pace
from comfy.liveness.watchdog import Limits, Watchdog
from comfy.prompts.result import PromptResult
from comfy.prompts.session import ComfySession, PromptHandle
from core.errors import ComfyUnavailable, PromptStuck, PromptTimeout
from tests.comfy_target import Graph, new_id, picture, with_node
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import eventually

pytestmark = pytest.mark.slow

#: A mute server is far beyond all limits but the one that is meant for it.
PACE = Pace(
    heartbeat_s=0.3,
    poll_last_s=0.2,
    refused_s=0.4,
    unresponsive_s=0.4,
    late_history_s=0.4,
    interrupt_grace_s=0.8,
    answer_s=0.2,
    mute_answer_s=0.3,
    mute_s=60.0,
)
MUTE_S = 2.5


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SimulatorProcess]:
    """A server for each test: some leave it useless."""
    with simulator(tmp_path, "--simulate-test-nodes") as server:
        yield server


@pytest.fixture
def session(server: SimulatorProcess) -> Iterator[ComfySession]:
    with ComfySession(server.base_url, client=impatient_client(server), pace=PACE) as session:
        yield session


def mute(seconds: float = MUTE_S, *, works: bool = True) -> Graph:
    """A prompt that says that it has begun, and then keeps its server mute."""
    graph = with_node("T_Slow", steps=2, delay=0.2)
    graph["4"] = {"class_type": "T_Mute", "inputs": {"image": ["2", 0], "seconds": seconds, "works": works}}
    graph["3"]["inputs"]["images"] = ["4", 0]
    return graph


def wait_until_mute(server: SimulatorProcess, handle: PromptHandle) -> None:
    assert handle.started.wait(10)
    with contextlib.closing(impatient_client(server)) as client:
        assert eventually(lambda: not answers(client))


def answers(client: ComfyClient) -> bool:
    try:
        client.queue_remaining()
    except ComfyUnavailable:
        return False
    return True


def impatient_client(server: SimulatorProcess) -> ComfyClient:
    """Its requests wait for less than the server is mute."""
    return ComfyClient(server.base_url, read_timeout_s=0.3)


@pytest.mark.parametrize("works", [True, False], ids=["busy", "idle"])
def test_a_prompt_that_keeps_the_server_mute_is_waited_for(
    server: SimulatorProcess, session: ComfySession, works: bool
) -> None:
    watchdog = Watchdog(Limits(idle_limit_s=60.0), server.pid)
    handle = session.submit(mute(works=works), prompt_id=new_id(), watchdog=watchdog)
    assert handle.wait(timeout_s=30).outputs


def test_a_prompt_submitted_to_a_mute_server_runs_once(server: SimulatorProcess, session: ComfySession) -> None:
    first = session.submit(mute(), prompt_id=new_id())
    second_id = new_id()
    wait_until_mute(server, first)

    second = session.submit(picture(), prompt_id=second_id)

    assert first.wait(timeout_s=30).outputs
    assert second.wait(timeout_s=30).outputs
    assert server.log().count("Prompt executed") == 2
    assert second_id in server.get("/history")


def test_the_history_of_a_prompt_is_waited_for_while_the_next_one_keeps_the_server_mute(
    session: ComfySession,
) -> None:
    results: list[PromptResult] = []
    first = session.submit(with_node("T_Slow", steps=2, delay=0.3), prompt_id=new_id())
    second = session.submit(mute(), prompt_id=new_id())
    waiter = threading.Thread(target=lambda: results.append(first.wait(timeout_s=30)))
    waiter.start()
    assert second.wait(timeout_s=30).outputs
    waiter.join(10)
    assert results[0].outputs


def test_a_prompt_that_is_interrupted_while_the_server_is_mute_is_deaf(
    server: SimulatorProcess, session: ComfySession
) -> None:
    handle = session.submit(mute(20.0), prompt_id=new_id())
    wait_until_mute(server, handle)
    began_s = time.monotonic()
    with pytest.raises(ComfyUnavailable):
        handle.interrupt()
    with pytest.raises(PromptStuck, match="does not react"):
        handle.wait(timeout_s=30)
    assert time.monotonic() - began_s >= PACE.interrupt_grace_s


def test_a_prompt_over_its_time_that_keeps_the_server_mute_still_runs(session: ComfySession) -> None:
    handle = session.submit(mute(20.0), prompt_id=new_id())
    with pytest.raises(PromptTimeout, match="does not react") as caught:
        handle.wait(timeout_s=0.5)
    assert caught.value.still_runs


def test_a_server_that_is_mute_for_too_long_is_given_up(server: SimulatorProcess) -> None:
    pace = Pace(heartbeat_s=0.3, poll_last_s=0.2, answer_s=0.2, mute_answer_s=0.3, mute_s=1.0)
    with ComfySession(server.base_url, pace=pace) as session:
        handle = session.submit(mute(20.0), prompt_id=new_id())
        with pytest.raises(ComfyUnavailable):
            handle.wait(timeout_s=30)


def test_a_mute_server_that_is_killed_is_given_up_at_once(server: SimulatorProcess, session: ComfySession) -> None:
    handle = session.submit(mute(60.0), prompt_id=new_id())
    wait_until_mute(server, handle)
    killer = threading.Timer(1.0, server.kill)
    killer.start()
    began_s = time.monotonic()
    with pytest.raises(ComfyUnavailable):
        handle.wait(timeout_s=60)
    killer.join()
    assert time.monotonic() - began_s < 10
