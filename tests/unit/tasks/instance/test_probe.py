"""What an instance says of itself after a start."""

from __future__ import annotations

from typing import Any

import pytest

from comfy.client.replacements import Replacement
from core.errors import ComfyUnavailable
from tasks.instance import probe
from tasks.instance.probe import InstanceInfo, read_catalogue, read_info

NODES = {"New": {"input": {"required": {}}, "output": ["IMAGE"], "output_node": False}, "Other": {"input": {}}}


class Client:
    """The HTTP client of an instance."""

    def __init__(self, base_url: str = "") -> None:
        self.base_url = base_url
        self.stats: dict[str, Any] = {}
        self.replacements: dict[str, Replacement] = {}
        self.sizes: dict[str, int] | ComfyUnavailable = {}
        self.is_closed = False

    def model_sizes(self) -> dict[str, int]:
        if isinstance(self.sizes, ComfyUnavailable):
            raise self.sizes
        return self.sizes

    def system_stats(self) -> dict[str, Any]:
        return self.stats

    def object_info(self) -> dict[str, Any]:
        return NODES

    def node_replacements(self) -> dict[str, Replacement]:
        return self.replacements

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(
    ("stats", "version", "device"),
    [
        (
            {"system": {"comfyui_version": "0.3.64"}, "devices": [{"name": "cuda:0"}, {"name": "cpu"}]},
            "0.3.64",
            "cuda:0",
        ),
        (
            {
                "system": {"comfyui_version": "0.38.1"},
                "devices": [{"name": f"cuda:{index} NVIDIA L4 : native"} for index in range(2)],
            },
            "0.38.1",
            "2 x NVIDIA L4",
        ),
        ({"system": {"comfyui_version": 3}, "devices": [{"name": 7}]}, "3", "7"),
        ({"system": {"comfyui_version": ""}, "devices": [{}]}, "unknown", None),
        ({"devices": []}, "unknown", None),
        ({"devices": None}, "unknown", None),
        ({}, "unknown", None),
    ],
)
def test_what_it_does_not_say_is_unknown(
    monkeypatch: pytest.MonkeyPatch, stats: dict[str, Any], version: str, device: str | None
) -> None:
    client = Client()
    client.stats = stats

    def connect(base_url: str) -> Client:
        client.base_url = base_url
        return client

    monkeypatch.setattr(probe, "ComfyClient", connect)
    assert read_info("http://i") == InstanceInfo(version=version, device=device, object_info=NODES)
    assert (client.base_url, client.is_closed) == ("http://i", True)


@pytest.mark.parametrize(("sizes", "known"), [({"a.sft": 7}, {"a.sft": 7}), (ComfyUnavailable("silent"), {})])
def test_sizes_of_model_files_keep_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int] | ComfyUnavailable, known: dict[str, int]
) -> None:
    client = Client()
    client.sizes = sizes
    monkeypatch.setattr(probe, "ComfyClient", lambda _base_url: client)
    assert read_info("http://i").model_sizes == known


def test_classes_of_the_past_give_what_their_successors_give() -> None:
    client = Client()
    told = {"Old": "New", "Older": "Other", "Other": "New", "Lost": "Gone"}
    client.replacements = {old: Replacement(new_class=new, told=({"new_node_id": new},)) for old, new in told.items()}
    catalogue = read_catalogue(client)  # type: ignore[arg-type]
    assert list(catalogue) == ["New", "Other", "Old", "Older"]
    assert catalogue["Old"] == {
        "input": {},
        "output": ["IMAGE"],
        "output_node": False,
        "replaced_by": "New",
        "replacements": [{"new_node_id": "New"}],
    }
    assert catalogue["Older"] == {
        "input": {},
        "output": None,
        "output_node": None,
        "replaced_by": "Other",
        "replacements": [{"new_node_id": "Other"}],
    }
    assert catalogue["Other"] == NODES["Other"], "what is there is not replaced"
