"""The operator's commands: look at the fleet's GPUs, and drain, resume or restart one from any machine of the fleet.

They need what every process of the fleet needs: the same ledger and the same broker.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from cli.commands import json_option
from cli.exits import EXIT_OK
from cli.show import Screen, printable
from core.errors import InvalidRequest
from core.ledger import Ledger
from core.ledger.database import now_ms
from core.ledger.instances import DISK_FULL, DRAINED, DRAINING, HEALTHY, QUARANTINED, STARTING, InstanceRecord
from core.settings import Settings, load_settings
from tasks.app import make_app
from tasks.control import DRAIN, RESTART, RESUME, ask

STYLES = {HEALTHY: "green", STARTING: "", DRAINING: "yellow", DRAINED: "yellow", DISK_FULL: "red", QUARANTINED: "red"}
COLUMNS = ("GPU", "state", "kind", "device", "job", "models", "up", "restarts")

name_argument = click.argument("gpu", metavar="GPU")


@click.command()
@json_option
def gpus(as_json: bool) -> int:
    """List the GPUs of the fleet, as its ledger knows them."""
    records = _records(load_settings())
    screen = Screen(json_on_stdout=as_json)
    if as_json:
        click.echo(json.dumps([asdict(record) for record in records], indent=2))
    elif not records:
        screen.line("No GPU worker has registered in this ledger. Start one: fleet up, or fleet gpu.")
    elif screen.is_terminal:
        screen.console.print(_table(records))
    else:
        for record in records:
            screen.line("  ".join([*_cells(record), record.reason or ""]).rstrip())
    return EXIT_OK


@click.command()
@name_argument
def drain(gpu: str) -> int:
    """Have GPU (gpu0@host, or gpu0 where that is clear) finish its job and take no more, until `fleet resume`."""
    return _tell(DRAIN, gpu, _drained)


@click.command()
@name_argument
def resume(gpu: str) -> int:
    """Have a drained GPU take jobs again, or start a quarantined one."""
    return _tell(RESUME, gpu, lambda record: f"{record.name} takes jobs as soon as its ComfyUI answers.")


@click.command()
@name_argument
def restart(gpu: str) -> int:
    """Restart GPU's ComfyUI: when its job is done, or has been given back after FLEET_DRAIN_GRACE_S."""
    return _tell(RESTART, gpu, _restarted)


def find(records: Sequence[InstanceRecord], name: str) -> InstanceRecord:
    """The instance of that name, or the only one that is called so on any host.

    Raises:
      InvalidRequest: there is none, or more than one.
    """
    found = [record for record in records if name in (record.name, record.gpu_name)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(record.name for record in found or records) or "none"
    if found:
        raise InvalidRequest(f"{name} is on several hosts; name one of {known}.")
    raise InvalidRequest(f"There is no {name} in this fleet. It has: {known}.")


def uptime(record: InstanceRecord) -> str:
    """How long the instance has answered: `3 d 4 h`, `12 min`, `40 s`; `-` if it does not."""
    if record.up_since_ms is None:
        return "-"
    seconds = max(0, now_ms() - record.up_since_ms) // 1000
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def card(device: str | None) -> str:
    """The card in ComfyUI's name of a device, `cuda:0 NVIDIA L4 : cudaMallocAsync`."""
    return re.sub(r"^cuda:[0-9]+ ", "", device or "-").partition(" : ")[0]


def _records(settings: Settings) -> list[InstanceRecord]:
    ledger = Ledger(settings)
    try:
        return ledger.instances.all()
    finally:
        ledger.close()


def _tell(command: str, gpu: str, words: Callable[[InstanceRecord], str]) -> int:
    settings = load_settings()
    record = find(_records(settings), gpu)
    ask(make_app(settings, "api"), command, record)
    click.echo(words(record))
    return EXIT_OK


def _drained(record: InstanceRecord) -> str:
    after = f" after job {record.job_id}" if record.job_id else ""
    return f"{record.name} takes no more jobs{after}, until: fleet resume {record.name}"


def _restarted(record: InstanceRecord) -> str:
    return f"{record.name} restarts {'after job ' + record.job_id if record.job_id else 'now'}."


def _table(records: Sequence[InstanceRecord]) -> Table:
    table = Table(*COLUMNS, box=None, header_style="bold")
    for record in records:
        cells: list[Any] = [printable(cell) for cell in _cells(record)]
        cells[1] = Text(cells[1], style=STYLES.get(record.state, "red"))
        table.add_row(*cells)
        if record.reason:
            table.add_row("", Text(printable(record.reason), style="dim"))
    return table


def _cells(record: InstanceRecord) -> list[str]:
    return [
        record.name,
        record.state,
        "SIMULATED" if record.is_simulated else record.kind,
        card(record.device),
        record.job_id or "-",
        ",".join(record.models) or "-",
        uptime(record),
        str(record.restarts),
    ]
