"""Running one prompt to its end, on the simulator as a real process, and on a real ComfyUI if there is one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy.client import ComfyClient
from comfy.inputs import stage
from comfy.outputs import OutputItem
from comfy.session import ComfySession
from core.errors import (
    ComfyOutOfMemory,
    ComfyUnavailable,
    OutputUnavailable,
    PromptFailed,
    PromptInterrupted,
    PromptRejected,
    PromptTimeout,
)
from tests.comfy_target import (
    QUICK,
    Recorder,
    clear_faults,
    eventually,
    new_id,
    picture,
    real_comfyui_url,
    with_node,
    work,
)
from tests.simulator_process import SimulatorProcess, free_port, simulator

#: Before and after: interrupt by id (0.3.57), the jobs API (0.6.0), cancelling by id (mid 2026).
VERSIONS = ("0.3.45", "0.3.64", "0.10.0", "0.28.0")


@pytest.fixture(scope="module", params=VERSIONS)
def any_version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-version", request.param) as server:
        yield server


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with simulator(tmp_path_factory.mktemp("simulator"), "--simulate-test-nodes") as server:
        yield server


@pytest.fixture
def server(shared: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """A server without faults, before and after."""
    yield shared
    clear_faults(shared)


@pytest.fixture
def session(server: SimulatorProcess) -> Iterator[ComfySession]:
    with ComfySession(server.base_url, pace=QUICK) as session:
        yield session


@pytest.fixture(params=["simulator", "comfyui"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[ComfySession]:
    """A session on either kind of server, for what both must do alike."""
    if request.param == "simulator":
        url: str | None = request.getfixturevalue("server").base_url
    else:
        url = real_comfyui_url()
        if url is None:
            pytest.skip("FLEET_TEST_COMFYUI_URL names no server")
    with ComfySession(str(url), pace=QUICK) as session:
        yield session


# What every ComfyUI must do.


def test_a_prompt_runs_and_its_file_arrives(anywhere: ComfySession, tmp_path: Path) -> None:
    result = anywhere.submit(picture(), prompt_id=new_id()).wait(timeout_s=30)
    (item,) = result.outputs
    assert (item.node_id, item.kind, item.type, item.content_type) == ("3", "image", "output", "image/png")
    assert result.cached_nodes == ()
    assert result.started_at_ms is not None
    assert result.finished_at_ms is not None
    assert result.started_at_ms <= result.finished_at_ms
    target = tmp_path / "out.png"
    size_bytes = anywhere.client.download(item, target)
    assert target.read_bytes().startswith(b"\x89PNG")
    assert size_bytes == target.stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_progress_rises_to_one_in_the_waiting_thread(anywhere: ComfySession) -> None:
    recorder = Recorder()
    anywhere.submit(picture(), prompt_id=new_id(), listener=recorder).wait(timeout_s=30)
    values = [point.value for point in recorder.points]
    assert values == sorted(values)
    assert (recorder.points[-1].value, recorder.points[-1].nodes_done) == (1.0, 3)
    assert (recorder.started, recorder.thread) == (1, threading.current_thread())


def test_a_repeated_prompt_comes_from_the_cache_with_its_outputs(anywhere: ComfySession) -> None:
    graph = picture()
    first = anywhere.submit(graph, prompt_id=new_id()).wait(timeout_s=30)
    again = anywhere.submit(graph, prompt_id=new_id()).wait(timeout_s=30)
    assert set(again.cached_nodes) == {"1", "2", "3"}
    assert again.outputs == first.outputs


def test_an_invalid_graph_is_rejected_with_its_errors(anywhere: ComfySession) -> None:
    graph = picture(width="abc")
    with pytest.raises(PromptRejected) as caught:
        anywhere.submit(graph, prompt_id=new_id())
    assert caught.value.node_errors["1"]["errors"][0]["type"] == "invalid_input_type"
    assert "node 1 (EmptyImage)" in caught.value.message


def test_an_unknown_class_is_rejected(anywhere: ComfySession) -> None:
    graph = picture()
    graph["2"]["class_type"] = "NoSuchNode"
    with pytest.raises(PromptRejected, match="NoSuchNode"):
        anywhere.submit(graph, prompt_id=new_id())


def test_a_graph_of_which_only_a_part_is_valid_does_not_run(anywhere: ComfySession) -> None:
    graph, prompt_id = picture(), new_id()
    graph["7"] = {"class_type": "LoadImage", "inputs": {"image": "zzz.png"}}
    graph["8"] = {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "fleet-test/dropped"}}
    with pytest.raises(PromptRejected) as caught:
        anywhere.submit(graph, prompt_id=prompt_id)
    assert set(caught.value.node_errors) == {"7"}
    assert anywhere.client.find(prompt_id) in (None, "finished")
    assert anywhere.client.queue_remaining() == 0


def test_staged_inputs_can_be_loaded(anywhere: ComfySession, tmp_path: Path) -> None:
    made = anywhere.submit(picture(), prompt_id=new_id()).wait(timeout_s=30).outputs[0]
    source = tmp_path / "my photo.png"
    anywhere.client.download(made, source)
    job_id = new_id()
    names = stage(anywhere.client, {"a": source, "../b.png": source.read_bytes()}, job_id=job_id)
    assert names == {"a": f"{job_id}/0-a", "../b.png": f"{job_id}/1-b.png"}
    again = stage(anywhere.client, {"a": source, "../b.png": source.read_bytes()}, job_id=job_id)
    assert again == names
    graph = picture()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": names["../b.png"]}}
    assert len(anywhere.submit(graph, prompt_id=new_id()).wait(timeout_s=30).outputs) == 1


def test_a_file_that_is_not_there_is_unavailable(anywhere: ComfySession, tmp_path: Path) -> None:
    missing = OutputItem(node_id="3", kind="image", key="images", filename="no-such.png", type="output")
    with pytest.raises(OutputUnavailable):
        anywhere.client.download(missing, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_a_finished_prompt_is_taken_up_again(anywhere: ComfySession) -> None:
    graph, prompt_id = picture(), new_id()
    first = anywhere.submit(graph, prompt_id=prompt_id).wait(timeout_s=30)
    depth = anywhere.client.history(prompt_id)
    again = anywhere.submit(graph, prompt_id=prompt_id, resume=True).wait(timeout_s=30)
    assert again.outputs == first.outputs
    assert anywhere.client.history(prompt_id) == depth
    assert again.history.message("execution_start") == first.history.message("execution_start")


def test_two_prompts_at_once_end_in_their_order(anywhere: ComfySession) -> None:
    handles = [anywhere.submit(picture(), prompt_id=new_id()) for _ in range(2)]
    results = [handle.wait(timeout_s=30) for handle in handles]
    assert [result.prompt_id for result in results] == [handle.prompt_id for handle in handles]
    assert results[0].outputs[0].subfolder != results[1].outputs[0].subfolder


def test_unknown_ids_are_nowhere(anywhere: ComfySession) -> None:
    prompt_id = new_id()
    assert anywhere.client.find(prompt_id) is None
    assert anywhere.client.history(prompt_id) is None
    anywhere.client.interrupt(prompt_id)
    anywhere.client.delete_queued(prompt_id)


# Versions.


def test_every_version_is_recognised(any_version: SimulatorProcess) -> None:
    client = ComfyClient(any_version.base_url)
    capabilities = client.capabilities()
    assert capabilities.version is not None
    index = VERSIONS.index(str(capabilities.version_text))
    found = (capabilities.interrupt_by_id, capabilities.jobs_api, capabilities.cancel_api)
    assert found == (index >= 1, index >= 2, index >= 3)
    assert capabilities.preview_metadata
    assert client.capabilities() is capabilities
    client.close()


def test_a_prompt_is_found_wherever_it_is(any_version: SimulatorProcess) -> None:
    with ComfySession(any_version.base_url, pace=QUICK) as session:
        first, second = (session.submit(work(0.4), prompt_id=new_id()) for _ in range(2))
        assert first.started.wait(5)
        assert [session.client.find(handle.prompt_id) for handle in (first, second)] == ["running", "pending"]
        assert first.wait(timeout_s=5).outputs
        assert session.client.find(first.prompt_id) == "finished"
        assert second.wait(timeout_s=5).outputs


def test_interrupting_hits_the_running_prompt_and_no_other(any_version: SimulatorProcess) -> None:
    with ComfySession(any_version.base_url, pace=QUICK) as session:
        first = session.submit(work(20, steps=400), prompt_id=new_id())
        second = session.submit(work(0.2), prompt_id=new_id())
        assert first.started.wait(5)
        first.interrupt()
        started_at = time.monotonic()
        with pytest.raises(PromptInterrupted):
            first.wait(timeout_s=10)
        assert time.monotonic() - started_at < 3
        assert second.wait(timeout_s=10).outputs


def test_interrupting_removes_a_pending_prompt_and_no_other(any_version: SimulatorProcess) -> None:
    with ComfySession(any_version.base_url, pace=QUICK) as session:
        first = session.submit(work(0.8), prompt_id=new_id())
        second = session.submit(work(5), prompt_id=new_id())
        assert first.started.wait(5)
        second.interrupt()
        with pytest.raises(PromptInterrupted):
            second.wait(timeout_s=10)
        assert not second.started.is_set()
        assert first.wait(timeout_s=10).outputs


def test_interrupting_a_finished_prompt_changes_nothing(any_version: SimulatorProcess) -> None:
    with ComfySession(any_version.base_url, pace=QUICK) as session:
        handle = session.submit(picture(), prompt_id=new_id())
        assert handle.wait(timeout_s=10).outputs
        handle.interrupt()
        assert handle.wait(timeout_s=10).outputs
        assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs


# Ends of a prompt other than success.


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
    with pytest.raises(PromptTimeout, match="was interrupted"):
        handle.wait(timeout_s=0.3)
    assert session.client.queue_remaining() == 0


def test_time_waiting_behind_another_prompt_does_not_count(session: ComfySession) -> None:
    session_first = session.submit(work(0.8), prompt_id=new_id())
    second = session.submit(work(0.1), prompt_id=new_id())
    waiter = threading.Thread(target=session_first.wait)
    waiter.start()
    assert second.wait(timeout_s=0.6).outputs
    waiter.join()


def test_a_prompt_deaf_to_interrupts_times_out_all_the_same(tmp_path: Path) -> None:
    with (
        simulator(tmp_path, "--simulate-fault", "hang") as server,
        ComfySession(server.base_url, pace=QUICK) as session,
    ):
        handle = session.submit(work(1), prompt_id=new_id())
        with pytest.raises(PromptTimeout, match="does not react"):
            handle.wait(timeout_s=0.3)


# Events that do not come.


def test_a_dropped_socket_costs_events_not_the_prompt(server: SimulatorProcess, session: ComfySession) -> None:
    recorder = Recorder()
    handle = session.submit(work(1.0), prompt_id=new_id(), listener=recorder)
    assert handle.started.wait(5)
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
    assert time.monotonic() - started_at < 2


def test_late_history_is_waited_for(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(late_history={"seconds": 0.8})
    started_at = time.monotonic()
    assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs
    assert time.monotonic() - started_at >= 0.7


def test_a_silent_socket_is_noticed_by_polling(server: SimulatorProcess, session: ComfySession) -> None:
    server.fault(socket_stall={"seconds": 2.5})
    started_at = time.monotonic()
    handle = session.submit(picture(), prompt_id=new_id())
    assert handle.wait(timeout_s=10).outputs
    assert time.monotonic() - started_at < 2
    # While the server is silent, prompts are not held up by waiting for a socket.
    assert session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs


def test_an_unfinished_prompt_is_taken_up_by_another_session(server: SimulatorProcess) -> None:
    prompt_id, graph = new_id(), work(0.6)
    with ComfySession(server.base_url, pace=QUICK) as first:
        assert first.submit(graph, prompt_id=prompt_id).started.wait(5)
    with ComfySession(server.base_url, pace=QUICK) as second:
        result = second.submit(graph, prompt_id=prompt_id, resume=True).wait(timeout_s=10)
        assert result.prompt_id == prompt_id
        assert [item.filename for item in result.outputs] == ["out_00001_.png"]


def test_a_file_reported_but_not_written_is_unavailable(
    server: SimulatorProcess, session: ComfySession, tmp_path: Path
) -> None:
    server.fault(missing_file={})
    (item,) = session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10).outputs
    with pytest.raises(OutputUnavailable):
        session.client.download(item, tmp_path / "x.png")


# Servers that go away or refuse.


def test_a_killed_server_is_noticed_within_seconds(tmp_path: Path) -> None:
    with simulator(tmp_path) as server, ComfySession(server.base_url, pace=QUICK) as session:
        handle = session.submit(work(30), prompt_id=new_id())
        assert handle.started.wait(5)
        server.kill()
        started_at = time.monotonic()
        with pytest.raises(ComfyUnavailable):
            handle.wait(timeout_s=60)
        assert time.monotonic() - started_at < 3
        with pytest.raises(ComfyUnavailable):
            session.submit(picture(), prompt_id=new_id())


def test_a_restarted_server_has_lost_the_prompt_and_takes_new_ones(tmp_path: Path) -> None:
    port = free_port()
    with simulator(tmp_path / "a", port=port) as server, ComfySession(server.base_url) as session:
        handle = session.submit(work(30), prompt_id=new_id())
        assert handle.started.wait(5)
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
