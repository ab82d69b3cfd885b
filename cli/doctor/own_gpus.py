"""The GPUs of this machine, the ComfyUI that runs on them, and the room on their disks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from rich.filesize import decimal

from cli.doctor.findings import Check, Said, advice, ok, wrong
from comfy.client.capabilities import OLDEST, parse_version
from comfy.client.client import ComfyClient
from comfy.process.cleanup import free_bytes
from comfy.process.discovery import GpuSurvey
from comfy.process.spec import InstanceSpec, command_line, working_directory
from comfy.prompts.warm_up import load_workflow
from core.errors import ComfyUnavailable, ConfigurationError
from core.job_files import RUN_FOLDERS
from core.ledger import Ledger
from core.ledger.instances import ANSWERING
from core.settings import Settings
from core.texts.cards import name_of_devices
from tasks.instance.housekeeping import want_of_room

Plan: TypeAlias = Callable[[], Sequence[InstanceSpec]]

#: For a small answer; a description of all nodes has megabytes.
ASK_S, ASK_FOR_ALL_S = 2.0, 6.0
_VERSION = re.compile(r"^__version__\s*=\s*[\"']([^\"']+)[\"']", re.MULTILINE)
#: Of a command line that is not run.
_ANY_PORT = 8188


def gpu_checks(settings: Settings, plan: Plan, survey: Callable[[], GpuSurvey], *, asks_for_all: bool) -> list[Check]:
    """Return the checks of this machine's own.

    Parameters:
      plan: tells which instances it runs; raises ConfigurationError.
      survey: asks the driver for its GPUs.
      asks_for_all: have attached instances describe all their nodes, which takes them seconds.
    """
    driver = "The NVIDIA driver does not answer: see nvidia-smi, and dmesg."
    checks = [Check(subject="GPUs", look=lambda: _gpus(plan, survey), if_late=driver)]
    try:
        specs = plan()
    except ConfigurationError:
        # Said by the look at the GPUs.
        specs = []
    if own := [spec for spec in specs if spec.kind == "comfyui"]:
        checkout = "The file system of COMFYLINE_COMFYUI_DIR does not answer."
        checks.append(Check(subject="ComfyUI", look=lambda: _checkout(settings, own[0]), if_late=checkout))
    for spec in specs:
        if spec.kind == "attached":
            look = partial(_attached, spec, asks_for_all=asks_for_all)
            late = "Check COMFYLINE_COMFYUI_URLS, and whether a ComfyUI hangs there."
            checks.append(Check(subject=f"ComfyUI {spec.name}", look=look, if_late=late))
    late = "A file system whose server is gone answers nothing: COMFYLINE_DATA_DIR has to be on a local disk."
    checks.append(Check(subject="disk", look=lambda: _disk(settings, specs), if_late=late))
    return checks


def running_checks(settings: Settings, ledger: Ledger) -> list[Check]:
    """Return a check of each ComfyUI of this machine that runs now, as the ledger has it. Raises LedgerUnavailable."""
    return [
        Check(
            subject=f"ComfyUI {record.gpu_name}",
            look=partial(_running, record.url),
            if_late="It hangs, or a node keeps it busy; comfyline restart starts it anew.",
        )
        for record in ledger.instances.all()
        if record.host == settings.host and record.kind != "attached" and record.url and record.state in ANSWERING
    ]


def _gpus(plan: Plan, survey: Callable[[], GpuSurvey]) -> Iterator[Said]:
    specs = plan()
    found = survey()
    for index in found.unreadable:
        yield advice(
            f"The driver lists GPU {index} and cannot read it, so it gets no jobs: see nvidia-smi, and dmesg.",
        )
    kinds = {spec.kind for spec in specs}
    if kinds == {"simulator"}:
        names = ", ".join(spec.name for spec in specs)
        if found.gpus:
            yield advice(
                f"{names} are SIMULATED, and the driver lists {len(found.gpus)} GPUs: set COMFYLINE_COMFYUI_DIR, or "
                "COMFYLINE_COMFYUI_URLS, to have them draw.",
            )
        else:
            yield ok(f"{names}, SIMULATED: neither COMFYLINE_COMFYUI_DIR nor COMFYLINE_COMFYUI_URLS is set.")
    elif kinds == {"attached"}:
        yield ok(", ".join(f"{spec.name} at {_address(spec.url or '')}" for spec in specs) + ".")
    else:
        yield ok(", ".join(_card(spec) for spec in specs) + ".")


def _card(spec: InstanceSpec) -> str:
    return f"{spec.name} is {spec.gpu_name}, {spec.gpu}" if spec.gpu_name else f"{spec.name} is {spec.gpu}"


def _checkout(settings: Settings, spec: InstanceSpec) -> Iterator[Said]:
    """All instances of a checkout are alike but for their GPU."""
    try:
        program, *_ = command_line(spec, _ANY_PORT)
        folder = working_directory(spec)
    except ConfigurationError as exc:
        yield wrong(f"COMFYLINE_COMFYUI_DIR, COMFYLINE_COMFYUI_PYTHON, COMFYLINE_COMFYUI_ARGS: {exc.message}")
        return
    if settings.warmup_workflow is not None:
        try:
            load_workflow(settings.warmup_workflow)
        except ConfigurationError as exc:
            yield wrong(exc.message)
    version = _version_in(folder)
    if (problem := _too_old(version)) is not None:
        yield wrong(f"COMFYLINE_COMFYUI_DIR={folder}: {problem}")
        return
    yield ok(f"{folder}, version {version or 'not told'}, run by {program}.")


def _version_in(folder: Path) -> str | None:
    try:
        found = _VERSION.search((folder / "comfyui_version.py").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return found[1] if found else None


def _too_old(version: object) -> str | None:
    parsed = parse_version(version)
    if parsed is None or parsed >= OLDEST:
        return None
    return f"ComfyUI {version} is too old: {'.'.join(map(str, OLDEST))} is the oldest that works. Update it."


def _attached(spec: InstanceSpec, *, asks_for_all: bool) -> Iterator[Said]:
    try:
        yield _asked(spec.url or "", asks_for_all=asks_for_all)
    except ComfyUnavailable as exc:
        where = _address(spec.url or "")
        yield wrong(f"COMFYLINE_COMFYUI_URLS: no ComfyUI answers at {where} ({exc.message}). Is it started?")


def _running(url: str) -> Iterator[Said]:
    try:
        yield _asked(url, asks_for_all=True)
    except ComfyUnavailable as exc:
        yield advice(f"It does not answer at {_address(url)} now ({exc.message}); a node may keep it busy.")


def _asked(url: str, *, asks_for_all: bool) -> Said:
    """Raises ComfyUnavailable."""
    read_s = ASK_FOR_ALL_S if asks_for_all else ASK_S
    with closing(ComfyClient(url, connect_timeout_s=ASK_S, read_timeout_s=read_s)) as client:
        stats = client.system_stats()
        system = stats.get("system")
        # Every release tells of its Python there, and not every one which release it is.
        if not isinstance(system, dict) or "python_version" not in system:
            return wrong(
                f"What answers at {_address(url)} is no ComfyUI: its /system_stats tells of none. Correct "
                "COMFYLINE_COMFYUI_URLS, or end that program."
            )
        version = system.get("comfyui_version")
        if (problem := _too_old(version)) is not None:
            return wrong(f"{problem} It is at {_address(url)}.")
        nodes = f", {len(client.object_info()):,} kinds of nodes" if asks_for_all else ""
    return ok(f"Answers at {_address(url)}, version {version or 'not told'}{nodes}{_shared(stats.get('devices'))}.")


def _shared(devices: Any) -> str:
    """Say that a process has several GPUs, which many take for several jobs at once."""
    if not isinstance(devices, list) or len(devices) < 2:
        return ""
    return (
        f". One process has {name_of_devices(devices)}, and runs one job at a time: start one for each GPU to use all"
    )


def _disk(settings: Settings, specs: Sequence[InstanceSpec]) -> Iterator[Said]:
    try:
        for spec in specs:
            # An attached one's files are elsewhere.
            if spec.kind != "attached" and (problem := want_of_room(settings, spec.data_dir)) is not None:
                yield wrong(f"{spec.data_dir}: {problem} Make room, or its GPU takes no jobs.")
                return
        yield ok(", ".join(_rooms(_places(settings, specs))) + ".")
    except OSError as exc:
        yield wrong(f"COMFYLINE_DATA_DIR={settings.data_dir}: the disk cannot be looked at: {exc.strerror}.")


def _places(settings: Settings, specs: Iterable[InstanceSpec]) -> Iterator[Path]:
    yield settings.data_dir
    for spec in specs:
        if spec.kind != "attached":
            yield from (spec.data_dir / name for name in RUN_FOLDERS if name != "input")


def _rooms(places: Iterable[Path]) -> Iterator[str]:
    """Tell the room in each place, once for each disk."""
    told = set()
    for place in places:
        there = next(path for path in (place, *place.parents) if path.exists())
        disk = there.stat().st_dev
        if disk not in told:
            told.add(disk)
            yield f"{decimal(free_bytes(place))} left in {place}"


def _address(url: str) -> str:
    # Without user and password.
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
