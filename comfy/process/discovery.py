"""Which NVIDIA GPUs this machine has, as the driver (NVML) tells."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import Any

import pynvml

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card."""

    #: Place in NVML's order, that of the PCI bus, which is CUDA's order only with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    index: int
    #: `GPU-...`; stays the same when cards are added or removed.
    uuid: str
    name: str
    #: 0 where the driver does not say, as on chips that share memory with the processor.
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class GpuSurvey:
    """What the driver says of this machine's cards."""

    gpus: tuple[Gpu, ...] = ()
    #: Indices of cards that are there but cannot be read, for instance because one has fallen off the bus.
    unreadable: tuple[int, ...] = ()


def survey_gpus(nvml: Any = pynvml) -> GpuSurvey:
    """Ask the driver for its GPUs. A driver that does not work and a card that cannot be read are logged.

    Parameters:
      nvml: the module `pynvml`, or an object that behaves like it.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError_LibraryNotFound:
        return GpuSurvey()  # A machine without an NVIDIA driver is nothing to warn about.
    except nvml.NVMLError as exc:
        log.warning("The NVIDIA driver does not answer, so no GPU is found: %s", exc)
        return GpuSurvey()
    try:
        return _survey(nvml)
    except nvml.NVMLError as exc:
        log.warning("The NVIDIA driver does not list its GPUs, so none is found: %s", exc)
        return GpuSurvey()
    finally:
        # What was learned stays true when letting go of the driver fails.
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def used_memory(gpu: str | None, nvml: Any = pynvml) -> int | None:
    """Return how many bytes of a GPU's memory are in use, whoever uses them; None where the driver does not say.

    Parameters:
      gpu: UUID, or index in PCI bus order.
      nvml: as for `survey_gpus`.
    """
    if gpu is None:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdecimal() else nvml.nvmlDeviceGetHandleByUUID(gpu)
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    except nvml.NVMLError:
        return None
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _survey(nvml: Any) -> GpuSurvey:
    gpus, unreadable = [], []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpus.append(_read(nvml, index))
        except nvml.NVMLError as exc:
            log.warning("GPU %d cannot be read, so it is left out: %s", index, exc)
            unreadable.append(index)
    return GpuSurvey(gpus=tuple(gpus), unreadable=tuple(unreadable))


def _read(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    try:
        memory_bytes = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError_NotSupported:
        memory_bytes = 0
    return Gpu(
        index=index,
        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=memory_bytes,
    )


def _text(value: str | bytes) -> str:
    # Older releases of the module return bytes.
    return value.decode(errors="replace") if isinstance(value, bytes) else value
