"""`comfyline demo`: start everything, make one picture, show it, stop everything."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import click

from cli.commands.shared import DEFAULT_FOLDER, follow, open_client, save_outputs, server_option
from cli.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, exit_status_of
from cli.local.processes import TICK_S, StopSignals, last_line
from cli.local.stack import Stack, addresses, first_key, free_ports
from cli.output.terminal import Screen
from cli.remote.answers import Job, RequestRefused
from cli.remote.client import Client
from core.errors import NoHealthyInstance
from core.settings import Settings, load_settings
from workflows.templates.samples import sample

#: Time from the start of the processes to a fleet that can run jobs; a real ComfyUI loads for minutes.
READY_TIMEOUT_S = 50.0
ASK_S = 0.2
NEXT = """\
Next:
  make up                                                 run the stack, with Flower
  .venv/bin/comfyline submit workflows/demo.json          send it a workflow
  COMFYLINE_COMFYUI_DIR=~/ComfyUI make up                 draw on this machine's GPUs
  COMFYLINE_COMFYUI_URLS=http://127.0.0.1:8188 make up    use a ComfyUI that runs already\
"""


@click.command()
@server_option
@click.option(
    "--output", "folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_FOLDER,
    show_default=True, help="Folder for the picture.",
)  # fmt: skip
def demo(server: str | None, folder: Path) -> int:
    """Start everything, make one picture, stop everything. With --server: only make the picture, there.

    It has ports and a temporary data directory of its own, so that it disturbs no fleet that runs already.
    """
    screen = Screen()
    if server is not None:
        return _make_picture(open_client(server), screen, folder)
    with tempfile.TemporaryDirectory(prefix="comfyline-demo-", ignore_cleanup_errors=True) as directory:
        return _run_with_stack(Path(directory), screen, folder)


def _run_with_stack(data_dir: Path, screen: Screen, folder: Path) -> int:
    settings = _own_settings(data_dir)
    stack = Stack(settings, overrides=_overrides(settings), report=lambda line: screen.line(line, style="yellow"))
    stop = StopSignals()
    kind = "SIMULATED GPUs" if any(spec.kind == "simulator" for spec in stack.instances) else "GPUs"
    screen.line(f"Starting API, broker, Flower and {len(stack.instances)} {kind} ...")
    with stack.running(stop):
        status = _beside(stack, stop, lambda: _when_ready(stack, stop, screen, folder))
    if status == EXIT_OK:
        screen.line(NEXT)
    return status


def _own_settings(data_dir: Path) -> Settings:
    api_port, flower_port = free_ports(2)
    # Not the operator's database and broker: a demo must leave no trace in a fleet that works.
    return load_settings(
        data_dir=data_dir,
        api_host="127.0.0.1",
        api_port=api_port,
        flower_host="127.0.0.1",
        flower_port=flower_port,
        database_url="",
        broker_url="",
    )


def _overrides(settings: Settings) -> dict[str, str]:
    names = ("data_dir", "api_host", "api_port", "flower_host", "flower_port", "database_url", "broker_url")
    return {f"COMFYLINE_{name.upper()}": str(getattr(settings, name)) for name in names}


def _beside(stack: Stack, stop: StopSignals, work: Callable[[], int]) -> int:
    """Do the work in another thread while this one, which the processes are tied to, looks after them."""
    done: Future[int] = Future()
    threading.Thread(target=_fulfil, args=(done, work), daemon=True).start()
    while not done.done():
        if stop:
            return EXIT_INTERRUPTED
        stack.processes.tick()
        time.sleep(TICK_S)
    return done.result()


def _fulfil(done: Future[int], work: Callable[[], int]) -> None:
    try:
        done.set_result(work())
    except BaseException as exc:  # noqa: BLE001 - carried over to the thread that waits, and raised there
        done.set_exception(exc)


def _when_ready(stack: Stack, stop: StopSignals, screen: Screen, folder: Path) -> int:
    settings = stack.settings
    client = Client(addresses(settings).api, first_key(settings))
    started_at = time.monotonic()
    real = any(spec.kind == "comfyui" for spec in stack.instances)
    timeout_s = settings.comfyui_start_timeout_s if real else READY_TIMEOUT_S
    while client.readiness() is None:
        if stop:
            return EXIT_INTERRUPTED
        if time.monotonic() > started_at + timeout_s:
            raise NoHealthyInstance(_why_not_ready(stack, timeout_s))
        time.sleep(ASK_S)
    screen.line(f"Ready after {time.monotonic() - started_at:.1f} s.")
    return _make_picture(client, screen, folder)


def _why_not_ready(stack: Stack, timeout_s: float) -> str:
    words = "\n".join(f"  {name}: {last_line(stack.logs_dir / f'{name}.log')}" for name in stack.names)
    return f"The fleet is not ready after {timeout_s:.0f} s. The last words of its processes:\n{words}"


def _make_picture(client: Client, screen: Screen, folder: Path) -> int:
    job = _submit(client, screen)
    screen.line(f"Job {job['id']}")
    job = follow(client, job, screen)
    saved = save_outputs(client, job, folder, screen)
    if saved and _is_simulated(client):
        screen.line("The picture is SIMULATED: no GPU drew it.", style="yellow")
    return exit_status_of(job["status"]) if saved else EXIT_FAILED


def _submit(client: Client, screen: Screen) -> Job:
    screen.line("Submitting workflows/demo.json")
    try:
        return client.submit(sample("demo"))
    except RequestRefused as exc:
        if exc.server_code != "invalid_workflow":
            raise
        # A real ComfyUI without that model can still do what needs none.
        screen.line(f"{exc}\nSubmitting workflows/image_only.json instead, which needs no model.", style="yellow")
        return client.submit(sample("image_only"))


def _is_simulated(client: Client) -> bool:
    instances = (client.readiness() or {}).get("instances", [])
    return any(item.get("kind") == "SIMULATED" for item in instances)
