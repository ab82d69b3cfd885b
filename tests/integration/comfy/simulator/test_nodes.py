"""The simulator's nodes: pictures that are really made, every kind of output, and the timing model of the stand-ins."""

from __future__ import annotations

import io
import itertools
import json
import time
import uuid
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket
from PIL import Image

from comfy.prompts.session import ComfySession
from core.errors import ComfyOutOfMemory
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import PATIENCE, quickest, until

CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    flags = ("--simulate-load-seconds", "0.2", "--simulate-step-seconds", "0.005", "--simulate-vram-gb", "8")
    # Whatever is loaded again is read again.
    with simulator(tmp_path_factory.mktemp("nodes"), *flags, "--simulate-no-file-cache") as process:
        yield process


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def empty(width: int = 32, height: int = 16, batch_size: int = 1, color: int = 0x336699) -> dict[str, Any]:
    return node("EmptyImage", width=width, height=height, batch_size=batch_size, color=color)


def save(source: str, prefix: str) -> dict[str, Any]:
    return node("SaveImage", images=[source, 0], filename_prefix=prefix)


def run(server: SimulatorProcess, graph: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Run a graph to its end, which must be a good one; the history entry."""
    reply = requests.post(f"{server.base_url}/prompt", json={"prompt": graph, "client_id": "c", **more}, timeout=10)
    assert reply.status_code == 200, reply.text
    assert reply.json()["node_errors"] == {}
    prompt_id = reply.json()["prompt_id"]
    while not (history := server.get(f"/history/{prompt_id}")):
        time.sleep(0.002)
    entry = dict(history[prompt_id])
    assert entry["status"]["completed"] is True, entry["status"]
    return entry


def fetch(server: SimulatorProcess, item: dict[str, str]) -> bytes:
    reply = requests.get(f"{server.base_url}/view", params=item, timeout=10)
    assert reply.status_code == 200
    return reply.content


def made(server: SimulatorProcess, *nodes: dict[str, Any]) -> Image.Image:
    """The picture that nodes numbered from 1 make, the last one feeding a SaveImage."""
    graph = {str(number): each for number, each in enumerate(nodes, 1)}
    graph["99"] = save(str(len(nodes)), "made/x")
    item = run(server, graph)["outputs"]["99"]["images"][0]
    return Image.open(io.BytesIO(fetch(server, item)))


def test_pictures_are_really_made(server: SimulatorProcess) -> None:
    blue = made(server, empty())
    assert (blue.size, blue.getpixel((0, 0))) == ((32, 16), (0x33, 0x66, 0x99))
    # Cut off rather than rounded on the way to 8 bits, as in ComfyUI: hence not 0x66.
    assert made(server, empty(), node("ImageInvert", image=["1", 0])).getpixel((0, 0)) == (0xCC, 0x99, 0x65)
    scale = node("ImageScale", image=["1", 0], upscale_method="lanczos", width=0, height=64, crop="disabled")
    assert made(server, empty(), scale).size == (128, 64)
    scale = node("ImageScale", image=["1", 0], upscale_method="area", width=20, height=20, crop="center")
    assert made(server, empty(), scale).size == (20, 20)
    by_half = node("ImageScaleBy", image=["1", 0], upscale_method="bicubic", scale_by=0.5)
    assert made(server, empty(), by_half).size == (16, 8)
    crop = node("ImageCrop", image=["1", 0], width=10, height=4, x=2, y=2)
    assert made(server, empty(), crop).size == (10, 4)
    blend = node("ImageBlend", image1=["1", 0], image2=["2", 0], blend_factor=0.5, blend_mode="normal")
    mixed = made(server, empty(color=0), empty(color=0xFFFFFF), blend).getpixel((0, 0))
    assert mixed in ((127, 127, 127), (128, 128, 128))


def test_batches_give_one_file_each(server: SimulatorProcess) -> None:
    batch = node("ImageBatch", image1=["1", 0], image2=["2", 0])
    entry = run(server, {"1": empty(batch_size=2), "2": empty(color=1), "3": batch, "4": save("3", "batch/%width%x")})
    names = [item["filename"] for item in entry["outputs"]["4"]["images"]]
    assert names == ["32x_00001_.png", "32x_00002_.png", "32x_00003_.png"]


def test_counters_and_prefixes(server: SimulatorProcess) -> None:
    for number in (1, 2):
        entry = run(server, {"1": empty(color=number), "2": save("1", "deep/er/n%batch_num%_%height%")})
        item = entry["outputs"]["2"]["images"][0]
        assert item == {"filename": f"n0_16_0000{number}_.png", "subfolder": "deep/er", "type": "output"} or number == 2
    (server.output_dir / "gap").mkdir()
    (server.output_dir / "gap" / "x_00041_.png").write_bytes(b"")
    entry = run(server, {"1": empty(color=9), "2": save("1", "gap/x")})
    assert entry["outputs"]["2"]["images"][0]["filename"] == "x_00042_.png"


def test_prefix_cannot_leave_the_output_folder(server: SimulatorProcess) -> None:
    graph = {"1": empty(), "2": save("1", "../../escaped")}
    reply = requests.post(f"{server.base_url}/prompt", json={"prompt": graph}, timeout=10)
    prompt_id = reply.json()["prompt_id"]
    while not (history := server.get(f"/history/{prompt_id}")):
        time.sleep(0.002)
    assert history[prompt_id]["status"]["status_str"] == "error"


def test_uploaded_picture_goes_through(server: SimulatorProcess) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (6, 5), (250, 10, 20, 255)).save(buffer, "PNG")
    requests.post(f"{server.base_url}/upload/image", files={"image": ("in.png", buffer.getvalue())}, timeout=10)
    graph = {"1": node("LoadImage", image="in.png"), "2": save("1", "load/a")}
    item = run(server, graph)["outputs"]["2"]["images"][0]
    with Image.open(io.BytesIO(fetch(server, item))) as picture:
        assert (picture.size, picture.getpixel((0, 0))) == ((6, 5), (250, 10, 20))
    # The same name with other bytes runs again: the cache goes by the file's hash.
    Image.new("RGB", (3, 3)).save(server.input_dir / "in.png")
    again = run(server, graph)["outputs"]["2"]["images"][0]
    assert again["filename"] == "a_00002_.png"
    assert run(server, graph)["outputs"]["2"]["images"][0] == again
    assert "in.png" in server.get("/object_info/LoadImage")["LoadImage"]["input"]["required"]["image"][0]


def test_graph_is_written_into_the_file(server: SimulatorProcess, tmp_path: Path) -> None:
    graph = {"1": empty(), "2": save("1", "meta/x")}
    extra = {"extra_pnginfo": {"workflow": {"id": "w1"}}}
    item = run(server, graph, extra_data=extra)["outputs"]["2"]["images"][0]
    with Image.open(io.BytesIO(fetch(server, item))) as picture:
        assert json.loads(picture.info["prompt"]) == graph
        assert json.loads(picture.info["workflow"]) == {"id": "w1"}
    assert server.get("/api/jobs?workflow_id=w1")["pagination"]["total"] == 1
    with simulator(tmp_path, "--disable-metadata") as bare:
        item = run(bare, graph)["outputs"]["2"]["images"][0]
        with Image.open(io.BytesIO(fetch(bare, item))) as picture:
            assert "prompt" not in picture.info


def test_every_kind_of_output(server: SimulatorProcess) -> None:
    graph = {
        "1": empty(batch_size=3),
        "2": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "3": node("CreateVideo", images=["1", 0], fps=8.0),
        "4": node("SimulatedMesh"),
        "11": node("PreviewImage", images=["1", 0]),
        "12": node("SaveLatent", samples=["2", 0], filename_prefix="kinds/l"),
        "13": node("SaveVideo", video=["3", 0], filename_prefix="kinds/v", format="auto", codec="auto"),
        "14": node("SimulatedSaveAudio", filename_prefix="kinds/a", seconds=0.1),
        "15": node("SaveGLB", mesh=["4", 0], filename_prefix="kinds/m"),
        "16": node("PreviewAny", source="words"),
        "17": node(
            "SaveAnimatedWEBP",
            images=["1", 0],
            filename_prefix="kinds/w",
            fps=6.0,
            lossless=True,
            quality=80,
            method="default",
        ),
        "18": node(
            "VHS_VideoCombine",
            images=["1", 0],
            frame_rate=8,
            loop_count=0,
            filename_prefix="kinds/g",
            format="image/gif",
            pingpong=False,
            save_output=True,
        ),
        "19": node("Preview3D", model_file="kinds/m_00001_.glb"),
    }
    outputs = run(server, graph)["outputs"]
    assert {key: sorted(ui) for key, ui in outputs.items()} == {
        "11": ["images"],
        "12": ["latents"],
        "13": ["animated", "images"],
        "14": ["audio"],
        "15": ["3d"],
        "16": ["text"],
        "17": ["animated", "images"],
        "18": ["gifs"],
        "19": ["result"],
    }
    assert outputs["16"]["text"] == ["words"]
    assert outputs["13"]["animated"] == outputs["17"]["animated"] == [True]
    assert outputs["19"]["result"] == ["kinds/m_00001_.glb", None]
    assert outputs["11"]["images"][0]["type"] == "temp"
    assert set(outputs["18"]["gifs"][0]) >= {"filename", "subfolder", "type", "format", "frame_rate", "fullpath"}
    assert fetch(server, outputs["13"]["images"][0])[4:8] == b"ftyp"
    assert fetch(server, outputs["15"]["3d"][0])[:4] == b"glTF"
    latent = fetch(server, outputs["12"]["latents"][0])
    header = json.loads(latent[8 : 8 + int.from_bytes(latent[:8], "little")])
    assert header["latent_tensor"]["shape"] == [1, 4, 8, 8]
    with wave.open(io.BytesIO(fetch(server, outputs["14"]["audio"][0]))) as tone:
        assert tone.getnframes() == 1600
    for key, kind in (("17", "images"), ("18", "gifs")):
        item = {name: outputs[key][kind][0][name] for name in ("filename", "subfolder", "type")}
        with Image.open(io.BytesIO(fetch(server, item))) as moving:
            assert moving.size == (32, 16)


def text_to_image(prompt: str = "a red fox", seed: int = 1, ckpt: str = CHECKPOINT, **sampler: Any) -> dict[str, Any]:
    settings = {"steps": 6, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0, **sampler}
    links = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=ckpt),
        "2": node("CLIPTextEncode", text=prompt, clip=["1", 1]),
        "3": node("CLIPTextEncode", text="blurry", clip=["1", 1]),
        "4": node("EmptyLatentImage", width=256, height=192, batch_size=1),
        "5": node("KSampler", seed=seed, **settings, **links),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": save("6", "t2i/x"),
    }


def drawn(server: SimulatorProcess, graph: dict[str, Any]) -> bytes:
    item = run(server, graph)["outputs"]["7"]["images"][0]
    with Image.open(io.BytesIO(fetch(server, item))) as picture:
        assert picture.size == (256, 192)
        return picture.tobytes()


def test_picture_depends_on_prompt_and_seed_only(server: SimulatorProcess) -> None:
    first = drawn(server, text_to_image())
    assert drawn(server, text_to_image("a blue fox")) != first
    assert drawn(server, text_to_image(seed=2)) != first
    assert drawn(server, text_to_image()) == first


def duration_s(entry: dict[str, Any]) -> float:
    stamps = [data["timestamp"] for _, data in entry["status"]["messages"]]
    return float(stamps[-1] - stamps[0]) / 1000


def test_loading_costs_once(server: SimulatorProcess) -> None:
    requests.post(f"{server.base_url}/free", json={"free_memory": True}, timeout=5)
    # An idle worker does it at once, but a prompt that comes right behind the order would still be run first.
    time.sleep(0.1)
    cold = run(server, text_to_image("cold"))
    warm = run(server, text_to_image("warm"))
    further = (run(server, text_to_image(f"warm {number}")) for number in itertools.count())
    assert duration_s(cold) >= 0.2
    assert min(duration_s(warm), quickest(lambda: duration_s(next(further)), limit_s=0.2, tries=20)) < 0.2
    assert set(warm["status"]["messages"][1][1]["nodes"]) == {"1", "3", "4"}
    device = server.get("/system_stats")["devices"][0]
    assert device["simulated_resident_models"] == [CHECKPOINT]
    assert device["vram_total"] - device["vram_free"] == 2_100_000_000
    requests.post(f"{server.base_url}/free", json={"unload_models": True}, timeout=5)
    time.sleep(0.1)
    assert server.get("/system_stats")["devices"][0]["simulated_resident_models"] == []


def test_classic_cache_drops_what_the_latest_prompt_lacks(server: SimulatorProcess) -> None:
    run(server, text_to_image("a"))
    run(server, text_to_image("a", ckpt="dreamshaper_8.safetensors"))
    back = run(server, text_to_image("a"))
    assert back["status"]["messages"][1][1]["nodes"] == ["4"]
    assert duration_s(back) >= 0.2


@pytest.mark.parametrize(
    ("flags", "cached"),
    [
        (("--cache-lru", "50"), ["1", "2"]),
        (("--cache-ram",), ["1", "2"]),
        (("--cache-none",), []),
        (("--cache-classic",), []),
        # The default since 0.22: less than 128 GB are free, so what the running prompt lacks goes.
        (("--simulate-version", "0.28.0"), []),
        (("--simulate-version", "0.28.0", "--simulate-ram-gb", "192"), ["1", "2"]),
        (("--simulate-version", "0.28.0", "--cache-ram", "4", "8"), ["1", "2"]),
    ],
)
def test_cache_modes_a_b_a(tmp_path: Path, flags: tuple[str, ...], cached: list[str]) -> None:
    with simulator(tmp_path, *flags) as server:
        graphs = [{"1": empty(color=color), "2": save("1", f"aba/{color}")} for color in (1, 2, 1)]
        entries = [run(server, graph) for graph in graphs]
    assert entries[2]["status"]["messages"][1][1]["nodes"] == cached


def test_eviction(tmp_path: Path) -> None:
    flags = ("--simulate-vram-gb", "8", "--cache-ram", "--simulate-load-seconds", "0", "--simulate-speed", "100")
    with simulator(tmp_path, *flags) as server:
        for ckpt in (CHECKPOINT, "dreamshaper_8.safetensors", "sd_xl_base_1.0.safetensors"):
            run(server, text_to_image(ckpt=ckpt))
        assert server.get("/system_stats")["devices"][0]["simulated_resident_models"] == ["sd_xl_base_1.0.safetensors"]


def test_flux_graph_with_previews(tmp_path: Path) -> None:
    graph = {
        "1": node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
        "2": node(
            "DualCLIPLoader",
            clip_name1="t5xxl_fp16.safetensors",
            clip_name2="clip_l.safetensors",
            type="flux",
        ),
        "3": node("VAELoader", vae_name="ae.safetensors"),
        "4": node("CLIPTextEncode", text="harbour", clip=["2", 0]),
        "5": node("FluxGuidance", conditioning=["4", 0], guidance=3.5),
        "6": node("ModelSamplingFlux", model=["1", 0], max_shift=1.15, base_shift=0.5, width=64, height=64),
        "7": node("BasicGuider", model=["6", 0], conditioning=["5", 0]),
        "8": node("RandomNoise", noise_seed=5),
        "9": node("KSamplerSelect", sampler_name="euler"),
        "10": node("BasicScheduler", model=["6", 0], scheduler="simple", steps=3, denoise=1.0),
        "11": node("EmptySD3LatentImage", width=64, height=64, batch_size=2),
        "12": node(
            "SamplerCustomAdvanced",
            noise=["8", 0],
            guider=["7", 0],
            sampler=["9", 0],
            sigmas=["10", 0],
            latent_image=["11", 0],
        ),
        "13": node("VAEDecode", samples=["12", 0], vae=["3", 0]),
        "14": save("13", "flux/x"),
    }
    with simulator(tmp_path, "--simulate-speed", "1000", "--preview-method", "auto") as server:
        socket = websocket.create_connection(f"{server.ws_url}?clientId=c", timeout=10)
        entry = run(server, graph)
        assert len(entry["outputs"]["14"]["images"]) == 2
        previews, message = 0, socket.recv()
        while '"node": null' not in str(message):
            previews += isinstance(message, bytes)
            message = socket.recv()
        assert previews == 3
        # One prompt may ask for none.
        run(server, {**graph, "8": node("RandomNoise", noise_seed=6)}, extra_data={"preview_method": "none"})
        messages = [socket.recv()]
        while '"node": null' not in str(messages[-1]):
            messages.append(socket.recv())
        assert not any(isinstance(each, bytes) for each in messages)
        socket.close()


def video_graph(*, length: int, batch_size: int = 1, width: int = 64, height: int = 48) -> dict[str, Any]:
    return {
        "1": node("UNETLoader", unet_name="wan2.1_t2v_1.3B_fp16.safetensors", weight_dtype="default"),
        "2": node("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan"),
        "3": node("VAELoader", vae_name="wan_2.1_vae.safetensors"),
        "4": node("ModelSamplingSD3", model=["1", 0], shift=8.0),
        "5": node("CLIPTextEncode", text="a fox in the snow", clip=["2", 0]),
        "6": node("EmptyHunyuanLatentVideo", width=width, height=height, length=length, batch_size=batch_size),
        "7": node(
            "KSampler",
            model=["4", 0],
            seed=3,
            steps=2,
            cfg=6.0,
            sampler_name="uni_pc",
            scheduler="simple",
            positive=["5", 0],
            negative=["5", 0],
            latent_image=["6", 0],
            denoise=1.0,
        ),
        "8": node("VAEDecode", samples=["7", 0], vae=["3", 0]),
    }


def test_videos_are_frames_one_video_after_the_other(server: SimulatorProcess) -> None:
    graph = video_graph(length=11, batch_size=2) | {
        "9": save("8", "video/x"),
        "10": node("SaveLatent", samples=["7", 0]),
    }
    graph["10"]["inputs"]["filename_prefix"] = "video/latent"
    outputs = run(server, graph)["outputs"]
    frames = [fetch(server, item) for item in outputs["9"]["images"]]
    pixels = [Image.open(io.BytesIO(frame)).tobytes() for frame in frames]
    # 11 frames are 9, which are 3 in the latent; all of both videos differ.
    assert (len(pixels), len(set(pixels))) == (18, 18)
    latent = fetch(server, outputs["10"]["latents"][0])
    header = json.loads(latent[8 : 8 + int.from_bytes(latent[:8], "little")])
    assert header["latent_tensor"]["shape"] == [2, 16, 3, 6, 8]


def test_a_video_too_long_to_decode_runs_out_of_simulated_memory(server: SimulatorProcess) -> None:
    graph = video_graph(length=16381, width=1024, height=1024) | {"9": node("PreviewImage", images=["8", 0])}
    with ComfySession(server.base_url) as session, pytest.raises(ComfyOutOfMemory):
        session.submit(graph, prompt_id=str(uuid.uuid4())).wait(timeout_s=30)


def test_a_style_gives_its_colours(server: SimulatorProcess) -> None:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(server.input_dir / "red.png")
    graph = text_to_image("a room")
    graph["20"] = node("LoadImage", image="red.png")
    graph["21"] = node("CLIPVisionLoader", clip_name="clip-vit-large-patch14.safetensors")
    graph["22"] = node("CLIPVisionEncode", clip_vision=["21", 0], image=["20", 0], crop="center")
    graph["23"] = node("StyleModelLoader", style_model_name="t2iadapter_style_sd14v1.pth")
    graph["24"] = node(
        "StyleModelApply",
        conditioning=graph["5"]["inputs"]["positive"],
        style_model=["23", 0],
        clip_vision_output=["22", 0],
        strength=0.6,
        strength_type="multiply",
    )
    graph["5"]["inputs"]["positive"] = ["24", 0]
    item = run(server, graph)["outputs"]["7"]["images"][0]
    corner = Image.open(io.BytesIO(fetch(server, item))).convert("RGB").getpixel((0, 0))

    assert isinstance(corner, tuple)
    assert corner[0] > 150 > 60 > max(corner[1:])


def test_image_to_image_and_upscaling(server: SimulatorProcess) -> None:
    Image.new("RGB", (80, 48), "white").save(server.input_dir / "white.png")
    graph = text_to_image("over it", denoise=0.4)
    graph["8"] = node("LoadImage", image="white.png")
    graph["4"] = node("VAEEncode", pixels=["8", 0], vae=["1", 2])
    graph["9"] = node("UpscaleModelLoader", model_name="RealESRGAN_x4plus.pth")
    graph["10"] = node("ImageUpscaleWithModel", upscale_model=["9", 0], image=["6", 0])
    graph["7"] = save("10", "i2i/x")
    item = run(server, graph)["outputs"]["7"]["images"][0]
    with Image.open(io.BytesIO(fetch(server, item))) as picture:
        assert picture.size == (320, 192)
        # With little denoising the white source shines through everywhere but in the caption.
        upper = picture.convert("L").crop((0, 60, 320, 120))
        assert min(upper.tobytes()) > 100


def test_simulated_work_takes_its_time(server: SimulatorProcess) -> None:
    colors = itertools.count()

    def work(seconds: float) -> float:
        inner = node("SimulatedWork", image=["1", 0], seconds=seconds, steps=5)
        graph = {"1": empty(color=next(colors)), "2": inner, "3": save("2", "work/x")}
        return duration_s(run(server, graph))

    assert quickest(lambda: work(0), limit_s=0.1, tries=20) < 0.1
    assert 0.3 <= quickest(lambda: work(0.3), limit_s=0.45, tries=20) < 0.45


def test_work_notices_an_interrupt_within_a_long_step(server: SimulatorProcess) -> None:
    inner = node("SimulatedWork", image=["1", 0], seconds=30.0, steps=1)
    graph = {"1": empty(), "2": inner, "3": save("2", "work/long")}
    prompt_id = requests.post(f"{server.base_url}/prompt", json={"prompt": graph}, timeout=5).json()["prompt_id"]
    until(lambda: server.get("/queue")["queue_running"], what="its begin")
    started = time.monotonic()
    requests.post(f"{server.base_url}/interrupt", json={"prompt_id": prompt_id}, timeout=5)
    until(lambda: server.get(f"/history/{prompt_id}"), what="its end")
    # The one step would take ten times as long.
    assert time.monotonic() - started < 3.0 * PATIENCE


def test_added_model_and_newer_release(tmp_path: Path) -> None:
    flags = ("--simulate-version", "0.28.0", "--simulate-model", "checkpoints/mine.safetensors")
    with simulator(tmp_path, *flags, "--simulate-speed", "0", "--simulate-load-seconds", "600") as server:
        assert "mine.safetensors" in server.get("/models/checkpoints")
        run(server, text_to_image(ckpt="mine.safetensors"))
        url = f"{server.base_url}/prompt"
        body = requests.post(url, json={"prompt": {"1": {"class_type": "Nope", "inputs": {}}}}, timeout=5).json()
        assert body["error"]["type"] == "missing_node_type"
        assert body["error"]["extra_info"] == {"node_id": "1", "class_type": "Nope", "node_title": "Nope"}
        refused = requests.post(
            url, json={"prompt": {"1": empty(), "2": save("1", "x")}, "prompt_id": "abc"}, timeout=5
        )
        assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_prompt_id")
        cancel = requests.post(f"{server.base_url}/api/jobs/976fee04-c955-4bc1-898a-77acf3034d38/cancel", timeout=5)
        assert (cancel.status_code, cancel.json()) == (200, {"cancelled": False})
        headers = {"Sec-Fetch-Site": "cross-site"}
        assert requests.get(url, headers=headers, timeout=5).status_code == 403


def test_bad_command_lines(tmp_path: Path) -> None:
    for flags in (("--simulate-version", "0.3.10"), ("--simulate-fault", "nonsense"), ("--user-directory", "/nowhere")):
        with pytest.raises(RuntimeError, match="ended at once"), simulator(tmp_path, *flags):
            pass


@pytest.mark.slow
def test_a_bomb_of_batches_runs_out_of_simulated_memory(tmp_path: Path) -> None:
    graph: dict[str, Any] = {
        "0": {"class_type": "EmptyImage", "inputs": {"width": 2048, "height": 2048, "batch_size": 1, "color": 0}}
    }
    for number in range(1, 31):
        link = [str(number - 1), 0]
        graph[str(number)] = {"class_type": "ImageBatch", "inputs": {"image1": link, "image2": link}}
    graph["31"] = {"class_type": "PreviewImage", "inputs": {"images": ["30", 0]}}
    with simulator(tmp_path) as server, ComfySession(server.base_url) as session:
        with pytest.raises(ComfyOutOfMemory):
            session.submit(graph, prompt_id=str(uuid.uuid4())).wait(timeout_s=60)
        status = Path(f"/proc/{server.pid}/status").read_text()

    peak_kib = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kib < 4 * 1024**2
