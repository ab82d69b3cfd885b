"""The operator's commands: look at the fleet's GPUs, and drain, resume or restart some, by HTTP from anywhere.

They need a server and its key, and nothing of the fleet itself: no ledger, no broker, no data directory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import quote

import click

from cli.commands.shared import Command, Seconds, json_option, open_client, print_json, server_option
from cli.exit_codes import EXIT_FAILED, EXIT_OK, EXIT_UNREACHABLE
from cli.output.terminal import Screen, warn
from cli.output.text_tables import Heading, print_table
from cli.remote.answers import ServerUnreachable
from cli.remote.client import Client
from core.errors import InvalidRequest
from core.scheduling.reasons import about
from core.texts.cards import card_name, gigabytes

#: A GPU as the API shows it: `name`, `host`, `state`, `reason`, `job_id`, `up_since_ms`, ...
Gpu: TypeAlias = dict[str, Any]

STYLES = {"healthy": "green", "starting": "", "draining": "yellow", "drained": "yellow"}
COLUMNS = (
    Heading("GPU"),
    Heading("state"),
    Heading("kind", gives_way=6),
    Heading("pool", gives_way=7),
    Heading("device", gives_way=3, is_cut=True),
    # Whole, or not there: half an id is of no use.
    Heading("job", gives_way=1),
    Heading("holds", gives_way=2, is_cut=True),
    Heading("loads", gives_way=8),
    Heading("up", gives_way=4),
    Heading("restarts", gives_way=5),
)
#: States of a GPU that runs nothing, and begins nothing by itself before it has answered again.
AT_REST = ("drained", "stopped", "unhealthy", "quarantined", "lost")
POLL_S = 1.0
#: For how long --wait waits, in seconds.
WAIT_S = 900.0


def selection(command: Command) -> Command:
    """Decorate a command with its GPUs: some by name, those of a host, or all; and whether to wait for what it does."""
    options = (
        click.argument("names", metavar="GPU...", nargs=-1),
        click.option("--all", "is_all", is_flag=True, help="Every GPU of the fleet."),
        click.option("--host", metavar="HOST", help="Every GPU of this host."),
        click.option("--wait", "is_awaited", is_flag=True, help="Return when it is done, and exit by the outcome."),
        click.option(
            "--timeout", "wait_s", metavar="SECONDS", type=Seconds(), default=WAIT_S,
            show_default=True, help="How long --wait waits.",
        ),
        server_option,
    )  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.option("--host", metavar="HOST", help="Only those of this host.")
@json_option
@server_option
def gpus(host: str | None, as_json: bool, server: str | None) -> int:
    """List the GPUs of the fleet: how each stands, what it holds, and what it takes next.

    Loads are those of today (UTC), with the seconds they took. All that is known: --json.
    """
    found = _listed(open_client(server), host)
    screen = Screen(json_on_stdout=as_json)
    if as_json:
        print_json(found)
    elif not found:
        where = f"on {host}" if host else "in this fleet"
        screen.line(f"No GPU worker has registered {where}. Start one: comfyline up, or comfyline gpu.")
    elif screen.is_terminal:
        remarks = {gpu["name"]: remark(gpu) for gpu in found}
        print_table(
            screen.console,
            COLUMNS,
            [_cells(gpu) for gpu in found],
            style=lambda row: STYLES.get(row[1], "red"),
            note=lambda row: remarks[row[0]],
        )
    else:
        for gpu in found:
            screen.line("  ".join([*_cells(gpu), remark(gpu)]).rstrip())
    return EXIT_OK


@click.command()
@selection
def drain(**options: Any) -> int:
    """Have GPUs (gpu0@host, or gpu0 where that is clear) finish their job and take no more, until `comfyline resume`.

    \b
    Exit status: 0 done; 1 --wait: a GPU still runs its job; 2 no such GPU;
    4 no server, or a worker that does not answer.
    """
    return _tell("drain", _drained, _rests, **options)


@click.command()
@selection
def resume(**options: Any) -> int:
    """Have drained GPUs take jobs again, or start quarantined ones.

    \b
    Exit status: 0 done; 1 --wait: a GPU is not healthy; 2 no such GPU;
    4 no server, or a worker that does not answer.
    """

    def words(gpu: Gpu) -> str:
        return f"{gpu['name']} takes jobs as soon as its ComfyUI answers."

    return _tell("resume", words, _is_healthy, **options)


@click.command()
@selection
def restart(**options: Any) -> int:
    """Restart the ComfyUI of GPUs: when its job is done, or has been given back after COMFYLINE_DRAIN_GRACE_S.

    \b
    Exit status: 0 done; 1 --wait: a GPU has not come back; 2 no such GPU;
    4 no server, or a worker that does not answer.
    """
    return _tell("restart", _restarted, _is_back, **options)


def chosen(found: Sequence[Gpu], names: Sequence[str], host: str | None, *, is_all: bool) -> list[Gpu]:
    """Return the GPUs that a command line means: by their names, of a host, or all.

    Raises:
      InvalidRequest: a name means none or several, or the host has none.
      UsageError: none of the three was said, or more than one.
    """
    if sum((bool(names), host is not None, is_all)) != 1:
        raise click.UsageError("Name one or more GPUs, or --host HOST, or --all.")
    if names:
        by_name = {gpu["name"]: gpu for gpu in (find(found, name) for name in names)}
        return list(by_name.values())
    wanted = [gpu for gpu in found if is_all or gpu["host"] == host]
    if not wanted:
        hosts = ", ".join(sorted({gpu["host"] for gpu in found})) or "none"
        raise InvalidRequest(f"There is no GPU on {host}. Hosts: {hosts}." if host else "This fleet has no GPU.")
    return wanted


def find(found: Sequence[Gpu], name: str) -> Gpu:
    """Return the GPU of that name, or the only one that is called so on any host.

    Raises:
      InvalidRequest: there is none, or more than one.
    """
    same = [gpu for gpu in found if name in (gpu["name"], gpu["name"].partition("@")[0])]
    if len(same) == 1:
        return same[0]
    known = ", ".join(gpu["name"] for gpu in same or found) or "none"
    if same:
        raise InvalidRequest(f"{name} is on several hosts; name one of {known}.")
    raise InvalidRequest(f"There is no {name} in this fleet. It has: {known}.")


def uptime(up_since_ms: int | None) -> str:
    """Return how long a GPU has answered: `3 d 4 h`, `12 min`, `40 s`; `-` if it does not."""
    if up_since_ms is None:
        return "-"
    seconds = max(0, time.time_ns() // 1_000_000 - up_since_ms) // 1000
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds} s"


def card(device: str | None, vram_bytes: int | None = None) -> str:
    """Return the card in ComfyUI's name of a device, `cuda:0 NVIDIA L4 : cudaMallocAsync`, with its memory."""
    name = card_name(device or "-")
    return name if vram_bytes is None else f"{name} {gigabytes(vram_bytes)}"


def holdings(models: Sequence[dict[str, Any]]) -> str:
    """Return the models that a GPU holds: `a.safetensors 6.9 GB, b.safetensors`; `-` for none."""
    shown = (
        model["name"] if model["size_bytes"] is None else f"{model['name']} {gigabytes(model['size_bytes'])}"
        for model in models
    )
    return ", ".join(shown) or "-"


def remark(gpu: Gpu) -> str:
    """Return why a GPU is in its state, and what it takes next: what there is to say of it beside its cells."""
    parts = [gpu["reason"] or "", *map(on_its_way, gpu.get("model_files", ()))]
    coming = gpu["next"]
    if coming["in_s"] is not None:
        job = f"job {coming['job_id']}" if coming["job_id"] else "a job"
        when = "now" if coming["in_s"] < 1 else f"in {about(coming['in_s'])}"
        parts.append(f"Takes {job} {when}: {coming['reason']}")
    elif gpu["lines_count"]:
        parts.append(f"Takes none of the jobs that wait: {coming['reason']}")
    return " ".join(part for part in parts if part)


def on_its_way(file: dict[str, Any]) -> str:
    """Return how a model file comes along: `Fetches checkpoints/x.safetensors: 42 %, 118 MB/s, about 70 s.`"""
    if file["state"] == "failed":
        return f"Could not fetch {file['path']}: {file['error']}"
    size, done = file["size_bytes"], file["done_bytes"]
    parts = [f"{100 * done // size} %" if size else gigabytes(done), f"{file['bytes_per_s'] / 1e6:.3g} MB/s"]
    if file["left_s"] is not None:
        parts.append(about(file["left_s"]))
    return f"Fetches {file['path']}: {', '.join(parts)}."


def _listed(client: Client, host: str | None = None) -> list[Gpu]:
    found = client.ask("GET", "/api/v2/gpus", parameters={"host": host}).get("gpus")
    if not isinstance(found, list) or not all(isinstance(gpu, dict) and "name" in gpu for gpu in found):
        raise ServerUnreachable(f"{client.base_url} answered something that lists no GPUs: is it a Comfyline server?")
    return found


def _tell(
    verb: str,
    words: Callable[[Gpu], str],
    is_done: Callable[[Gpu, Gpu], bool],
    *,
    names: Sequence[str],
    is_all: bool,
    host: str | None,
    is_awaited: bool,
    wait_s: float,
    server: str | None,
) -> int:
    client = open_client(server)
    before = chosen(_listed(client), names, host, is_all=is_all)
    told = []
    for gpu in before:
        try:
            client.ask("POST", f"/api/v2/gpus/{quote(gpu['name'], safe='@')}/{verb}")
        except ServerUnreachable as exc:
            # The others are told all the same: one dead worker must not keep a whole host from being drained.
            warn(str(exc))
            continue
        click.echo(words(gpu))
        told.append(gpu)
    late = _awaited(client, told, is_done, wait_s) if is_awaited else []
    for gpu in late:
        warn(f"{gpu['name']} is {gpu['state']}" + (f": {gpu['reason']}" if gpu["reason"] else "."))
    return EXIT_UNREACHABLE if len(told) < len(before) else EXIT_FAILED if late else EXIT_OK


def _awaited(client: Client, told: Sequence[Gpu], is_done: Callable[[Gpu, Gpu], bool], wait_s: float) -> list[Gpu]:
    """Wait for each; returns those that are not there when the time is over, as they are then."""
    give_up_at = time.monotonic() + wait_s
    left = {gpu["name"]: gpu for gpu in told}
    now: dict[str, Gpu] = dict(left)
    while left:
        try:
            now |= {gpu["name"]: gpu for gpu in _listed(client)}
        except ServerUnreachable:
            # The API may be restarting, too.
            if time.monotonic() > give_up_at:
                raise
        left = {name: gpu for name, gpu in left.items() if not is_done(gpu, now[name])}
        if time.monotonic() > give_up_at:
            break
        if left:
            time.sleep(POLL_S)
    return [now[name] for name in left]


def _rests(_before: Gpu, now: Gpu) -> bool:
    return now["job_id"] is None and now["state"] in AT_REST


def _is_healthy(_before: Gpu, now: Gpu) -> bool:
    return bool(now["state"] == "healthy")


def _is_back(before: Gpu, now: Gpu) -> bool:
    """Return whether it answers again since the command; one that an operator drained comes back as that."""
    is_another = now["up_since_ms"] is not None and now["up_since_ms"] != before["up_since_ms"]
    return is_another and now["state"] in ("healthy", "drained", "disk_full")


def _drained(gpu: Gpu) -> str:
    after = f" after job {gpu['job_id']}" if gpu["job_id"] else ""
    return f"{gpu['name']} takes no more jobs{after}, until: comfyline resume {gpu['name']}"


def _restarted(gpu: Gpu) -> str:
    return f"{gpu['name']} restarts {'after job ' + gpu['job_id'] if gpu['job_id'] else 'now'}."


def _cells(gpu: Gpu) -> list[str]:
    return [
        gpu["name"],
        gpu["state"],
        "SIMULATED" if gpu["is_simulated"] else gpu["kind"],
        gpu["pool"] or "-",
        card(gpu["device"], gpu["vram_bytes"]),
        gpu["job_id"] or "-",
        holdings(gpu["models"]),
        f"{gpu['loads_today']}, {gpu['loading_s_today']:.0f} s" if gpu["loads_today"] else "0",
        uptime(gpu["up_since_ms"]),
        str(gpu["restarts"]),
    ]
