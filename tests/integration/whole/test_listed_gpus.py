"""The listing of GPUs beside a worker and a ComfyUI: what it holds is what its warm-up and its jobs have loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.fleet import ROOT, Fleet

WARM_UP = ROOT / "workflows" / "demo.json"
#: With the sizes that the simulator tells.
SD15, SDXL = ("v1-5-pruned-emaonly-fp16.safetensors", 2_100_000_000), ("sd_xl_base_1.0.safetensors", 6_900_000_000)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"simulated_gpus": "1", "host": "here", "pool": "fast", "warmup_workflow": str(WARM_UP)}
    settings |= {"simulator_args": "--simulate-speed 0"}
    with Fleet(tmp_path_factory.mktemp("listed"), **settings) as fleet:
        yield fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1, timeout_s=120)


def listed(fleet: Fleet) -> dict[str, Any]:
    [gpu] = requests.get(f"{fleet.base_url}/api/v2/gpus", timeout=10).json()["gpus"]
    return dict(gpu)


def held(gpu: dict[str, Any]) -> list[tuple[str, int | None]]:
    return [(model["name"], model["size_bytes"]) for model in gpu["models"]]


def draw(fleet: Fleet, model: str, seed: int) -> None:
    """Run a job with a model to its end."""
    graph = json.loads(WARM_UP.read_text())
    for node in graph.values():
        if "ckpt_name" in node["inputs"]:
            node["inputs"]["ckpt_name"] = model
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] = seed
    fleet.wait(fleet.submit(graph), "succeeded")


def test_the_listing_names_what_is_held_with_its_size_and_counts_loads(fleet: Fleet) -> None:
    fresh = listed(fleet)
    assert (fresh["pool"], fresh["gpu_kind"]) == ("fast", fresh["device"])
    assert fresh["vram_bytes"] > 1_000_000_000
    assert held(fresh) == [SD15], "its warm-up has loaded it"

    seen = []
    for seed, (model, _) in enumerate([SD15, SDXL, SD15]):
        draw(fleet, model, seed)
        gpu = listed(fleet)
        seen.append((held(gpu), gpu["loads_today"], gpu["loading_s_today"] > 0))
    assert seen == [([SD15], 0, False), ([SDXL], 1, True), ([SD15], 2, True)]
