"""Events that do not come, and servers that go away."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from comfy.prompts.event_socket import problem_of
from comfy.prompts.session import ComfySession
from core.errors import (
    ComfyUnavailable,
    PromptRejected,
)
from tests.comfy_target import QUICK, Recorder, new_id, picture, work
from tests.comfy_target import server as server
from tests.comfy_target import session as session
from tests.comfy_target import shared as shared
from tests.ports import free_port
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import PATIENCE, eventually


def test_a_dropped_socket_costs_events_not_the_prompt(server: SimulatorProcess, session: ComfySession) -> None:
    recorder = Recorder()
    handle = session.submit(work(1.0), prompt_id=new_id(), listener=recorder)
    assert handle.started.wait(30)
    server.fault(socket_drop={})
    assert handle.wait(timeout_s=10).outputs
    assert recorder.points[-1].value == 1.0
    # The next prompt gets its events through a new connection.
    later = Recorder()
    assert session.submit(work(0.2), prompt_id=new_id(), listener=later).wait(timeout_s=10).outputs
    assert any(0 < point.value < 1 for point in later.points)


def test_a_lost_end_marker_is_not_waited_for(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(null_lost={})
    started_at = time.monotonic()
    assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs
    assert time.monotonic() - started_at < 2 * PATIENCE


def test_late_history_is_waited_for(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(late_history={"seconds": 0.8})
    started_at = time.monotonic()
    assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs
    assert time.monotonic() - started_at >= 0.7


def test_a_silent_socket_is_noticed_by_polling(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(socket_stall={"seconds": 1.6})
    started_at = time.monotonic()
    handle = session.submit(picture(), prompt_id=new_id())
    assert handle.wait(timeout_s=10).outputs
    assert time.monotonic() - started_at < 2 * PATIENCE
    # While the server is silent, prompts are not held up by waiting for a socket.
    assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs


def test_an_unfinished_prompt_is_taken_up_by_another_session(server: SimulatorProcess) -> None:
    prompt_id, graph = new_id(), work(0.6)
    with ComfySession(server.base_url, pace=QUICK) as first:
        assert first.submit(graph, prompt_id=prompt_id).started.wait(30)
    with ComfySession(server.base_url, pace=QUICK) as second:
        result = second.submit(graph, prompt_id=prompt_id, resume=True).wait(timeout_s=10)
        assert result.prompt_id == prompt_id
        assert [item.filename for item in result.outputs] == ["out_00001_.png"]


def test_a_file_reported_but_not_written_is_not_there(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(missing_file={})
    (item,) = session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs
    assert not session.client.has(item)


def test_a_server_that_stands_still_for_a_while_is_waited_for(server: SimulatorProcess, session: ComfySession) -> None:
    handle = session.submit(work(0.3), prompt_id=new_id())
    server.fault(slow_loop={"seconds": 0.8})
    assert handle.wait(timeout_s=10).outputs


# Servers that go away or refuse.


def test_a_server_killed_by_its_own_output_is_gone(tmp_path: Path) -> None:
    fault = ("--simulate-fault", "non_json_ui")
    with simulator(tmp_path, *fault) as server, ComfySession(server.base_url, pace=QUICK) as session:
        handle = session.submit(picture(), prompt_id=new_id())
        with pytest.raises(ComfyUnavailable):
            handle.wait(timeout_s=30)


def test_a_killed_server_is_noticed_within_seconds(tmp_path: Path) -> None:
    with simulator(tmp_path) as server, ComfySession(server.base_url, pace=QUICK) as session:
        handle = session.submit(work(30), prompt_id=new_id())
        assert handle.started.wait(30)
        server.kill()
        started_at = time.monotonic()
        with pytest.raises(ComfyUnavailable):
            handle.wait(timeout_s=60)
        assert time.monotonic() - started_at < 10, "the prompt would have run for 30 s"
        with pytest.raises(ComfyUnavailable):
            session.submit(picture(), prompt_id=new_id())


def test_a_restarted_server_has_lost_the_prompt_and_takes_new_ones(tmp_path: Path) -> None:
    port = free_port()
    with simulator(tmp_path / "a", port=port) as server, ComfySession(server.base_url) as session:
        handle = session.submit(work(30), prompt_id=new_id())
        assert handle.started.wait(30)
        errors: list[Exception] = []

        def wait() -> None:
            try:
                handle.wait(timeout_s=60)
            except ComfyUnavailable as exc:
                errors.append(exc)

        waiter = threading.Thread(target=wait)
        server.kill()
        with simulator(tmp_path / "b", port=port):
            waiter.start()
            waiter.join(timeout=10)
            assert len(errors) == 1
            assert "lost the prompt" in str(errors[0])
            assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs


def test_nobody_there_is_an_error_at_once(tmp_path: Path) -> None:
    started_at = time.monotonic()
    session = ComfySession(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ComfyUnavailable):
        session.open()
    with pytest.raises(ComfyUnavailable):
        session.submit(picture(), prompt_id=new_id())
    session.close()
    assert time.monotonic() - started_at < 5


def test_a_broken_server_is_unavailable_and_an_overlong_body_is_rejected(
    server: SimulatorProcess, session: ComfySession
) -> None:
    server.fault(reject_500={})
    with pytest.raises(ComfyUnavailable, match="500"):
        session.submit(picture(), prompt_id=new_id())
    server.fault(reject_413={})
    with pytest.raises(PromptRejected, match="larger"):
        session.submit(picture(), prompt_id=new_id())
    assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs


def test_closing_a_session_ends_its_thread(server: SimulatorProcess) -> None:
    before = threading.active_count()
    with ComfySession(server.base_url) as session:
        assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs
        assert threading.active_count() == before + 1
    assert eventually(lambda: threading.active_count() == before)


def test_a_server_without_a_websocket_is_polled(server: SimulatorProcess) -> None:
    server.fault(socket_refused={"times": 1000})
    with ComfySession(server.base_url, pace=QUICK) as session:
        began_s = time.monotonic()
        for _ in range(3):
            assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs
        assert not session.is_connected
        # No prompt waits for a connection that will not come.
        assert time.monotonic() - began_s < 5 * PATIENCE
    assert problem_of(server.base_url) == "its websocket is answered with 404"


def test_a_server_with_a_websocket_has_no_problem(server: SimulatorProcess) -> None:
    assert problem_of(server.base_url) is None
