"""`comfyline up`: the whole stack in the foreground."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import click
from rich.panel import Panel
from rich.text import Text

from cli.local.credentials import flower_credentials, flower_credentials_file
from cli.local.data_dir import make_data_dir
from cli.local.log_watch import LogWatch
from cli.local.processes import TICK_S, StopSignals
from cli.local.prometheus import LocalPrometheus, find_prometheus
from cli.local.stack import Stack, addresses, first_key, free_ports
from cli.local.startup_checks import broker_advice, has_keys
from cli.output.terminal import Screen
from cli.output.text_tables import printable
from cli.remote.client import Client
from comfy.process.spec import InstanceSpec
from core.errors import ComfylineError
from core.ledger import Ledger
from core.ledger.instances import HEALTHY
from core.ledger.sealing import load_keys
from core.outbound import Policy
from core.settings import Settings, load_settings
from core.startup import check_api, comfyui_port_advice, data_dir_advice, open_api_advice

#: After this long without being ready, people are told where to look.
SAID_AFTER_S = 10.0
#: Seconds between questions whether it is ready.
ASK_S = 0.5
#: ComfyUI's own: clients look there.
COMFYUI_PORT = 8188


@click.command()
def up() -> int:
    """Run the whole stack here: API, Flower, one worker per GPU, and its own broker. Ctrl-C stops it.

    Ports, data directory and GPUs are settings: COMFYLINE_API_PORT, COMFYLINE_FLOWER_PORT, COMFYLINE_DATA_DIR,
    COMFYLINE_GPUS, COMFYLINE_SIMULATED_GPUS.
    """
    screen = Screen()
    settings, advice = with_comfyui_port(load_settings())
    check_api(settings)
    make_data_dir(settings)
    load_keys(settings.secret_key.get_secret_value(), settings.data_dir)
    credentials = flower_credentials(settings)
    prometheus = find_prometheus(
        settings,
        log=settings.data_dir / "logs" / "prometheus.log",
        report=lambda line: screen.line(line, style="yellow"),
        free_port=lambda: free_ports(1)[0],
    )
    stack = Stack(
        settings,
        overrides={} if prometheus is None else prometheus.overrides,
        report=lambda line: screen.line(line, style="yellow"),
        beside=() if prometheus is None else (prometheus.spec,),
    )
    stop = StopSignals()
    for line in (data_dir_advice(settings), advice, *broker_advice(settings)):
        if line:
            screen.line(line, style="yellow")
    screen.line("Starting Comfyline ...")
    with stack.running(stop):
        _watch(stack, screen, stop, credentials, prometheus)
        screen.line("\nStopping ...")
    screen.line("Stopped.")
    return 0


def with_comfyui_port(settings: Settings) -> tuple[Settings, str | None]:
    """Return the settings with ComfyUI's own port for its protocol, or the one that was chosen.

    Returns: where that is taken, settings without any, and what to say of it.
    """
    wanted = settings.model_copy(update={"comfyui_port": settings.comfyui_port or COMFYUI_PORT})
    advice = comfyui_port_advice(wanted)
    return wanted if advice is None else wanted.model_copy(update={"comfyui_port": None}), advice


def _watch(
    stack: Stack, screen: Screen, stop: StopSignals, credentials: str, prometheus: LocalPrometheus | None
) -> None:
    client = Client(addresses(stack.settings).api, first_key(stack.settings))
    watch = LogWatch(stack.logs_dir, stack.names)
    started_at = ask_at = time.monotonic()
    readiness: dict[str, Any] | None = None
    is_late = False
    while not stop:
        stack.processes.tick()
        # Where our output goes may be a file on a full disk, which must not end what runs.
        with contextlib.suppress(OSError):
            for name, line in watch.news():
                screen.line(f"{name:7} {line}", style="dim")
        if readiness is None and time.monotonic() >= ask_at:
            readiness, ask_at = client.readiness(), time.monotonic() + ASK_S
            if readiness is not None:
                title = f"Comfyline is ready ({time.monotonic() - started_at:.0f} s)"
                _show_panel(
                    screen, title, [*_lines(stack, credentials, readiness, prometheus), "", "Ctrl-C stops everything."]
                )
        if readiness is None and not is_late and time.monotonic() > started_at + SAID_AFTER_S:
            is_late = True
            screen.line(f"Not ready after {SAID_AFTER_S:.0f} s; still trying. Logs: {stack.logs_dir}", style="yellow")
            for reason in _reasons(stack.settings):
                screen.line(reason, style="yellow")
        time.sleep(TICK_S)


def _reasons(settings: Settings) -> list[str]:
    """Return what the ledger knows of instances that are not healthy yet."""
    try:
        instances = Ledger(settings).instances.all()
    except ComfylineError:
        return []
    return [
        f"{instance.name}: {instance.state}. {instance.reason or ''}".rstrip()
        for instance in instances
        if instance.state != HEALTHY
    ]


def _show_panel(screen: Screen, title: str, lines: list[str]) -> None:
    if screen.is_terminal:
        screen.console.print(Panel(Text(printable("\n".join(lines))), title=title, expand=False), soft_wrap=False)
    else:
        screen.line("\n".join([title, *lines]))


def _lines(
    stack: Stack, credentials: str, readiness: Mapping[str, Any], prometheus: LocalPrometheus | None
) -> list[str]:
    settings = stack.settings
    at = addresses(settings)
    return [
        f"API      {at.api}   (what it takes: {at.api}/docs){_open_warning(settings)}",
        f"ComfyUI  {at.comfyui}   (for clients of ComfyUI this is one)",
        f"Flower   {at.flower}   {_login(settings, credentials)}",
        f"Metrics  {at.api}/metrics" + (f"   (Prometheus {prometheus.url})" if prometheus is not None else ""),
        *_gpu_lines(stack, readiness),
        f"Broker   {_broker(settings)}",
        f"URLs     of clients may lead to {Policy.from_settings(settings)}",
        f"Data     {settings.data_dir}   (logs in {stack.logs_dir.name}/)",
    ]


def _open_warning(settings: Settings) -> str:
    advice = open_api_advice(settings, has_keys=has_keys(settings))
    return "" if advice is None else f"\n         {advice}"


def _login(settings: Settings, credentials: str) -> str:
    if settings.flower_basic_auth.get_secret_value():
        return "login from COMFYLINE_FLOWER_BASIC_AUTH"
    user, _, password = credentials.partition(":")
    return f"user {user}, password {password}   (kept in {flower_credentials_file(settings)})"


def _broker(settings: Settings) -> str:
    if settings.has_embedded_broker:
        return f"its own, on {settings.embedded_broker_socket}"
    return "the one at COMFYLINE_BROKER_URL"


def _gpu_lines(stack: Stack, readiness: Mapping[str, Any]) -> list[str]:
    known = {item.get("name"): item for item in readiness.get("instances", [])}
    lines = []
    for spec in stack.instances:
        found = known.get(f"{spec.name}@{stack.settings.host}", {})
        simulated = spec.kind == "simulator" or found.get("kind") == "SIMULATED"
        words = [_where(spec), "SIMULATED: made-up pictures" if simulated else "real"]
        if "instances" in readiness:
            # Without a key of an operator only that it is ready is told.
            words += [] if found.get("state") == "healthy" else [str(found.get("state", "starting"))]
        lines.append(f"{spec.name:8} {', '.join(words)}")
    if any(spec.kind == "simulator" for spec in stack.instances):
        lines.append("         For real ones set COMFYLINE_COMFYUI_DIR or COMFYLINE_COMFYUI_URLS.")
    return lines


def _where(spec: InstanceSpec) -> str:
    """Return what renders behind one name."""
    if spec.kind == "simulator":
        return "no GPU"
    if spec.kind == "attached":
        return f"ComfyUI at {spec.url}"
    return f"{spec.gpu_name} ({spec.gpu})" if spec.gpu_name else f"GPU {spec.gpu}"
