"""Which instances this machine runs: attached ones, one ComfyUI for each GPU, or simulators."""

from __future__ import annotations

import shlex

from comfy.discovery import discover_gpus
from comfy.spec import InstanceSpec
from core.errors import ConfigurationError
from core.settings import Settings


def plan_instances(settings: Settings) -> list[InstanceSpec]:
    """One spec for each instance of this machine, named gpu0, gpu1, ...

    FLEET_COMFYUI_URLS attaches to running instances; FLEET_COMFYUI_DIR starts one for each GPU; with neither,
    simulators stand in, and say so everywhere.
    Raises: ConfigurationError - FLEET_COMFYUI_DIR is no checkout, or there is no GPU to run it on.
    """
    if settings.comfyui_urls:
        return [_attached(settings, number, url) for number, url in enumerate(settings.comfyui_urls)]
    if settings.comfyui_dir is None:
        if settings.gpus:
            raise ConfigurationError(
                "FLEET_GPUS names GPUs, but not what shall run on them: set FLEET_COMFYUI_DIR too."
            )
        return [_simulated(settings, number) for number in range(settings.simulated_gpus)]
    if not (settings.comfyui_dir.expanduser() / "main.py").is_file():
        raise ConfigurationError(f"FLEET_COMFYUI_DIR={settings.comfyui_dir} is no ComfyUI checkout: it has no main.py.")
    gpus = list(settings.gpus) or [str(gpu.index) for gpu in discover_gpus()]
    if not gpus:
        raise ConfigurationError(
            "FLEET_COMFYUI_DIR is set but nvidia-smi lists no GPU. Name the GPUs in FLEET_GPUS (for instance 0,1), "
            "or unset FLEET_COMFYUI_DIR to run simulated ones."
        )
    return [_own(settings, number, gpu) for number, gpu in enumerate(gpus)]


def _attached(settings: Settings, number: int, url: str) -> InstanceSpec:
    name = f"gpu{number}"
    return InstanceSpec(
        name=name,
        gpu=None,
        kind="attached",
        data_dir=settings.gpu_dir(name),
        url=url.rstrip("/"),
        start_timeout_s=settings.comfyui_start_timeout_s,
    )


def _simulated(settings: Settings, number: int) -> InstanceSpec:
    name = f"gpu{number}"
    arguments = tuple(shlex.split(settings.simulator_args))
    return InstanceSpec(name=name, gpu=None, kind="simulator", data_dir=settings.gpu_dir(name), extra_args=arguments)


def _own(settings: Settings, number: int, gpu: str) -> InstanceSpec:
    name = f"gpu{number}"
    return InstanceSpec(
        name=name,
        gpu=gpu,
        kind="comfyui",
        data_dir=settings.gpu_dir(name),
        comfyui_dir=settings.comfyui_dir,
        comfyui_python=settings.comfyui_python,
        extra_args=tuple(shlex.split(settings.comfyui_args)),
        start_timeout_s=settings.comfyui_start_timeout_s,
    )
