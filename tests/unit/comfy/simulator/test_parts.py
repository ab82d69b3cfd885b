"""The parts of the simulator that can be judged without a process: releases, faults, cache, names, options."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from comfy.simulator.execution.cache import CacheEntry, NodeCache, Signatures
from comfy.simulator.execution.prompt_queue import PromptQueue
from comfy.simulator.machine.faults import KINDS, Faults
from comfy.simulator.machine.machine import Interrupt, Interrupted
from comfy.simulator.machine.options import parse_options
from comfy.simulator.machine.paths import Paths, is_inside
from comfy.simulator.machine.running_graph import Graph
from comfy.simulator.machine.versions import NEWEST, parse_release
from comfy.simulator.media.drawing import Sketch, draw, main_colours
from comfy.simulator.nodes.registry import build_registry


def test_releases() -> None:
    assert parse_release("v0.3.64").number == (0, 3, 64)
    assert parse_release("0.28").jobs_api
    assert not parse_release("0.5.1").jobs_api
    assert parse_release("0.3.68").cached_outputs_need_client
    assert not parse_release("0.3.67").cached_outputs_need_client
    assert not parse_release("0.28.0").cached_outputs_need_client
    assert parse_release("newest").text == NEWEST
    assert parse_release("newest").is_current
    assert not parse_release("0.28").is_current
    for bad in ("0.3.44", "latest", ""):
        with pytest.raises(ValueError, match="ComfyUI"):
            parse_release(bad)


def test_faults_count_skip_and_wait() -> None:
    faults = Faults()
    faults.order("oom", {"times": 2, "skip": 1})
    assert [faults.take("oom") is not None for _ in range(4)] == [False, True, True, False]
    faults.order("null_lost", {"after_s": 0.05})
    assert faults.take("null_lost") is None
    time.sleep(0.06)
    assert faults.take("null_lost") is not None
    assert faults.order_text("late_history=0.5")[1]["seconds"] == 0.5
    assert faults.order_text("exit=9")[1]["code"] == 9
    for name in ("nonsense", "hang=x"):
        with pytest.raises(ValueError, match=r"unknown|invalid|could not"):
            faults.order_text(name)
    assert all(kind.about for kind in KINDS.values())


def test_signatures_ignore_ids_and_follow_links() -> None:
    classes = build_registry(test_nodes=False)

    def signature(graph: dict[str, object], node_id: str) -> str:
        return Signatures(Graph(graph), classes, lambda _: None).of(node_id)

    def chain(ids: tuple[str, str], color: int) -> dict[str, object]:
        first, second = ids
        inputs = {"width": 8, "height": 8, "batch_size": 1, "color": color}
        return {
            first: {"class_type": "EmptyImage", "inputs": inputs},
            second: {"class_type": "ImageInvert", "inputs": {"image": [first, 0]}, "_meta": {"title": second}},
        }

    assert signature(chain(("1", "2"), 5), "2") == signature(chain(("x", "y"), 5), "y")
    assert signature(chain(("1", "2"), 5), "2") != signature(chain(("1", "2"), 6), "2")
    long: dict[str, object] = {"0": chain(("0", "1"), 1)["0"]}
    for number in range(1, 5000):
        long[str(number)] = {"class_type": "ImageInvert", "inputs": {"image": [str(number - 1), 0]}}
    assert signature(long, "4999") != signature(long, "4998")


def test_lru_drops_whole_generations() -> None:
    cache = NodeCache("lru", 2)
    for keys in (("a", "b"), ("c", "d")):
        cache.begin(set(keys))
        for key in keys:
            cache.put(key, CacheEntry(values=()))
    cache.begin({"a", "e"})
    # "a" was wanted again and counts as new; "b" goes, and that makes too little room, so "c" and "d" go too.
    assert [key for key in "abcd" if cache.get(key)] == ["a"]


def test_a_video_moves_visibly_and_loops() -> None:
    sketch = Sketch(prompt="a fox", negative="", seed=1, model="wan", steps=2)
    start, quarter, end = (draw(sketch, 128, 96, moment=moment) for moment in (0.0, 0.25, 1.0))

    assert end.tobytes() == start.tobytes() == draw(sketch, 128, 96).tobytes()
    changed = ImageChops.difference(start, quarter).convert("L").point(lambda value: 255 if value > 16 else 0)
    assert sum(changed.tobytes()) / 255 > 0.05 * 128 * 96


def test_main_colours() -> None:
    picture = Image.new("RGB", (64, 64), "white")
    picture.paste("navy", (0, 0, 64, 32))

    assert main_colours(picture) == ((255, 255, 255), (255, 255, 255), (0, 0, 128), (0, 0, 128))
    assert main_colours(Image.new("RGB", (3, 3), "red")) == ((255, 0, 0),) * 4


def test_file_names(tmp_path: Path) -> None:
    paths = Paths(input_dir=tmp_path / "in", output_dir=tmp_path / "out", temp_dir=tmp_path / "temp")
    paths.prepare()
    (paths.output_dir / "x_00007_.png").touch()
    (paths.output_dir / "x_00009.png").touch()
    (paths.output_dir / "xy_00012_.png").touch()
    where = paths.save_path("x", "output")
    assert [where.file_name(number, "png") for number in (0, 1)] == ["x_00008_.png", "x_00009_.png"]
    assert paths.save_path("%width%x%height%_%nonsense%", "output", 3, 4).stem == "3x4_%nonsense%"
    assert is_inside(paths.output_dir, paths.output_dir / "a" / ".." / "b")
    assert not is_inside(paths.output_dir, tmp_path / "out2")
    with pytest.raises(ValueError, match="outside"):
        paths.save_path("../in/x", "output")
    assert paths.annotated("a.png [temp]") == ("a.png", paths.temp_dir)


def test_history_forgets_the_oldest() -> None:
    prompts = PromptQueue(lambda: None)
    for number in range(10_003):
        prompts.put((number, str(number), {}, {}, []))
        taken = prompts.get(0)
        assert taken is not None
        prompts.finish(taken[1], {"outputs": {}})
    history = prompts.history()
    assert (len(history), next(iter(history))) == (10_001, "2")


def test_interrupt_strikes_once() -> None:
    interrupt = Interrupt()
    interrupt.check()
    interrupt.set()
    with pytest.raises(Interrupted):
        interrupt.wait(10)
    interrupt.check()


def test_command_line_of_a_real_comfyui_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    argv = ["--listen", "127.0.0.1", "--port", "1", "--disable-auto-launch", "--cuda-device", "3", "--preview-method"]
    argv += ["auto", "--database-url", "sqlite:///x", "--temp-directory", str(tmp_path), "--user-directory"]
    argv += [
        str(tmp_path),
        "--extra-model-paths-config",
        str(tmp_path / "a.yaml"),
        "--cache-lru",
        "10",
        "--disable-metadata",
    ]
    argv += ["--disable-metadata", "--max-upload-size", "0.5", "--disable-all-custom-nodes", "--fast"]
    options = parse_options(argv)
    assert options.temp_dir == tmp_path / "temp"
    assert (options.cache_mode, options.cache_entries, options.preview_method) == ("lru", 10, "auto")
    assert (options.max_body_bytes, options.write_metadata, options.cuda_device) == (524288, False, "3")
    with pytest.raises(SystemExit):
        parse_options(["--cache-lru", "3", "--cache-none"])


def test_command_line_of_a_newer_comfyui_is_accepted() -> None:
    argv = ["--verbose", "--async-offload", "2", "--vram-headroom", "1", "--disable-nvml-pressure", "--disable-assets"]
    argv += ["--disable-partner-nodes", "--feature-flag", "show_signin_button", "--default-hashing-function", "sha256"]
    options = parse_options([*argv, "--cache-ram", "4", "20"])
    assert (options.cache_mode, options.idle_headroom_bytes) == ("ram", 4 * 1024**3)
    with pytest.raises(SystemExit):
        parse_options(["--cache-ram", "1", "2", "3"])


@pytest.mark.parametrize(
    ("argv", "count"),
    [
        ([], 1),
        (["--cuda-device", "3"], 1),
        (["--cuda-device", "0,2"], 2),
        (["--simulate-gpus", "4"], 4),
        (["--cuda-device", "all", "--simulate-gpus", "3"], 3),
    ],
)
def test_one_process_has_the_gpus_that_it_is_given(argv: list[str], count: int) -> None:
    assert parse_options(argv).gpu_count == count


@pytest.mark.parametrize("count", ["0", "-1", "65", "two"])
def test_a_process_has_at_least_one_gpu(count: str) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--simulate-gpus", count])


@pytest.mark.parametrize("speed", ["nan", "inf", "-1"])
def test_a_speed_is_a_number_that_is_not_negative(speed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--simulate-speed", speed])
    assert "argument --simulate-speed: must be a number, and not negative" in capsys.readouterr().err
