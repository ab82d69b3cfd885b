"""What one ComfyUI instance is started with: directories, command line, environment."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from comfy.process.model_paths import FILE_NAME, write_model_paths
from core.errors import ConfigurationError
from core.settings import process_environment

#: The package `comfy` has the name of ComfyUI's own, so the simulator starts from the directory that holds ours.
REPOSITORY_ROOT = Path(__file__).absolute().parent.parent.parent
LOOPBACK = "127.0.0.1"

#: Everything of our own environment that an instance sees. Graphs run third-party code with this environment, so
#: broker, database, storage and webhook secrets stay out by not being listed; `PYTHONPATH` and `PYTHONHOME` stay
#: out because our package `comfy` would hide ComfyUI's. Proxies stay out too: their URLs often hold a password.
PASSED_NAMES = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH"),
    *("CUDA_HOME", "CUDA_PATH", "CUDA_CACHE_PATH", "CUDA_MODULE_LOADING", "NVIDIA_DRIVER_CAPABILITIES"),
    *("NVIDIA_VISIBLE_DEVICES", "ROCM_PATH", "HSA_OVERRIDE_GFX_VERSION"),
    *("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "TORCH_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)


@dataclass(frozen=True, kw_only=True)
class InstanceSpec:
    """Everything needed to start one instance, or to reach one that somebody else runs."""

    #: Name of the GPU within this host, for instance `gpu0`.
    name: str
    #: UUID, or CUDA index in PCI bus order (as `nvidia-smi` counts); None hides every GPU.
    gpu: str | None
    kind: Literal["simulator", "comfyui", "attached"]
    #: Its own directory, shared with no other instance: output/, input/, temp/, user/, comfyui.log, instance.pid,
    #: extra_model_paths.yaml.
    data_dir: Path
    #: Base URL of an attached instance.
    url: str | None = None
    #: Port on the loopback interface; None means a free one at each start.
    port: int | None = None
    #: The checkout that holds `main.py`.
    comfyui_dir: Path | None = None
    #: Its interpreter; None means the checkout's own virtual environment, else `python3`.
    comfyui_python: Path | None = None
    extra_args: tuple[str, ...] = ()
    #: Models it reads beside its own: a folder with `checkpoints`, `loras` and so on. Not for one that is attached.
    models_dir: Path | None = None
    #: The card's name, for people.
    gpu_name: str | None = None
    #: Seconds from the start of the process to its first answer.
    start_timeout_s: float = 120.0


def make_directories(spec: InstanceSpec) -> None:
    """Create the instance's directories; ComfyUI refuses a `--user-directory` that does not exist."""
    for name in ("output", "input", "temp", "user"):
        (spec.data_dir / name).mkdir(parents=True, exist_ok=True)


def write_files(spec: InstanceSpec) -> None:
    """Write what the command line points to, anew for each start: folders of models come and go.

    Raises:
      OSError: the models' folder cannot be read, or the instance's own not written.
    """
    if spec.kind != "attached" and spec.models_dir is not None:
        write_model_paths(spec.data_dir, spec.models_dir)


def working_directory(spec: InstanceSpec) -> Path:
    """Return the directory the process starts in, which is also where its Python finds the right `comfy`."""
    if spec.kind == "simulator":
        return REPOSITORY_ROOT
    return _checkout(spec)


def command_line(spec: InstanceSpec, port: int) -> list[str]:
    """Return the program and its arguments.

    Raises:
      ConfigurationError: the checkout or its interpreter is not there, or an extra argument would move the GPU.
    """
    for argument in spec.extra_args:
        # We pin the GPU with CUDA_VISIBLE_DEVICES; ComfyUI's own options (or short forms of them, which argparse
        # accepts) would replace that, and two instances would share one card.
        if argument.startswith(("--cuda-d", "--default-d")):
            raise ConfigurationError(
                f"{argument} is not allowed for {spec.name}: each instance has its own GPU already."
            )
    return [*_program(spec), *spec.extra_args, *_model_arguments(spec), *_own_arguments(spec, port)]


def clean_environment(spec: InstanceSpec) -> dict[str, str]:
    """Return the environment of the instance: `PASSED_NAMES` of ours, the GPU it may use, and nothing else."""
    ours = process_environment()
    return {
        "PATH": os.defpath,
        "HOME": str(Path.home()),
        "LANG": "C.UTF-8",
        **{name: ours[name] for name in PASSED_NAMES if name in ours},
        # CUDA counts from the fastest card by default, nvidia-smi by PCI bus: index 0 could be another card.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": spec.gpu or "",
        # The log must hold the last words of a process that was killed.
        "PYTHONUNBUFFERED": "1",
    }


def _model_arguments(spec: InstanceSpec) -> list[str]:
    # The option adds up, so that files among the extra arguments are read as well.
    if spec.kind == "attached" or spec.models_dir is None:
        return []
    return ["--extra-model-paths-config", str(spec.data_dir.absolute() / FILE_NAME)]


def _own_arguments(spec: InstanceSpec, port: int) -> list[str]:
    # They come last because argparse lets the last one win: nothing among the extra arguments opens the instance to
    # the network or moves its files. ComfyUI appends `temp` to --temp-directory itself, and wipes that at each start.
    data_dir = spec.data_dir.absolute()
    return [
        *("--listen", LOOPBACK, "--port", str(port), "--disable-auto-launch"),
        *("--output-directory", str(data_dir / "output")),
        *("--temp-directory", str(data_dir)),
        *("--input-directory", str(data_dir / "input")),
        *("--user-directory", str(data_dir / "user")),
        *("--database-url", f"sqlite:///{data_dir / 'user' / 'comfyui.db'}"),
    ]


def _program(spec: InstanceSpec) -> list[str]:
    if spec.kind == "simulator":
        return [sys.executable, "-m", "comfy.simulator"]
    return [str(_interpreter(spec)), "main.py"]


def _checkout(spec: InstanceSpec) -> Path:
    if spec.comfyui_dir is None:
        raise ConfigurationError(f"{spec.name} needs the directory of a ComfyUI checkout.")
    directory = spec.comfyui_dir.expanduser().absolute()
    if not (directory / "main.py").is_file():
        raise ConfigurationError(f"{directory} is not a ComfyUI checkout: it holds no main.py.")
    return directory


def _interpreter(spec: InstanceSpec) -> Path:
    if spec.comfyui_python is not None:
        # Made absolute but not resolved: the interpreter of a virtual environment is a link, and only its own
        # place tells Python which packages belong to it.
        chosen = spec.comfyui_python.expanduser().absolute()
        if not os.access(chosen, os.X_OK):
            raise ConfigurationError(f"{chosen} is not a program; {spec.name} needs ComfyUI's Python interpreter.")
        return chosen
    for folder in (".venv", "venv"):
        own = _checkout(spec) / folder / "bin" / "python"
        if own.exists():
            return own
    system = shutil.which("python3")
    if system is None:
        raise ConfigurationError(
            f"There is no python3 on the PATH; say which interpreter runs ComfyUI for {spec.name}."
        )
    return Path(system)
