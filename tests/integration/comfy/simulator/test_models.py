"""Over HTTP: what loading models costs a simulated server, what it forgets when, and what it says of that."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.simulator_process import SimulatorProcess, simulator

SD15, SDXL = "v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors"
SD15_BYTES, SDXL_BYTES = 2_100_000_000, 6_900_000_000
GIB = 1024**3


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def text_to_image(ckpt: str, seed: int = 1, steps: int = 1) -> dict[str, Any]:
    sampler = {"cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=ckpt),
        "2": node("CLIPTextEncode", text="a fox", clip=["1", 1]),
        "3": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "4": node(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["2", 0],
            latent_image=["3", 0],
            seed=seed,
            steps=steps,
            **sampler,
        ),
        "5": node("VAEDecode", samples=["4", 0], vae=["1", 2]),
        "6": node("PreviewImage", images=["5", 0]),
    }


def run(server: SimulatorProcess, graph: dict[str, Any]) -> float:
    """Run a graph to its end, which must be a good one; how long it took, in seconds."""
    reply = requests.post(f"{server.base_url}/prompt", json={"prompt": graph, "client_id": "c"}, timeout=10)
    prompt_id = reply.json()["prompt_id"]
    while not (history := server.get(f"/history/{prompt_id}")):
        time.sleep(0.002)
    status = history[prompt_id]["status"]
    assert status["completed"] is True, status
    stamps = [data["timestamp"] for _, data in status["messages"]]
    return float(stamps[-1] - stamps[0]) / 1000


def free(server: SimulatorProcess, **order: bool) -> None:
    """Order it, and wait until the idle worker has done it."""
    requests.post(f"{server.base_url}/free", json=order, timeout=10)
    while server.get("/system_stats")["devices"][0]["torch_vram_total"]:
        time.sleep(0.002)


def loads(server: SimulatorProcess) -> dict[str, int]:
    """How often something was loaded since the last question, by where it came from or went."""
    counted = {way: each["count"] for way, each in server.get("/simulator/models")["loads"].items()}
    requests.delete(f"{server.base_url}/simulator/models", timeout=10)
    return {way: count for way, count in counted.items() if count}


def held(server: SimulatorProcess) -> list[tuple[str, int, bool, bool]]:
    """Files in memory: bytes in VRAM, whether they are in RAM, whether a node output holds them."""
    files = server.get("/simulator/models")["files"]
    return [(file["name"], file["vram_bytes"], file["in_ram"], file["held"]) for file in files]


def test_loads_and_what_free_does(tmp_path: Path) -> None:
    with simulator(tmp_path, "--simulate-speed", "50") as server:
        before = server.get("/system_stats")
        run(server, text_to_image(SD15))
        assert loads(server) == {"disk": 1, "vram": 1}
        run(server, text_to_image(SD15, seed=2))
        assert loads(server) == {}

        after = server.get("/system_stats")
        assert (after["system"]["ram_total"], after["devices"][0]["vram_total"]) == (64 * GIB, 24 * GIB)
        assert before["system"]["ram_free"] - after["system"]["ram_free"] == SD15_BYTES
        assert before["devices"][0]["vram_free"] - after["devices"][0]["vram_free"] == SD15_BYTES
        assert after["devices"][0]["simulated_resident_models"] == [SD15]

        # Out of VRAM; the node cache and RAM keep it.
        free(server, unload_models=True)
        assert held(server) == [(SD15, 0, True, True)]
        run(server, text_to_image(SD15, seed=3))
        assert loads(server) == {"vram": 1}

        # The node cache goes too, and only the system's file cache still has it.
        free(server, free_memory=True)
        assert held(server) == [(SD15, 0, True, False)]
        assert server.get("/system_stats")["system"]["ram_free"] == before["system"]["ram_free"]
        run(server, text_to_image(SD15, seed=4))
        assert loads(server) == {"ram": 1, "vram": 1}


def test_free_strikes_between_prompts(tmp_path: Path) -> None:
    with simulator(tmp_path, "--simulate-load-seconds", "0", "--simulate-step-seconds", "0.02") as server:
        body = {"prompt": text_to_image(SD15, steps=25), "client_id": "c"}
        prompt_id = requests.post(f"{server.base_url}/prompt", json=body, timeout=10).json()["prompt_id"]
        while not held(server):
            time.sleep(0.002)
        requests.post(f"{server.base_url}/free", json={"unload_models": True}, timeout=10)
        time.sleep(0.1)

        assert not server.get(f"/history/{prompt_id}")
        assert held(server) == [(SD15, SD15_BYTES, True, True)]
        while server.get("/system_stats")["devices"][0]["torch_vram_total"]:
            time.sleep(0.002)
        assert prompt_id in server.get(f"/history/{prompt_id}")


@pytest.mark.parametrize(
    ("flags", "third_run"),
    [
        # Old default: what the latest prompt has is held. New default: the same, unless 128 GB are free.
        ((), {"ram": 1, "vram": 1}),
        (("--simulate-version", "0.28.0"), {"ram": 1, "vram": 1}),
        (("--simulate-version", "0.28.0", "--simulate-no-file-cache"), {"disk": 1, "vram": 1}),
        (("--simulate-version", "0.28.0", "--simulate-ram-gb", "192"), {}),
        (("--simulate-version", "0.28.0", "--simulate-ram-gb", "192", "--simulate-vram-gb", "9"), {"vram": 1}),
        (("--cache-lru", "50"), {}),
        (("--cache-lru", "50", "--disable-smart-memory"), {"vram": 1}),
        (("--cache-none",), {"ram": 1, "vram": 1}),
        (("--cache-none", "--simulate-no-file-cache"), {"disk": 1, "vram": 1}),
        # Room for one of the two, in RAM: each comes from the disk again, although the cache holds both.
        (("--cache-lru", "50", "--simulate-ram-gb", "8", "--simulate-vram-gb", "9"), {"disk": 1, "vram": 1}),
    ],
)
def test_two_models_in_turn(tmp_path: Path, flags: tuple[str, ...], third_run: dict[str, int]) -> None:
    with simulator(tmp_path, "--simulate-speed", "0", *flags) as server:
        for ckpt in (SDXL, SD15):
            run(server, text_to_image(ckpt))
        loads(server)
        run(server, text_to_image(SDXL, seed=2))
        assert loads(server) == third_run


@pytest.mark.parametrize(
    ("flags", "left"),
    [
        (("--cache-none",), [(SD15, 0, True, False)]),
        (("--cache-none", "--simulate-no-file-cache"), []),
        (("--disable-smart-memory",), [(SD15, 0, True, True)]),
        ((), [(SD15, SD15_BYTES, True, True)]),
    ],
)
def test_what_is_left_after_a_prompt(tmp_path: Path, flags: tuple[str, ...], left: list[Any]) -> None:
    with simulator(tmp_path, "--simulate-speed", "0", *flags) as server:
        run(server, text_to_image(SD15))
        assert held(server) == left


def test_a_model_larger_than_vram_runs_and_is_slower(tmp_path: Path) -> None:
    flags = ("--simulate-disk-speed", "0", "--simulate-bus-speed", "50", "--simulate-step-seconds", "0")
    with simulator(tmp_path, *flags, "--simulate-vram-gb", "4") as server:
        run(server, text_to_image(SDXL))
        short_s = run(server, text_to_image(SDXL, seed=2))
        long_s = run(server, text_to_image(SDXL, seed=3, steps=11))
        streamed = server.get("/simulator/models")["loads"]["stream"]

    # One pass encodes the text, which is cached then, one decodes each picture; beside the weights 1.2 GiB are free.
    outside_bytes = SDXL_BYTES - round(2.8 * GIB)
    assert streamed["count"] == 3 + 2 + 12
    assert streamed["size_bytes"] == pytest.approx(17 * outside_bytes, rel=0.001)
    assert streamed["seconds"] == pytest.approx(17 * outside_bytes / 50e9, rel=0.001)
    assert long_s - short_s >= 0.6


def test_files_are_listed_with_their_sizes(tmp_path: Path) -> None:
    mine = tmp_path / "models" / "vae" / "sub" / "mine.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"12345")
    (mine.parent / "notes.txt").touch()
    flags = ("--models-directory", str(tmp_path / "models"), "--simulate-model", f"checkpoints/{SDXL}=1.5")
    with simulator(tmp_path, *flags, "--simulate-speed", "0") as server:
        listed = {file["name"]: file for file in server.get("/experiment/models/vae")}
        assert listed["sub/mine.safetensors"] == {
            "name": "sub/mine.safetensors",
            "pathIndex": 0,
            "modified": mine.stat().st_mtime,
            "created": mine.stat().st_ctime,
            "size": 5,
        }
        assert listed["ae.safetensors"]["size"] == 340_000_000
        assert "sub/notes.txt" not in listed
        sizes = {file["name"]: file["size"] for file in server.get("/api/experiment/models/checkpoints")}
        assert (sizes[SDXL], sizes[SD15]) == (1_500_000_000, SD15_BYTES)

        folders = server.get("/experiment/models")
        assert {"name": "vae", "folders": [str(tmp_path / "models" / "vae")]} in folders
        assert not {"configs", "custom_nodes"} & {folder["name"] for folder in folders}
        missing = requests.get(f"{server.base_url}/experiment/models/nope", timeout=10)
        assert (missing.status_code, missing.content) == (404, b"")

        run(server, text_to_image(SDXL))
        assert held(server) == [(SDXL, 1_500_000_000, True, True)]
