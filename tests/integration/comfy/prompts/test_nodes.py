"""Nodes that behave in every way nodes do: previews, expansion, blocked branches, every kind of output."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from comfy.prompts.session import ComfySession
from tests.comfy_target import QUICK, Recorder, bytes_of, new_id, picture, with_node
from tests.simulator_process import simulator
from workflows.graphs.checks import check_graph


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfySession]:
    root = tmp_path_factory.mktemp("simulator")
    flags = ("--simulate-test-nodes", "--preview-method", "auto", "--simulate-load-seconds", "0")
    with simulator(root, *flags) as server, ComfySession(server.base_url, pace=QUICK) as session:
        yield session


def test_a_blocked_branch_is_neither_an_error_nor_an_end(session: ComfySession) -> None:
    graph = with_node("T_Block", message="blocked!")
    graph["5"] = {"class_type": "SimulatedWork", "inputs": {"image": ["1", 0], "seconds": 0.3, "steps": 3}}
    graph["6"] = {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": f"{new_id()}/ok"}}
    result = session.submit(graph, prompt_id=new_id()).wait(timeout_s=10)
    assert [item.node_id for item in result.outputs] == ["6"]


def test_previews_arrive_with_their_node(session: ComfySession) -> None:
    recorder = Recorder()
    handle = session.submit(with_node("T_Slow", steps=3, delay=0.15), prompt_id=new_id(), listener=recorder)
    handle.wait(timeout_s=10)
    # A slow machine may show fewer: newer pictures replace those not yet looked at.
    assert 1 <= len(recorder.previews) <= 3
    assert {(node_id, content_type) for node_id, content_type, _ in recorder.previews} == {("2", "image/jpeg")}
    assert all(data.startswith(b"\xff\xd8") for _, _, data in recorder.previews)
    # The last step and the next node come so close together that the one may replace the other.
    assert (2, 3) in {(point.step, point.steps) for point in recorder.points if point.current_node == "2"}


def test_a_listener_that_comes_late_gets_one_preview_of_many(session: ComfySession) -> None:
    recorder = Recorder()
    graph = with_node("T_Slow", steps=8, delay=0.02)
    first = session.submit(graph, prompt_id=new_id(), listener=recorder)
    session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10)
    first.wait(timeout_s=10)
    assert len(recorder.previews) == 1
    assert recorder.points[-1].value == 1.0


def test_pictures_sent_instead_of_saved_all_arrive_even_late(session: ComfySession) -> None:
    recorder = Recorder()
    graph = picture(batch_size=5)
    graph["3"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["2", 0]}}
    first = session.submit(graph, prompt_id=new_id(), listener=recorder)
    session.submit(picture(), prompt_id=new_id()).wait(timeout_s=10)
    assert first.wait(timeout_s=10).outputs == []
    assert [(node_id, kind) for node_id, kind, _ in recorder.previews] == [("3", "image/png")] * 5


def test_progress_text_arrives_with_its_node(session: ComfySession) -> None:
    recorder = Recorder()
    graph = with_node("T_Text", text="halfway")
    graph["3"]["inputs"]["images"] = ["1", 0]
    result = session.submit(graph, prompt_id=new_id(), listener=recorder).wait(timeout_s=10)
    assert recorder.previews == [("2", "text/plain", b"halfway")]
    assert [item.kind for item in result.outputs if item.node_id == "2"] == ["text"]


def test_an_expansion_reports_for_its_node(session: ComfySession) -> None:
    recorder = Recorder()
    result = session.submit(with_node("T_Expand"), prompt_id=new_id(), listener=recorder).wait(timeout_s=10)
    assert [(item.node_id, item.folder) for item in result.outputs] == [("2", "temp"), ("3", "output")]
    assert {point.current_node for point in recorder.points} <= {None, "1", "2", "3"}
    assert recorder.points[-1].nodes_done == 3


def test_async_nodes_run_together(session: ComfySession) -> None:
    recorder = Recorder()
    graph = with_node("T_Async", delay=0.2)
    graph["5"] = {"class_type": "T_Async", "inputs": {"image": ["1", 0], "delay": 0.3}}
    graph["6"] = {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": f"{new_id()}/b"}}
    result = session.submit(graph, prompt_id=new_id(), listener=recorder).wait(timeout_s=10)
    assert {item.node_id for item in result.outputs} == {"3", "6"}
    values = [point.value for point in recorder.points]
    assert values == sorted(values)


def test_a_node_behind_a_lazy_input_may_never_run(session: ComfySession) -> None:
    graph = picture()
    graph["2"] = {"class_type": "T_Slow", "inputs": {"image": ["1", 0], "steps": 4, "delay": 0.1}}
    graph["4"] = {"class_type": "T_Err", "inputs": {"image": ["1", 0], "kind": "runtime"}}
    graph["5"] = {"class_type": "T_Lazy", "inputs": {"pick": "b", "a": ["4", 0], "b": ["2", 0]}}
    graph["3"]["inputs"]["images"] = ["5", 0]
    assert check_graph(graph, session.client.object_info()) == set(graph)
    recorder = Recorder()
    result = session.submit(graph, prompt_id=new_id(), listener=recorder).wait(timeout_s=10)
    assert [item.node_id for item in result.outputs] == ["3"]
    values = [point.value for point in recorder.points]
    assert values == sorted(values)
    # Node 4 is counted until the end and never done: without it there is no way past four of five.
    assert all(value <= 0.8 for value in values[:-1])
    assert any(0 < value < 0.8 for value in values[:-1])
    assert (values[-1], recorder.points[-1].nodes_done) == (1.0, 5)
    assert "4" not in {point.current_node for point in recorder.points}


def _saved(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One output node fed by nodes of a small zoo."""
    graph: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 7}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "video": {"class_type": "CreateVideo", "inputs": {"images": ["1", 0], "fps": 8.0}},
        "mesh": {"class_type": "SimulatedMesh", "inputs": {}},
        "out": {"class_type": class_type, "inputs": inputs},
    }
    return graph


_PREFIX = {"filename_prefix": "zoo/out"}


@pytest.mark.parametrize(
    ("graph", "key", "kind", "content_type"),
    [
        (_saved("SaveLatent", samples=["latent", 0], **_PREFIX), "latents", "latent", "application/octet-stream"),
        (
            _saved("SaveVideo", video=["video", 0], format="mp4", codec="h264", **_PREFIX),
            "images",
            "video",
            "video/mp4",
        ),
        (
            _saved("SaveAnimatedPNG", images=["1", 0], fps=6.0, compress_level=4, **_PREFIX),
            "images",
            "image",
            "image/png",
        ),
        (
            _saved(
                "VHS_VideoCombine",
                images=["1", 0],
                frame_rate=8.0,
                loop_count=0,
                format="video/h264-mp4",
                pingpong=False,
                save_output=True,
                **_PREFIX,
            ),
            "gifs",
            "video",
            "video/mp4",
        ),
        (_saved("SimulatedSaveAudio", seconds=0.1, **_PREFIX), "audio", "audio", "audio/wav"),
        (_saved("SaveGLB", mesh=["mesh", 0], **_PREFIX), "3d", "file", "model/gltf-binary"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_kind_of_file_is_listed_and_can_be_fetched(
    session: ComfySession, graph: dict[str, Any], key: str, kind: str, content_type: str
) -> None:
    (item,) = session.submit(graph, prompt_id=new_id()).wait(timeout_s=10).outputs
    assert (item.node_id, item.key, item.kind, item.content_type) == ("out", key, kind, content_type)
    assert item.subfolder == "zoo"
    assert bytes_of(session, item)


def test_a_3d_preview_is_a_file_and_a_text_is_a_text(session: ComfySession) -> None:
    graph = _saved("SaveGLB", mesh=["mesh", 0], filename_prefix="zoo/again")
    (mesh,) = session.submit(graph, prompt_id=new_id()).wait(timeout_s=10).outputs
    graph = _saved("Preview3D", model_file=f"{mesh.subfolder}/{mesh.filename}")
    (preview,) = session.submit(graph, prompt_id=new_id()).wait(timeout_s=10).outputs
    assert (preview.key, preview.kind) == ("result", "file")
    assert bytes_of(session, preview) == bytes_of(session, mesh)


def test_an_inline_text_larger_than_any_frame_limit_arrives(session: ComfySession) -> None:
    graph = picture()
    words = "word " * 1_200_000
    graph["4"] = {"class_type": "PreviewAny", "inputs": {"source": words}}
    result = session.submit(graph, prompt_id=new_id()).wait(timeout_s=20)
    (text,) = [item for item in result.outputs if item.kind == "text"]
    assert text.text == words
