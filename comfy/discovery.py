"""Which NVIDIA GPUs this machine has, as `nvidia-smi` tells."""

from __future__ import annotations

import logging
import shutil
import subprocess
from dataclasses import dataclass

logger = logging.getLogger(__name__)

TIMEOUT_S = 20.0
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One card."""

    #: Place in PCI bus order, which is CUDA's order only with `CUDA_DEVICE_ORDER=PCI_BUS_ID`.
    index: int
    #: Stays the same when cards are added or removed.
    uuid: str
    name: str
    #: 0 where the driver does not say, as on chips that share memory with the processor.
    memory_bytes: int


def discover_gpus(program: str = "nvidia-smi") -> list[Gpu]:
    """List the GPUs; empty if there is no `nvidia-smi`, or if it fails (then the log says why)."""
    path = shutil.which(program)
    if path is None:
        return []
    command = [path, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as exc:
        logger.warning("%s cannot be run, so no GPU is used: %s", path, exc)
        return []
    if answer.returncode != 0:
        logger.warning("%s failed, so no GPU is used: %s", path, (answer.stdout + answer.stderr).strip())
        return []
    return [gpu for line in answer.stdout.splitlines() if (gpu := _parse(line))]


def _parse(line: str) -> Gpu | None:
    # A name may hold a comma, so it is what remains between the first two fields and the last.
    first, _, rest = line.partition(",")
    uuid, _, rest = rest.partition(",")
    name, _, memory = rest.rpartition(",")
    if not first.strip().isdigit() or not uuid.strip():
        if line.strip():
            logger.warning("nvidia-smi said something unexpected: %r", line)
        return None
    memory_mib = int(memory) if memory.strip().isdigit() else 0
    return Gpu(index=int(first), uuid=uuid.strip(), name=name.strip(), memory_bytes=memory_mib * MEBIBYTE)
