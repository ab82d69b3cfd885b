"""Which instances this machine runs: attached ones, one ComfyUI for each GPU, or simulators."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from comfy.process.discovery import Gpu, GpuSurvey, survey_gpus
from comfy.process.spec import InstanceSpec
from core.errors import ConfigurationError
from core.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Card:
    """One GPU that gets an instance."""

    #: The number in the instance's name.
    number: int
    #: Value for `CUDA_VISIBLE_DEVICES`.
    device: str
    name: str | None = None


def plan_instances(settings: Settings, *, survey: Callable[[], GpuSurvey] = survey_gpus) -> list[InstanceSpec]:
    """Return one spec for each instance of this machine, named gpu0, gpu1, ...

    COMFYLINE_COMFYUI_URLS attaches to running instances; COMFYLINE_COMFYUI_DIR starts one for each GPU; with neither,
    simulators stand in, and say so everywhere.

    Parameters:
      survey: asks the driver which GPUs there are; called only where they matter.
    Raises:
      ConfigurationError: COMFYLINE_COMFYUI_DIR is no checkout, COMFYLINE_GPUS names a GPU that is not there or one
        twice, there is no GPU to run on, or COMFYLINE_MODELS_DIR is no folder.
    """
    if settings.models_dir is not None and not settings.models_dir.expanduser().is_dir():
        raise ConfigurationError(f"COMFYLINE_MODELS_DIR={settings.models_dir} is not a folder that can be reached.")
    if settings.comfyui_urls:
        return [_attached(settings, number, url) for number, url in enumerate(settings.comfyui_urls)]
    if settings.comfyui_dir is None:
        if settings.gpus:
            raise ConfigurationError(
                "COMFYLINE_GPUS names GPUs, but not what shall run on them: set COMFYLINE_COMFYUI_DIR too."
            )
        return [_simulated(settings, number) for number in range(settings.simulated_gpus)]
    _check_checkout(settings.comfyui_dir)
    found = survey()
    cards = _named(settings.gpus, found) if settings.gpus else _all(found)
    if not cards:
        raise ConfigurationError(
            "COMFYLINE_COMFYUI_DIR is set, but the NVIDIA driver (NVML) lists no GPU that can be used. Name the GPUs "
            "in "
            "COMFYLINE_GPUS (for instance 0,1), or unset COMFYLINE_COMFYUI_DIR to run simulated ones."
        )
    return [_own(settings, card) for card in cards]


def _all(found: GpuSurvey) -> list[_Card]:
    # Numbered as the driver does: if one card fails, the worker of another must not come to stand for it, or two
    # instances would share a card.
    return [_card(gpu.index, gpu) for gpu in found.gpus]


def _named(names: tuple[str, ...], found: GpuSurvey) -> list[_Card]:
    """Return the cards COMFYLINE_GPUS names, numbered by their place in it; without those that cannot be read now."""
    if not found.gpus:
        log.warning("The NVIDIA driver (NVML) lists no GPU that could be compared with COMFYLINE_GPUS; taken as given.")
        return [_Card(number=number, device=name) for number, name in enumerate(names)]
    cards: list[_Card] = []
    named: dict[str, str] = {}
    for number, name in enumerate(names):
        if name.startswith("MIG-"):
            # A part of a card, which the driver does not list among its cards.
            cards.append(_Card(number=number, device=name))
            continue
        gpu = _find(name, found)
        if gpu is None:
            log.warning("COMFYLINE_GPUS: %s is left out, since not every GPU of this machine can be read.", name)
            continue
        if gpu.uuid in named:
            raise ConfigurationError(
                f"COMFYLINE_GPUS names one GPU twice: {named[gpu.uuid]} and {name} are both {_describe(gpu)}."
            )
        named[gpu.uuid] = name
        cards.append(_card(number, gpu))
    return cards


def _find(name: str, found: GpuSurvey) -> Gpu | None:
    """Return the card of that index or (beginning of a) UUID; None if it is, or may be, one that cannot be read."""
    if name.isdecimal():
        matches = [gpu for gpu in found.gpus if gpu.index == int(name)]
        is_unreadable = int(name) in found.unreadable
    else:
        is_uuid = name.startswith("GPU-")
        matches = [gpu for gpu in found.gpus if is_uuid and gpu.uuid.startswith(name)]
        is_unreadable = is_uuid and bool(found.unreadable)
    if len(matches) == 1:
        return matches[0]
    if not matches and is_unreadable:
        return None
    problem = "names more than one GPU" if matches else "is not a GPU of this machine"
    there_are = ", ".join(_describe(gpu) for gpu in found.gpus)
    raise ConfigurationError(f"COMFYLINE_GPUS: {name} {problem}; there are {there_are}.")


def _describe(gpu: Gpu) -> str:
    return f"{gpu.index} ({gpu.name}, {gpu.uuid})"


def _card(number: int, gpu: Gpu) -> _Card:
    # The UUID and not the index: CUDA does not count a card that has failed, so that the indices behind it would come
    # to mean other cards, and NVML promises no order that outlasts a reboot.
    return _Card(number=number, device=gpu.uuid, name=gpu.name)


def _check_checkout(folder: Path) -> None:
    try:
        with (folder.expanduser() / "main.py").open("rb"):
            return
    except (FileNotFoundError, NotADirectoryError):
        problem = "is no ComfyUI checkout: it has no main.py"
    except OSError as exc:
        problem = f"cannot be read by this user: {exc.strerror}"
    raise ConfigurationError(f"COMFYLINE_COMFYUI_DIR={folder} {problem}.")


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
    return InstanceSpec(
        name=name,
        gpu=None,
        kind="simulator",
        data_dir=settings.gpu_dir(name),
        models_dir=settings.models_dir,
        extra_args=arguments,
    )


def _own(settings: Settings, card: _Card) -> InstanceSpec:
    name = f"gpu{card.number}"
    return InstanceSpec(
        name=name,
        gpu=card.device,
        gpu_name=card.name,
        kind="comfyui",
        data_dir=settings.gpu_dir(name),
        comfyui_dir=settings.comfyui_dir,
        comfyui_python=settings.comfyui_python,
        models_dir=settings.models_dir,
        extra_args=tuple(shlex.split(settings.comfyui_args)),
        start_timeout_s=settings.comfyui_start_timeout_s,
    )
