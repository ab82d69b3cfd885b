"""A worker of Vast.ai's serverless platform, before the Comfyline server of the same container."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from pathlib import Path
from typing import IO, Any

import click

from cli.commands.shared import SERVER_HELP, Number, Seconds
from cli.vast.benchmark import Benchmark
from cli.vast.place import Place
from cli.vast.vast_worker import VastWorker, WorkerOptions
from core import log_format
from core.errors import InvalidRequest
from core.settings import load_settings, process_environment

#: In the data directory: what the benchmark found.
KEPT = "vast-benchmark.json"


@click.command(name="vast-worker")
@click.option(
    "--benchmark",
    "request",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    help="A body of POST /generate/sync, with expected_time: what the worker measures itself by.",
)
@click.option(
    "--max-perf",
    metavar="UNITS",
    type=Number(min=0, min_open=True),
    help="Units of work in a second, in place of a benchmark.",
)
@click.option(
    "--max-wait",
    "max_wait_s",
    metavar="SECONDS",
    type=Seconds(),
    default=60.0,
    show_default=True,
    help="Requests are refused (429) while the next one would wait for longer.",
)
@click.option("-l", "--server", metavar="URL", help=SERVER_HELP)
def vast_worker(request: IO[str] | None, max_perf: float | None, max_wait_s: float, server: str | None) -> int:
    """Serve as a worker of a Vast.ai serverless endpoint: signed requests in, load reports out.

    What it has to know stands in the container's environment (CONTAINER_ID, WORKER_PORT, REPORT_ADDR, ...).
    """
    if (request is None) == (max_perf is None):
        raise click.UsageError("Say --benchmark FILE, or --max-perf UNITS.")
    settings = load_settings()
    log_format.set_up(settings.log_format, "vast-worker")
    place = Place.from_environment(process_environment())
    settings.make_data_dir()
    options = WorkerOptions(
        api_url=(server or settings.comfy_base_url).rstrip("/"),
        api_key=settings.comfy_api_key.get_secret_value(),
        max_body_bytes=settings.max_body_bytes,
        max_wait_s=max_wait_s,
        benchmark=None if request is None else Benchmark(_payload(request), Path(settings.data_dir) / KEPT),
        max_perf=max_perf or 0.0,
    )
    asyncio.run(_serve(VastWorker(place, options)))
    return 0


async def _serve(worker: VastWorker) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stopped.set)
    await worker.run(stopped.wait)


def _payload(file: IO[str]) -> dict[str, Any]:
    try:
        found = json.load(file)
    except ValueError as exc:
        raise InvalidRequest(f"{file.name} is not JSON: {exc}.") from exc
    if not isinstance(found, dict):
        raise InvalidRequest(f"{file.name} has to be an object, as POST /generate/sync takes it.")
    return found
