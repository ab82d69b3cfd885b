"""Prompts that are slow and prompts that are stuck, on a real server: only the latter are given up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from comfy.client.timeouts import Pace
from comfy.liveness.watchdog import Limits, Watchdog
from comfy.prompts.session import ComfySession
from core.errors import PromptInterrupted, PromptStuck, PromptTimeout
from tests.comfy_target import Graph, new_id, picture, with_node, work
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import PATIENCE, eventually

PACE = Pace(heartbeat_s=0.3, poll_last_s=0.3, refused_s=0.4, interrupt_grace_s=0.8)
#: Polls cost some CPU time, and here they come ten times as often as in production.
LIMITS = Limits(idle_limit_s=1.0, silence_limit_s=60.0, dead_worker_s=0.6, idle_cpu_share=0.05)
#: Far more than any test needs.
TIMEOUT_S = 30.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SimulatorProcess]:
    """A server for each test: most of them leave it useless."""
    with simulator(tmp_path) as server:
        yield server


@pytest.fixture
def session(server: SimulatorProcess) -> Iterator[ComfySession]:
    with ComfySession(server.base_url, pace=PACE) as session:
        yield session


def silent_work(seconds: float) -> Graph:
    """A prompt that computes and says nothing."""
    graph = work(seconds)
    graph["2"]["inputs"]["silent_cpu"] = True
    return graph


def sleeping_work(seconds: float) -> Graph:
    """A prompt that waits, and says nothing, but can be interrupted."""
    return work(seconds, steps=1)


# No sign of life.


def test_a_node_that_hangs_is_stuck(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(hang={})
    began_s = time.monotonic()
    handle = session.submit(work(1.0), prompt_id=new_id(), watchdog=Watchdog(LIMITS, server.pid))
    with pytest.raises(PromptStuck, match="no work"):
        handle.wait(timeout_s=TIMEOUT_S)
    assert time.monotonic() - began_s >= LIMITS.idle_limit_s


def test_a_worker_thread_that_died_with_the_prompt_is_found(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(worker_dead={})
    handle = session.submit(picture(), prompt_id=new_id(), watchdog=Watchdog(LIMITS, server.pid))
    with pytest.raises(PromptStuck, match="no work"):
        handle.wait(timeout_s=TIMEOUT_S)


def test_a_node_that_computes_in_silence_is_only_slow(server: SimulatorProcess, session: ComfySession) -> None:
    handle = session.submit(silent_work(2.5), prompt_id=new_id(), watchdog=Watchdog(LIMITS, server.pid))
    assert handle.wait(timeout_s=TIMEOUT_S).outputs


def test_a_node_that_reports_is_only_slow(server: SimulatorProcess, session: ComfySession) -> None:
    # It does no work that /proc could show, as a sampler that leaves all to the GPU.
    handle = session.submit(work(2.5, steps=20), prompt_id=new_id(), watchdog=Watchdog(LIMITS, server.pid))
    assert handle.wait(timeout_s=TIMEOUT_S).outputs


def test_without_a_process_to_watch_only_silence_counts(server: SimulatorProcess, session: ComfySession) -> None:
    patient, strict = (Limits(idle_limit_s=0.5, silence_limit_s=limit_s) for limit_s in (60.0, 1.0))
    handle = session.submit(sleeping_work(1.5), prompt_id=new_id(), watchdog=Watchdog(patient, None))
    assert handle.wait(timeout_s=TIMEOUT_S).outputs
    handle = session.submit(sleeping_work(60), prompt_id=new_id(), watchdog=Watchdog(strict, None))
    with pytest.raises(PromptStuck, match="nothing was heard"):
        handle.wait(timeout_s=TIMEOUT_S)


# Silence.


def test_silence_ends_at_its_limit_though_the_server_works(server: SimulatorProcess, session: ComfySession) -> None:
    limits = Limits(idle_limit_s=60.0, silence_limit_s=1.0)
    handle = session.submit(silent_work(60), prompt_id=new_id(), watchdog=Watchdog(limits, server.pid))
    with pytest.raises(PromptStuck, match="nothing was heard"):
        handle.wait(timeout_s=TIMEOUT_S)


def test_silence_proves_nothing_without_a_socket(server: SimulatorProcess, session: ComfySession) -> None:
    limits = Limits(idle_limit_s=60.0, silence_limit_s=1.0)
    handle = session.submit(work(2.0, steps=40), prompt_id=new_id(), watchdog=Watchdog(limits, server.pid))
    assert handle.started.wait(30)
    server.fault(socket_drop={})
    assert handle.wait(timeout_s=TIMEOUT_S).outputs


def test_the_time_in_the_queue_is_no_silence(server: SimulatorProcess, session: ComfySession) -> None:
    limits = Limits(idle_limit_s=1.5, silence_limit_s=1.5, dead_worker_s=1.5)
    # Somebody else's prompt, and one of ours, run before.
    requests.post(f"{server.base_url}/prompt", json={"prompt": work(1.0), "prompt_id": new_id()}, timeout=10)
    first = session.submit(work(1.0, steps=20), prompt_id=new_id())
    second = session.submit(work(0.4), prompt_id=new_id(), watchdog=Watchdog(limits, server.pid))
    assert second.wait(timeout_s=TIMEOUT_S).outputs
    assert first.wait(timeout_s=TIMEOUT_S).outputs


# A worker thread that is dead before it takes the prompt.


def test_a_prompt_that_nobody_will_take_is_stuck(server: SimulatorProcess, session: ComfySession) -> None:
    kill_prompt_worker(server)
    began_s = time.monotonic()
    handle = session.submit(picture(), prompt_id=new_id(), watchdog=Watchdog(LIMITS, server.pid))
    with pytest.raises(PromptStuck, match="run nothing"):
        handle.wait(timeout_s=TIMEOUT_S)
    assert time.monotonic() - began_s >= LIMITS.dead_worker_s
    assert not handle.started.is_set()


def test_without_a_watchdog_a_prompt_that_nobody_takes_runs_into_its_time_limit(
    server: SimulatorProcess, session: ComfySession
) -> None:
    kill_prompt_worker(server)
    handle = session.submit(picture(), prompt_id=new_id())
    with pytest.raises(PromptTimeout) as caught:
        handle.wait(timeout_s=1.5)
    assert not caught.value.still_runs


def kill_prompt_worker(server: SimulatorProcess) -> None:
    """Bring ComfyUI's worker thread to its end while it runs nothing, as it happens to real ones.

    Its queue is a heap of tuples that begin with a number and an id; two that are equal in both make it compare two
    graphs, which raises TypeError in the thread that takes the next prompt. The one it was about to take is lost.
    """
    twin_id = new_id()
    order = [(0, new_id(), work(0.3)), (1, new_id(), picture()), (2, twin_id, picture()), (2, twin_id, picture())]
    for number, prompt_id, graph in order:
        body = {"prompt": graph, "prompt_id": prompt_id, "number": number}
        assert requests.post(f"{server.base_url}/prompt", json=body, timeout=10).status_code == 200
    assert eventually(lambda: not server.get("/queue")["queue_running"] and "TypeError" in server.log())
    # Nobody will take these: without them, a prompt that is queued now is the only one.
    requests.post(f"{server.base_url}/queue", json={"clear": True}, timeout=10)


# Deaf to interrupts.


def test_a_prompt_deaf_to_an_interrupt_is_stuck_after_the_grace(
    server: SimulatorProcess, session: ComfySession
) -> None:
    server.fault(hang={})
    handle = session.submit(work(1.0), prompt_id=new_id())
    assert handle.started.wait(30)
    handle.interrupt()
    began_s = time.monotonic()
    with pytest.raises(PromptStuck, match="does not react"):
        handle.wait(timeout_s=TIMEOUT_S)
    assert PACE.interrupt_grace_s - 0.1 <= time.monotonic() - began_s < 5 * PATIENCE


def test_a_prompt_that_reacts_late_is_only_interrupted(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(hang={"seconds": 0.4})
    handle = session.submit(work(5.0), prompt_id=new_id(), watchdog=Watchdog(LIMITS, server.pid))
    assert handle.started.wait(30)
    handle.interrupt()
    with pytest.raises(PromptInterrupted):
        handle.wait(timeout_s=TIMEOUT_S)


def test_the_time_limit_says_whether_the_prompt_still_runs(server: SimulatorProcess, session: ComfySession) -> None:
    handle = session.submit(work(20.0, steps=400), prompt_id=new_id())
    with pytest.raises(PromptTimeout, match="was interrupted") as caught:
        handle.wait(timeout_s=0.3)
    assert not caught.value.still_runs

    server.fault(hang={})
    handle = session.submit(with_node("SimulatedWork", seconds=1.0, steps=2), prompt_id=new_id())
    with pytest.raises(PromptTimeout, match="does not react") as caught:
        handle.wait(timeout_s=0.3)
    assert caught.value.still_runs
