"""Which instances a machine runs, and which of its GPUs get one."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfy.process.discovery import Gpu, GpuSurvey
from core.errors import ConfigurationError
from tasks.instance.plan import plan_instances
from tests.services import make_settings


def checkout(folder: Path) -> Path:
    """A directory that looks like a ComfyUI checkout."""
    (folder / "main.py").touch()
    return folder


def three_cards() -> GpuSurvey:
    uuids = ("GPU-aa11", "GPU-aa22", "GPU-bb33")
    cards = [Gpu(index=index, uuid=uuid, name="NVIDIA L4", memory_bytes=1) for index, uuid in enumerate(uuids)]
    return GpuSurvey(gpus=tuple(cards))


def second_card_lost() -> GpuSurvey:
    first, _, third = three_cards().gpus
    return GpuSurvey(gpus=(first, third), unreadable=(1,))


class TestPlan:
    def test_simulators_stand_in_where_nothing_else_is_named(self, tmp_path: Path) -> None:
        plan = plan_instances(make_settings(tmp_path, simulated_gpus=3, simulator_args="--simulate-speed 0"))
        assert [(spec.name, spec.kind) for spec in plan] == [(f"gpu{number}", "simulator") for number in range(3)]
        assert plan[0].extra_args == ("--simulate-speed", "0")
        assert len({spec.data_dir for spec in plan}) == 3

    def test_each_named_gpu_gets_a_comfyui(self, tmp_path: Path) -> None:
        settings = make_settings(
            tmp_path, comfyui_dir=checkout(tmp_path), gpus=("0", "GPU-5c2f"), comfyui_args="--lowvram"
        )
        plan = plan_instances(settings, survey=GpuSurvey)
        assert [(spec.kind, spec.gpu, spec.extra_args) for spec in plan] == [
            ("comfyui", "0", ("--lowvram",)),
            ("comfyui", "GPU-5c2f", ("--lowvram",)),
        ]

    def test_what_is_no_checkout_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"no main\.py"):
            plan_instances(make_settings(tmp_path, comfyui_dir=tmp_path, gpus=("0",)))

    def test_a_checkout_that_cannot_be_read_says_why(self, tmp_path: Path) -> None:
        # A user without rights gets another reason; this one everybody gets.
        (tmp_path / "main.py").symlink_to(tmp_path / "main.py")

        with pytest.raises(ConfigurationError, match=r"COMFYLINE_COMFYUI_DIR=.* cannot be read by this user: Too many"):
            plan_instances(make_settings(tmp_path, comfyui_dir=tmp_path, gpus=("0",)))

    def test_gpus_without_a_comfyui_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="COMFYLINE_COMFYUI_DIR"):
            plan_instances(make_settings(tmp_path, gpus=("0",)))

    def test_running_instances_win_over_everything(self, tmp_path: Path) -> None:
        urls = ("http://a:8188/", "http://b:8188")
        plan = plan_instances(make_settings(tmp_path, comfyui_dir=tmp_path, comfyui_urls=urls))
        assert [(spec.kind, spec.url) for spec in plan] == [
            ("attached", "http://a:8188"),
            ("attached", "http://b:8188"),
        ]

    def test_a_checkout_without_a_gpu_names_the_setting(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="COMFYLINE_GPUS"):
            plan_instances(make_settings(tmp_path, comfyui_dir=checkout(tmp_path)), survey=GpuSurvey)

    def test_shared_models_reach_every_comfyui(self, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, comfyui_dir=checkout(tmp_path), models_dir=tmp_path)
        assert [spec.models_dir for spec in plan_instances(settings, survey=three_cards)] == [tmp_path] * 3

    def test_a_folder_of_models_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, comfyui_dir=checkout(tmp_path), models_dir=tmp_path / "models")
        with pytest.raises(ConfigurationError, match=f"COMFYLINE_MODELS_DIR={tmp_path}/models"):
            plan_instances(settings, survey=three_cards)


class TestCards:
    """Which of a machine's GPUs get an instance."""

    def plan(self, folder: Path, *names: str, found: GpuSurvey | None = None) -> list[tuple[str, str | None]]:
        settings = make_settings(folder, comfyui_dir=checkout(folder), gpus=names)
        return [(spec.name, spec.gpu) for spec in plan_instances(settings, survey=lambda: found or three_cards())]

    def test_all_of_them_by_default(self, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, comfyui_dir=checkout(tmp_path))
        plan = plan_instances(settings, survey=three_cards)
        assert [(spec.name, spec.gpu, spec.gpu_name) for spec in plan] == [
            ("gpu0", "GPU-aa11", "NVIDIA L4"),
            ("gpu1", "GPU-aa22", "NVIDIA L4"),
            ("gpu2", "GPU-bb33", "NVIDIA L4"),
        ]

    def test_a_card_that_failed_does_not_rename_the_others(self, tmp_path: Path) -> None:
        assert self.plan(tmp_path, found=second_card_lost()) == [("gpu0", "GPU-aa11"), ("gpu2", "GPU-bb33")]

    def test_index_uuid_and_beginning_of_a_uuid_name_a_card(self, tmp_path: Path) -> None:
        assert self.plan(tmp_path, "2", "GPU-aa22", "GPU-aa1") == [
            ("gpu0", "GPU-bb33"),
            ("gpu1", "GPU-aa22"),
            ("gpu2", "GPU-aa11"),
        ]

    @pytest.mark.parametrize("name", ["3", "-1", "GPU-cc", "gpu0", "cuda:0", "aa11"])
    def test_an_unknown_one_is_refused_with_what_there_is(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=f"COMFYLINE_GPUS: {name} is not a GPU") as caught:
            self.plan(tmp_path, "0", name)
        assert "0 (NVIDIA L4, GPU-aa11), 1 (NVIDIA L4, GPU-aa22), 2 (" in caught.value.message

    def test_the_beginning_of_two_uuids_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="GPU-aa names more than one GPU"):
            self.plan(tmp_path, "GPU-aa")

    @pytest.mark.parametrize("names", [("0", "GPU-aa11"), ("GPU-aa1", "GPU-aa11"), ("0", "00")])
    def test_one_card_named_twice_is_refused(self, names: tuple[str, str], tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"COMFYLINE_GPUS names one GPU twice: .* are both 0 \(NVIDIA L4"):
            self.plan(tmp_path, *names)

    def test_a_part_of_a_card_is_taken_as_given(self, tmp_path: Path) -> None:
        assert self.plan(tmp_path, "MIG-1", "0") == [("gpu0", "MIG-1"), ("gpu1", "GPU-aa11")]

    @pytest.mark.parametrize("lost", ["1", "GPU-aa22"])
    def test_a_named_card_that_failed_does_not_stop_the_others(
        self, lost: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        plan = self.plan(tmp_path, "0", lost, "2", found=second_card_lost())
        assert plan == [("gpu0", "GPU-aa11"), ("gpu2", "GPU-bb33")]
        assert f"{lost} is left out" in caplog.text

    def test_without_a_driver_to_ask_they_are_taken_as_given(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert self.plan(tmp_path, "0", "GPU-x", found=GpuSurvey()) == [("gpu0", "0"), ("gpu1", "GPU-x")]
        assert "taken as given" in caplog.text
