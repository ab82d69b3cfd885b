"""A ComfyUI that is to be started here: what of it is looked at without starting it, and the room on its disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli.doctor.findings import Finding, examine
from cli.doctor.own_gpus import gpu_checks
from comfy.process.discovery import Gpu, GpuSurvey
from core.settings import Settings
from tasks.instance.plan import plan_instances
from tests.services import make_settings

CARD = Gpu(index=0, uuid="GPU-1234", name="NVIDIA L4", memory_bytes=24 * 10**9)


def found(settings: Settings, survey: GpuSurvey) -> dict[str, Finding]:
    """What the checks find, by subject; the last of each."""
    plan = lambda: plan_instances(settings, survey=lambda: survey)  # noqa: E731 - as short as that
    return {each.subject: each for each in examine(gpu_checks(settings, plan, lambda: survey, asks_for_all=True))}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "ComfyUI"
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").touch()
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text('# made by a tool\n__version__ = "0.10.0"\n')
    return folder


def own(tmp_path: Path, checkout: Path, **more: Any) -> Settings:
    return make_settings(tmp_path, comfyui_dir=checkout, min_free_disk_bytes=0, **more)


def test_a_sound_checkout_is_told_with_its_cards(tmp_path: Path, checkout: Path) -> None:
    told = found(own(tmp_path, checkout), GpuSurvey(gpus=(CARD,)))

    assert {each.mark for each in told.values()} == {"ok"}
    assert told["GPUs"].text == "gpu0 is NVIDIA L4, GPU-1234."
    assert told["ComfyUI"].text.startswith(f"{checkout}, version 0.10.0, run by {checkout}/.venv/bin/python")
    assert f"left in {tmp_path}/data" in told["disk"].text


def test_one_that_is_too_old_is_wrong(tmp_path: Path, checkout: Path) -> None:
    (checkout / "comfyui_version.py").write_text('__version__ = "0.3.44"\n')

    told = found(own(tmp_path, checkout), GpuSurvey(gpus=(CARD,)))["ComfyUI"]

    assert told.mark == "wrong"
    assert f"COMFYLINE_COMFYUI_DIR={checkout}: ComfyUI 0.3.44 is too old: 0.3.45 is the oldest" in told.text


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"comfyui_python": "/no/python"}, "COMFYLINE_COMFYUI_PYTHON"),
        ({"comfyui_args": "--cuda-device 1"}, "COMFYLINE_COMFYUI_ARGS"),
        ({"warmup_workflow": "/no/warmup.json"}, "COMFYLINE_WARMUP_WORKFLOW"),
    ],
)
def test_what_its_start_would_refuse_is_wrong_here(
    tmp_path: Path, checkout: Path, more: dict[str, str], name: str
) -> None:
    told = examine(
        gpu_checks(
            settings := own(tmp_path, checkout, **more),
            lambda: plan_instances(settings, survey=lambda: GpuSurvey(gpus=(CARD,))),
            GpuSurvey,
            asks_for_all=True,
        )
    )

    assert [each for each in told if each.mark == "wrong" and each.subject == "ComfyUI" and name in each.text]


def test_a_folder_that_is_no_checkout_is_said_once(tmp_path: Path) -> None:
    told = found(own(tmp_path, tmp_path), GpuSurvey(gpus=(CARD,)))

    assert [(each.subject, each.refuses) for each in told.values() if each.mark == "wrong"] == [("GPUs", True)]
    assert f"COMFYLINE_COMFYUI_DIR={tmp_path} is no ComfyUI checkout" in told["GPUs"].text


def test_cards_that_nobody_uses_or_that_cannot_be_read_are_told(tmp_path: Path, checkout: Path) -> None:
    idle = found(make_settings(tmp_path), GpuSurvey(gpus=(CARD,)))["GPUs"]
    told = examine(
        gpu_checks(
            settings := own(tmp_path, checkout),
            lambda: plan_instances(settings, survey=lambda: GpuSurvey(gpus=(CARD,))),
            lambda: GpuSurvey(gpus=(CARD,), unreadable=(1,)),
            asks_for_all=True,
        )
    )

    assert (idle.mark, "SIMULATED" in idle.text, "COMFYLINE_COMFYUI_DIR" in idle.text) == ("advice", True, True)
    assert [each.text for each in told if each.mark == "advice"] == [
        "The driver lists GPU 1 and cannot read it, so it gets no jobs: see nvidia-smi, and dmesg."
    ]


def test_too_little_room_names_the_setting(tmp_path: Path) -> None:
    told = found(make_settings(tmp_path, min_free_disk_bytes=2**60), GpuSurvey())["disk"]

    assert told.mark == "wrong"
    assert "COMFYLINE_MIN_FREE_DISK_BYTES" in told.text
    assert f"{tmp_path}/data/gpus/gpu0" in told.text
