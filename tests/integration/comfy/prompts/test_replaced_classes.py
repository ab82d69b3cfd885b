"""Classes of the past, which newer servers replace: they are taken where the server takes them."""

from __future__ import annotations

import io
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from comfy.client.client import ComfyClient
from core.errors import InvalidWorkflow, PromptRejected
from tasks.instance.probe import read_catalogue
from tests.simulator_process import simulator
from workflows.graphs.checks import check_graph

PROMPT_ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def graph(class_type: str = "T2IAdapterLoader", name: str = "control_v11p_sd15_canny_fp16.safetensors") -> Any:
    return {
        "1": {"class_type": class_type, "inputs": {"t2i_adapter_name": name}},
        "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
    }


def test_a_newer_server_takes_them_and_so_do_we(tmp_path: Path) -> None:
    with (
        simulator(tmp_path, "--simulate-version", "0.33.0") as server,
        closing(ComfyClient(server.base_url)) as client,
    ):
        catalogue = read_catalogue(client)
        assert check_graph(graph(), catalogue) == {"1", "2"}
        assert client.post_prompt(graph(), prompt_id=PROMPT_ID, client_id="us").node_errors == {}
        # What is wrong with their inputs, only the server knows.
        check_graph(graph(name="none.safetensors"), catalogue)
        with pytest.raises(PromptRejected, match="control_net_name"):
            client.post_prompt(graph(name="none.safetensors"), prompt_id=PROMPT_ID, client_id="us")
        # Its successor is not there.
        with pytest.raises(InvalidWorkflow, match="SDV_img2vid_Conditioning does not exist"):
            check_graph(graph("SDV_img2vid_Conditioning"), catalogue)
        with pytest.raises(InvalidWorkflow, match="does not run"):
            check_graph(graph(), catalogue, refused_classes={"ControlNetLoader"})


def test_an_older_server_takes_none(tmp_path: Path) -> None:
    with simulator(tmp_path) as server, closing(ComfyClient(server.base_url)) as client:
        with pytest.raises(InvalidWorkflow, match="does not exist"):
            check_graph(graph(), read_catalogue(client))
        with pytest.raises(PromptRejected, match="does not exist"):
            client.post_prompt(graph(), prompt_id=PROMPT_ID, client_id="us")


def test_outputs_that_moved_have_the_types_that_they_had(tmp_path: Path) -> None:
    with (
        simulator(tmp_path, "--simulate-version", "newest") as server,
        closing(ComfyClient(server.base_url)) as client,
    ):
        client.upload_image(a_picture(), name="a.png")
        old = {"class_type": "SimulatedLoadMaskAndImage", "inputs": {"picture": "a.png"}}
        shown = {"class_type": "SaveImage", "inputs": {"images": ["1", 1], "filename_prefix": "x"}}
        assert check_graph({"1": old, "2": shown}, read_catalogue(client)) == {"1", "2"}
        assert read_catalogue(client)["SimulatedLoadMaskAndImage"]["output"] == ["MASK", "IMAGE"]
        assert client.post_prompt({"1": old, "2": shown}, prompt_id=PROMPT_ID, client_id="us").node_errors == {}
        shown["inputs"] = {"images": ["1", 0], "filename_prefix": "x"}
        with pytest.raises(PromptRejected, match="MASK"):
            client.post_prompt({"1": old, "2": shown}, prompt_id=PROMPT_ID, client_id="us")


def a_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
    return buffer.getvalue()
