"""Prompts that end otherwise than in success."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from comfy.prompts.session import ComfySession
from core.errors import (
    ComfyOutOfMemory,
    PromptFailed,
    PromptTimeout,
)
from core.records.progress import Progress
from tests.comfy_target import (
    QUICK,
    Recorder,
    new_id,
    picture,
    with_node,
    work,
)
from tests.comfy_target import server as server
from tests.comfy_target import session as session
from tests.comfy_target import shared as shared
from tests.simulator_process import simulator


def test_a_node_error_says_where_and_what(session: ComfySession) -> None:
    with pytest.raises(PromptFailed) as caught:
        session.submit(with_node("T_Err", kind="runtime"), prompt_id=new_id()).wait(timeout_s=10)
    error = caught.value
    assert (error.node_id, error.node_class, error.exception_type) == ("2", "T_Err", "RuntimeError")
    assert error.message
    assert error.traceback


def test_out_of_memory_is_told_apart(session: ComfySession) -> None:
    with pytest.raises(ComfyOutOfMemory) as caught:
        session.submit(with_node("T_Err", kind="oom"), prompt_id=new_id()).wait(timeout_s=10)
    assert (caught.value.node_id, caught.value.node_class) == ("2", "T_Err")


def test_a_prompt_over_time_is_interrupted(session: ComfySession) -> None:
    handle = session.submit(work(20, steps=400), prompt_id=new_id())
    with pytest.raises(PromptTimeout, match="was interrupted") as caught:
        handle.wait(timeout_s=0.3)
    assert (caught.value.node_id, caught.value.node_class) == ("2", "SimulatedWork")
    assert session.client.queue_remaining() == 0


def test_time_waiting_behind_another_prompt_does_not_count(session: ComfySession) -> None:
    first = session.submit(work(0.5), prompt_id=new_id())
    second = session.submit(work(0.1), prompt_id=new_id())
    waiter = threading.Thread(target=first.wait)
    waiter.start()
    assert second.wait(timeout_s=0.4).outputs
    waiter.join()


def test_a_prompt_deaf_to_interrupts_times_out_all_the_same(tmp_path: Path) -> None:
    with (
        simulator(tmp_path, "--simulate-fault", "hang") as server,
        ComfySession(server.base_url, pace=QUICK) as session,
    ):
        handle = session.submit(work(1), prompt_id=new_id())
        with pytest.raises(PromptTimeout, match="does not react"):
            handle.wait(timeout_s=0.3)


def test_a_dead_worker_thread_behind_healthy_http_ends_in_a_timeout(tmp_path: Path) -> None:
    fault = ("--simulate-fault", "worker_dead")
    with simulator(tmp_path, *fault) as server, ComfySession(server.base_url, pace=QUICK) as session:
        handle = session.submit(picture(), prompt_id=new_id())
        with pytest.raises(PromptTimeout):
            handle.wait(timeout_s=0.5)


def test_a_listener_that_fails_loses_its_news_and_nothing_else(session: ComfySession) -> None:
    class Failing(Recorder):
        def on_progress(self, progress: Progress) -> None:
            raise LookupError("no room for progress")

    handle = session.submit(work(0.3), prompt_id=new_id(), listener=Failing())
    assert handle.wait(timeout_s=10).outputs
    recorder = Recorder()
    assert session.submit(work(0.2), prompt_id=new_id(), listener=recorder).wait(timeout_s=10).outputs
    assert any(0 < point.value < 1 for point in recorder.points)
