"""Running one prompt to its end: what every ComfyUI must do, simulated or real."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy.client.inputs import stage
from comfy.client.outputs import ReportedOutput
from comfy.prompts.event_socket import EventSocket
from comfy.prompts.session import ComfySession
from core.errors import LedgerFault, PromptRejected
from core.records.progress import Progress
from tests.comfy_target import (
    QUICK,
    Recorder,
    bytes_of,
    new_id,
    picture,
    real_comfyui_url,
)
from tests.comfy_target import newest as newest
from tests.comfy_target import oldest as oldest
from tests.comfy_target import server as server
from tests.comfy_target import session as session
from tests.comfy_target import shared as shared
from tests.simulator_process import SimulatorProcess
from tests.waiting import eventually


@pytest.fixture(params=["simulator", "oldest", "newest", "comfyui"])
def anywhere(request: pytest.FixtureRequest) -> Iterator[ComfySession]:
    """A session on either kind of server, for what both must do alike."""
    if request.param == "simulator":
        url: str | None = request.getfixturevalue("server").base_url
    elif request.param in ("oldest", "newest"):
        url = request.getfixturevalue(request.param).base_url
    else:
        url = real_comfyui_url()
        if url is None:
            pytest.skip("COMFYLINE_TEST_COMFYUI_URL names no server")
    with ComfySession(str(url), pace=QUICK) as session:
        yield session


def test_a_prompt_runs_and_its_file_arrives(anywhere: ComfySession) -> None:
    result = anywhere.submit(picture(), prompt_id=new_id()).wait(timeout_s=30)
    (item,) = result.outputs
    assert (item.node_id, item.kind, item.folder, item.content_type) == ("3", "image", "output", "image/png")
    assert result.cached_nodes == ()
    assert result.started_at_ms is not None
    assert result.finished_at_ms is not None
    assert result.started_at_ms <= result.finished_at_ms
    assert anywhere.client.has(item)
    assert bytes_of(anywhere, item).startswith(b"\x89PNG")


def test_progress_rises_to_one_in_the_waiting_thread(anywhere: ComfySession) -> None:
    recorder = Recorder()
    anywhere.submit(picture(), prompt_id=new_id(), listener=recorder).wait(timeout_s=30)
    values = [point.value for point in recorder.points]
    assert values == sorted(values)
    assert (recorder.points[-1].value, recorder.points[-1].nodes_done) == (1.0, 3)
    assert (recorder.started, recorder.thread) == (1, threading.current_thread())


class Stumbling(Recorder):
    """A listener with a fault in it."""

    def on_started(self) -> None:
        super().on_started()
        raise LedgerFault("no such table")

    def on_progress(self, progress: Progress) -> None:
        super().on_progress(progress)
        raise AttributeError("nobody thought of this")

    def on_preview(self, *_news: object) -> None:
        raise MemoryError


def test_a_listener_that_stumbles_costs_no_prompt(server: SimulatorProcess, caplog: pytest.LogCaptureFixture) -> None:
    listener = Stumbling()
    with ComfySession(server.base_url, pace=QUICK) as session:
        result = session.submit(picture(), prompt_id=new_id(), listener=listener).wait(timeout_s=30)

    assert len(result.outputs) == 1
    assert listener.started == 1
    assert listener.points[-1].value == 1.0
    assert "AttributeError: nobody thought of this" in caplog.text


def test_a_connection_is_made_anew_when_the_loss_of_the_last_one_was_stumbled_over(server: SimulatorProcess) -> None:
    def stumble(_client_id: str) -> None:
        raise AttributeError("nobody thought of this")

    events = EventSocket(server.base_url, on_frame=lambda _frame: None, on_lost=stumble)
    first = events.ensure_connected()
    events.reconnect()
    assert eventually(lambda: events.client_id not in (None, first))
    events.close()


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
    source.write_bytes(bytes_of(anywhere, made))
    job_id = new_id()
    for _ in range(2):
        stage(anywhere.client, {f"{job_id}/0-a.png": source, f"{job_id}/1-b.png": source.read_bytes()})
    graph = picture()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": f"{job_id}/1-b.png"}}
    assert len(anywhere.submit(graph, prompt_id=new_id()).wait(timeout_s=30).outputs) == 1


def test_a_file_that_is_not_there_is_told_from_one_that_is(anywhere: ComfySession) -> None:
    missing = ReportedOutput(node_id="3", kind="image", key="images", filename="no-such.png", folder="output")
    assert not anywhere.client.has(missing)


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


def test_a_server_describes_itself(anywhere: ComfySession) -> None:
    client = anywhere.client
    assert client.queue_remaining() == 0
    assert client.system_stats()["system"]["comfyui_version"]
    assert client.system_stats()["devices"][0]["vram_total"] > 0
    assert (client.features() or {})["supports_preview_metadata"] is True
    assert client.object_info("SaveImage")["SaveImage"]["output_node"] is True
    assert client.object_info("No/Such Node") == {}
    assert "EmptyImage" in client.object_info()


def test_memory_can_be_freed_and_the_cache_with_it(anywhere: ComfySession) -> None:
    graph = picture()
    anywhere.submit(graph, prompt_id=new_id()).wait(timeout_s=30)
    anywhere.client.free(unload_models=True, free_memory=True)
    time.sleep(0.3)
    assert anywhere.submit(graph, prompt_id=new_id()).wait(timeout_s=30).cached_nodes == ()


def test_unknown_ids_are_nowhere(anywhere: ComfySession) -> None:
    prompt_id = new_id()
    assert anywhere.client.find(prompt_id) is None
    assert anywhere.client.history(prompt_id) is None
    anywhere.client.interrupt(prompt_id)
