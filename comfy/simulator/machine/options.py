"""Reads the command line: ComfyUI's own flags as far as they matter here, and the simulator's."""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from comfy.simulator.machine.extra_paths import read_extra_paths
from comfy.simulator.machine.load_costs import LoadCosts
from comfy.simulator.machine.model_store import Room
from comfy.simulator.machine.versions import Release, parse_release

_GIB = 1024**3
#: VRAM that ComfyUI leaves to what is computed, beside `--reserve-vram`.
_WORKING_GIB = 0.8
MOST_GPUS = 64

#: Flags of ComfyUI that take one value and change nothing a client can see; accepted so that one
#: command line starts either server.
_IGNORED_WITH_VALUE = (
    "--database-url",
    "--front-end-version",
    "--front-end-root",
    "--default-device",
    "--tls-keyfile",
    "--tls-certfile",
    "--preview-size",
    "--cuda-malloc-size",
    "--vram-headroom",
    "--comfy-api-base",
    "--disabled-nodes-config",
    "--default-hashing-function",
    "--oneapi-device-selector",
)
_IGNORED_WITH_VALUES = (
    "--whitelist-custom-nodes",
    "--fast",
    "--feature-flag",
    "--verbose",
    "--async-offload",
    "--directml",
)
_IGNORED_SWITCHES = (
    "--auto-launch",
    "--disable-auto-launch",
    "--disable-all-custom-nodes",
    "--disable-api-nodes",
    "--disable-assets",
    "--enable-assets",
    "--enable-asset-hashing",
    "--disable-partner-nodes",
    "--offline",
    "--enable-compress-response-body",
    "--disable-nvml-pressure",
    "--disable-async-offload",
    "--disable-pinned-memory",
    "--disable-mmap",
    "--fast-disk",
    "--disable-fast-disk",
    "--disable-cuda-graphs",
    "--disable-comfy-compiler",
    "--debug-hang",
    "--disable-xformers",
    "--disable-cuda-malloc",
    "--cuda-malloc",
    "--deterministic",
    "--dont-print-server",
    "--enable-dynamic-vram",
    "--cpu",
    "--gpu-only",
    "--highvram",
    "--normalvram",
    "--lowvram",
    "--novram",
    "--force-fp16",
    "--force-fp32",
    "--multi-user",
    "--log-stdout",
    "--use-pytorch-cross-attention",
    "--use-sage-attention",
    "--enable-manager",
    "--high-ram",
    "--quick-test-for-ci",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asked for."""

    argv: tuple[str, ...]
    listen: str
    port: int
    #: Largest request body of any kind, in bytes.
    max_body_bytes: int
    #: The same as `/features` says it: a fraction where the command line sets it.
    announced_body_bytes: float
    input_dir: Path
    output_dir: Path
    temp_dir: Path
    user_dir: Path
    #: Model files that lie here, in a folder for each kind, are offered beside the built-in ones.
    models_dir: Path | None
    #: Further folders of models: `(kind, folder)`.
    extra_paths: tuple[tuple[str, Path], ...]
    cors_origin: str | None
    write_metadata: bool
    preview_method: str
    cuda_device: str | None
    #: The name of its card, or of each of them.
    card: str
    #: How many GPUs the one process has; newer releases list them all.
    gpu_count: int
    #: One of classic, lru, ram, none.
    cache_mode: str
    #: How many node outputs `lru` keeps.
    cache_entries: int
    #: `ram` drops results of earlier prompts, and the weights they hold, while less RAM than this is free.
    idle_headroom_bytes: int
    release: Release
    room: Room
    load_costs: LoadCosts
    step_s: float
    #: Every simulated duration is divided by this; 0 means that nothing takes any time.
    speed: float
    test_nodes: bool
    #: Whether closing an old socket also forgets the newer one of the same client id, as ComfyUI does.
    socket_bug: bool
    #: Model files beside the built-in ones, or in place of some: `(folder, file name)` -> bytes, None if not told.
    extra_models: Mapping[tuple[str, str], int | None]
    #: Faults armed from the start, as `NAME` or `NAME=VALUE`.
    faults: tuple[str, ...]


def parse_options(argv: Sequence[str]) -> Options:
    """Turn arguments (without the program's name) into options; exits with status 2 on a bad one, as ComfyUI does."""
    parser = _build_parser()
    given = parser.parse_args(argv)
    base = Path(given.base_directory or Path(tempfile.gettempdir()) / f"comfyui-simulator-{given.port}").absolute()
    try:
        release = parse_release(given.simulate_version)
        extra_models = dict(_parse_model(text) for text in given.simulate_model)
        files = [Path(file) for some in given.extra_model_paths_config for file in some]
        extra_paths = tuple(pair for file in files for pair in read_extra_paths(file))
        gpu_count = _gpu_count(given)
    except (ValueError, OSError) as exc:
        parser.error(str(exc))
    if len(given.cache_ram or ()) > 2:
        parser.error("--cache-ram accepts at most two values: active GB and inactive GB")
    cache_mode = _cache_mode(given, release)
    return Options(
        argv=("main.py", *argv),
        listen=given.listen.split(",")[0],
        port=given.port,
        max_body_bytes=round(given.max_upload_size * 1024 * 1024),
        announced_body_bytes=given.max_upload_size * 1024 * 1024,
        input_dir=_folder(given.input_directory, base / "input"),
        output_dir=_folder(given.output_directory, base / "output"),
        # ComfyUI appends "temp" to what it is given, so that wiping it cannot hit the named folder itself.
        temp_dir=_folder(given.temp_directory, base) / "temp",
        user_dir=_folder(given.user_directory, base / "user"),
        models_dir=Path(given.models_directory).absolute() if given.models_directory else None,
        extra_paths=extra_paths,
        cors_origin=given.enable_cors_header,
        write_metadata=not given.disable_metadata,
        preview_method=given.preview_method,
        cuda_device=given.cuda_device,
        card=given.simulate_card,
        gpu_count=gpu_count,
        cache_mode=cache_mode,
        cache_entries=given.cache_lru,
        idle_headroom_bytes=_idle_headroom_bytes(given, release),
        release=release,
        room=_room(given, release),
        load_costs=LoadCosts(
            disk_bytes_s=given.simulate_disk_speed * 1e9,
            bus_bytes_s=given.simulate_bus_speed * 1e9,
            checkpoint_s=given.simulate_load_seconds,
        ),
        step_s=given.simulate_step_seconds,
        speed=given.simulate_speed,
        test_nodes=given.simulate_test_nodes,
        socket_bug=not given.simulate_no_socket_bug,
        extra_models=extra_models,
        faults=tuple(given.simulate_fault),
    )


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m comfy.simulator",
        description="A stand-in for a ComfyUI server: the same protocol, no models, every picture stamped SIMULATED.",
    )
    _add_comfyui_flags(parser)
    _add_simulator_flags(parser)
    return parser


def _add_comfyui_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("flags of ComfyUI that are honoured")
    group.add_argument("--listen", nargs="?", default="127.0.0.1", const="0.0.0.0")
    group.add_argument("--port", type=int, default=8188)
    group.add_argument("--base-directory")
    group.add_argument("--input-directory")
    group.add_argument("--output-directory")
    group.add_argument("--temp-directory", help="its subfolder `temp` is wiped at start")
    group.add_argument("--user-directory", type=_existing_folder, help="must exist")
    group.add_argument("--models-directory")
    group.add_argument("--extra-model-paths-config", nargs="+", action="append", default=[], metavar="FILE")
    group.add_argument("--max-upload-size", type=float, default=100, help="MB, for every kind of request")
    group.add_argument("--enable-cors-header", nargs="?", default=None, const="*")
    group.add_argument("--disable-metadata", action="store_true")
    group.add_argument("--preview-method", choices=("none", "auto", "latent2rgb", "taesd"), default="none")
    group.add_argument("--cuda-device", default=None, metavar="ID[,ID...]|all", help="several: one process with all")
    group.add_argument("--disable-smart-memory", action="store_true", help="weights leave VRAM after each prompt")
    group.add_argument("--disable-dynamic-vram", action="store_true", help="unloaded weights move to RAM")
    group.add_argument("--reserve-vram", type=_not_negative, default=0.4, metavar="GB")
    cache = group.add_mutually_exclusive_group()
    cache.add_argument("--cache-classic", action="store_true")
    cache.add_argument("--cache-lru", type=int, default=0, metavar="N")
    cache.add_argument("--cache-none", action="store_true")
    cache.add_argument("--cache-ram", nargs="*", type=float, default=None, metavar="GB")
    ignored = parser.add_argument_group("flags of ComfyUI that are accepted and change nothing")
    for name in _IGNORED_WITH_VALUE:
        ignored.add_argument(name, default=None)
    for name in _IGNORED_WITH_VALUES:
        ignored.add_argument(name, nargs="*", action="append", default=None)
    for name in _IGNORED_SWITCHES:
        ignored.add_argument(name, action="store_true")


def _add_simulator_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("flags of the simulator")
    group.add_argument("--simulate-version", default="0.10.0", help="the release to behave like, or newest")
    group.add_argument("--simulate-card", default="SIMULATED GPU", metavar="NAME", help="what it calls its GPU")
    group.add_argument("--simulate-gpus", type=int, default=1, metavar="N", help="so many GPUs in this one process")
    group.add_argument("--simulate-vram-gb", type=_not_negative, default=24.0)
    group.add_argument("--simulate-ram-gb", type=_not_negative, default=64.0)
    group.add_argument("--simulate-disk-speed", type=_not_negative, default=3.0, metavar="GB/S", help="0: no time")
    group.add_argument(
        "--simulate-bus-speed", type=_not_negative, default=12.0, metavar="GB/S", help="RAM to VRAM; 0: no time"
    )
    group.add_argument(
        "--simulate-load-seconds",
        type=_not_negative,
        default=None,
        help="to read one checkpoint from disk, whatever its size, in place of the speeds",
    )
    group.add_argument(
        "--simulate-no-file-cache",
        action="store_true",
        help="files leave RAM with the last node output that holds them",
    )
    group.add_argument("--simulate-step-seconds", type=_not_negative, default=0.05, help="for one sampling step")
    group.add_argument("--simulate-speed", type=_not_negative, default=1.0, help="divides simulated durations; 0: none")
    group.add_argument("--simulate-test-nodes", action="store_true", help="offer nodes that fail, block, expand, ...")
    group.add_argument("--simulate-no-socket-bug", action="store_true", help="keep the newer of two sockets of one id")
    group.add_argument("--simulate-model", action="append", default=[], metavar="FOLDER/FILE[=GB]")
    group.add_argument("--simulate-fault", action="append", default=[], metavar="NAME[=VALUE]")


def _gpu_count(given: argparse.Namespace) -> int:
    """Raises ValueError: there are none."""
    named = given.cuda_device
    count = given.simulate_gpus if named in (None, "all") else len(named.split(","))
    if not 1 <= count <= MOST_GPUS:
        raise ValueError(f"--simulate-gpus must be 1 to {MOST_GPUS}")
    return int(count)


def _cache_mode(given: argparse.Namespace, release: Release) -> str:
    if given.cache_none:
        return "none"
    if given.cache_lru > 0:
        return "lru"
    if given.cache_classic or given.high_ram:
        return "classic"
    return "ram" if given.cache_ram is not None or release.ram_cache_default else "classic"


def _idle_headroom_bytes(given: argparse.Namespace, release: Release) -> int:
    thresholds_gb: list[float] = given.cache_ram or []
    if release.drops_idle_results:
        # The first threshold is for the running prompt. Unasked, the second is all the RAM of most machines.
        idle_gb = thresholds_gb[1] if len(thresholds_gb) > 1 else min(128.0, float(given.simulate_ram_gb))
    else:
        idle_gb = thresholds_gb[0] if thresholds_gb else 4.0
    return round(idle_gb * _GIB)


def _room(given: argparse.Namespace, release: Release) -> Room:
    ram_bytes = round(given.simulate_ram_gb * _GIB)
    return Room(
        vram_bytes=round(given.simulate_vram_gb * _GIB),
        working_bytes=round((_WORKING_GIB + given.reserve_vram) * _GIB),
        ram_bytes=ram_bytes,
        system_bytes=ram_bytes // 16,
        keeps_files=not given.simulate_no_file_cache,
        is_smart=not given.disable_smart_memory,
        unloads_ram=release.dynamic_vram and not given.disable_dynamic_vram,
    )


def _folder(given: str | None, default: Path) -> Path:
    return Path(given).absolute() if given else default


def _existing_folder(text: str) -> str:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return text


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be a number, and not negative")
    return value


def _parse_model(text: str) -> tuple[tuple[str, str], int | None]:
    path, _, size_gb = text.partition("=")
    folder, slash, name = path.partition("/")
    if not (folder and slash and name):
        raise ValueError(f"--simulate-model takes FOLDER/FILE or FOLDER/FILE=GB, not {text!r}")
    size_bytes = round(float(size_gb) * 1e9) if size_gb else None
    if size_bytes is not None and size_bytes < 0:
        raise ValueError(f"a model file cannot have {size_gb} GB")
    return (folder, name), size_bytes
