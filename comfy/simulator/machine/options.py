"""Reads the command line: ComfyUI's own flags as far as they matter here, and the simulator's."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from comfy.simulator.machine.versions import Release, parse_release

#: Flags of ComfyUI that take one value and change nothing a client can see; accepted so that one
#: command line starts either server.
_IGNORED_WITH_VALUE = (
    "--database-url",
    "--front-end-version",
    "--front-end-root",
    "--default-device",
    "--reserve-vram",
    "--tls-keyfile",
    "--tls-certfile",
    "--verbose",
    "--preview-size",
    "--cuda-malloc-size",
)
_IGNORED_WITH_VALUES = ("--extra-model-paths-config", "--whitelist-custom-nodes", "--fast", "--feature-flag")
_IGNORED_SWITCHES = (
    "--auto-launch",
    "--disable-auto-launch",
    "--disable-all-custom-nodes",
    "--disable-api-nodes",
    "--disable-assets",
    "--disable-smart-memory",
    "--disable-xformers",
    "--disable-cuda-malloc",
    "--cuda-malloc",
    "--deterministic",
    "--dont-print-server",
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
    input_dir: Path
    output_dir: Path
    temp_dir: Path
    user_dir: Path
    #: Model files that lie here, in a folder for each kind, are offered beside the built-in ones.
    models_dir: Path | None
    cors_origin: str | None
    write_metadata: bool
    preview_method: str
    cuda_device: str | None
    #: One of classic, lru, ram, none.
    cache_mode: str
    #: How many node outputs `lru` keeps.
    cache_entries: int
    release: Release
    vram_bytes: int
    load_s: float
    step_s: float
    #: Every simulated duration is divided by this; 0 means that nothing takes any time.
    speed: float
    test_nodes: bool
    #: Whether closing an old socket also forgets the newer one of the same client id, as ComfyUI does.
    socket_bug: bool
    #: Model files beside the built-in ones, as `(folder, file name)`.
    extra_models: tuple[tuple[str, str], ...]
    #: Faults armed from the start, as `NAME` or `NAME=VALUE`.
    faults: tuple[str, ...]


def parse_options(argv: Sequence[str]) -> Options:
    """Turn arguments (without the program's name) into options; exits with status 2 on a bad one, as ComfyUI does."""
    parser = _build_parser()
    given = parser.parse_args(argv)
    base = Path(given.base_directory or Path(tempfile.gettempdir()) / f"comfyui-simulator-{given.port}").absolute()
    try:
        release = parse_release(given.simulate_version)
        extra_models = tuple(_parse_model(text) for text in given.simulate_model)
    except ValueError as exc:
        parser.error(str(exc))
    cache_mode = _cache_mode(given, release)
    return Options(
        argv=("main.py", *argv),
        listen=given.listen.split(",")[0],
        port=given.port,
        max_body_bytes=round(given.max_upload_size * 1024 * 1024),
        input_dir=_folder(given.input_directory, base / "input"),
        output_dir=_folder(given.output_directory, base / "output"),
        # ComfyUI appends "temp" to what it is given, so that wiping it cannot hit the named folder itself.
        temp_dir=_folder(given.temp_directory, base) / "temp",
        user_dir=_folder(given.user_directory, base / "user"),
        models_dir=Path(given.models_directory).absolute() if given.models_directory else None,
        cors_origin=given.enable_cors_header,
        write_metadata=not given.disable_metadata,
        preview_method=given.preview_method,
        cuda_device=given.cuda_device,
        cache_mode=cache_mode,
        cache_entries=given.cache_lru,
        release=release,
        vram_bytes=round(given.simulate_vram_gb * 1024**3),
        load_s=given.simulate_load_seconds,
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
    group.add_argument("--max-upload-size", type=float, default=100, help="MB, for every kind of request")
    group.add_argument("--enable-cors-header", nargs="?", default=None, const="*")
    group.add_argument("--disable-metadata", action="store_true")
    group.add_argument("--preview-method", choices=("none", "auto", "latent2rgb", "taesd"), default="none")
    group.add_argument("--cuda-device", default=None)
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
    group.add_argument("--simulate-version", default="0.10.0", help="the ComfyUI release to behave like")
    group.add_argument("--simulate-vram-gb", type=_not_negative, default=24.0)
    group.add_argument(
        "--simulate-load-seconds", type=_not_negative, default=1.0, help="to read one checkpoint from disk"
    )
    group.add_argument("--simulate-step-seconds", type=_not_negative, default=0.05, help="for one sampling step")
    group.add_argument("--simulate-speed", type=_not_negative, default=1.0, help="divides simulated durations; 0: none")
    group.add_argument("--simulate-test-nodes", action="store_true", help="offer nodes that fail, block, expand, ...")
    group.add_argument("--simulate-no-socket-bug", action="store_true", help="keep the newer of two sockets of one id")
    group.add_argument("--simulate-model", action="append", default=[], metavar="FOLDER/FILE")
    group.add_argument("--simulate-fault", action="append", default=[], metavar="NAME[=VALUE]")


def _cache_mode(given: argparse.Namespace, release: Release) -> str:
    if given.cache_none:
        return "none"
    if given.cache_lru > 0:
        return "lru"
    if given.cache_classic or given.high_ram:
        return "classic"
    return "ram" if given.cache_ram is not None or release.ram_cache_default else "classic"


def _folder(given: str | None, default: Path) -> Path:
    return Path(given).absolute() if given else default


def _existing_folder(text: str) -> str:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a directory")
    return text


def _not_negative(text: str) -> float:
    value = float(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _parse_model(text: str) -> tuple[str, str]:
    folder, slash, name = text.partition("/")
    if not (folder and slash and name):
        raise ValueError(f"--simulate-model takes FOLDER/FILE, not {text!r}")
    return folder, name
