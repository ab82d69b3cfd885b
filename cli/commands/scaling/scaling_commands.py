"""What starts and stops hosts: how many GPUs each pool wants, and which hosts it gives back."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote

import click

from cli.commands.shared import Seconds, json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_FAILED, EXIT_OK
from cli.output.terminal import Screen, warn
from cli.output.text_tables import Heading
from cli.remote.answers import ServerUnreachable
from cli.remote.client import Client

COLUMNS = (
    Heading("pool"),
    Heading("wanted"),
    Heading("here"),
    Heading("busy"),
    Heading("starting"),
    Heading("idle"),
    Heading("waiting"),
    Heading("work"),
    Heading("because", gives_way=1, is_cut=True),
)
POLL_S = 2.0
#: For how long --wait waits, in seconds.
WAIT_S = 3600.0


@click.command()
@json_option
@server_option
def autoscale(as_json: bool, server: str | None) -> int:
    """Show how many GPUs each pool wants, and why; and the hosts that are being given back."""
    found = _asked(open_client(server), "GET", "/api/v2/autoscale", "pools")
    screen = Screen(json_on_stdout=as_json)
    if as_json:
        print_json(found)
        return EXIT_OK
    print_rows(screen, COLUMNS, [_cells(pool) for pool in found["pools"]])
    for host in found.get("leaving", []):
        screen.line(f"{host['host']} leaves. {host['reason']}")
    return EXIT_OK


@click.command(name="scale-in")
@click.argument("pool", default="-")
@click.option(
    "--hosts", "most", metavar="N", type=click.IntRange(0, 64), help="Give back so many hosts at most; 0: none more."
)
@click.option("--wait", "is_awaited", is_flag=True, help="Return when all of them may go, and exit by the outcome.")
@click.option(
    "--timeout", "wait_s", metavar="SECONDS", type=Seconds(), default=WAIT_S,
    show_default=True, help="How long --wait waits.",
)  # fmt: skip
@json_option
@server_option
def scale_in(pool: str, most: int | None, is_awaited: bool, wait_s: float, as_json: bool, server: str | None) -> int:
    """Give back hosts of POOL (a label; default: - for GPUs without one) that it does not want any more.

    The fleet names them. They finish their jobs and take no more. Those that may go are printed, one on a line: nothing
    of the fleet is on them any more, and they can be switched off. Run it again until all are, or use --wait.

    \b
    Exit status: 0 done; 1 --wait: a host may not go yet; 2 no such pool; 4 no server.
    """
    client = open_client(server)
    give_up_at = time.monotonic() + wait_s
    found = _told(client, pool, most)
    # Hosts that another call gives back meanwhile are not waited for.
    names = {host["host"] for host in found["hosts"]}
    while is_awaited and not all(host["may_go"] for host in found["hosts"]) and time.monotonic() < give_up_at:
        time.sleep(POLL_S)
        try:
            found = _told(client, pool, 0)
        except ServerUnreachable as exc:
            # The API may be restarting.
            warn(str(exc))
        found["hosts"] = [host for host in found["hosts"] if host["host"] in names]
    if as_json:
        print_json(found)
    for host in found["hosts"]:
        if not host["may_go"]:
            warn(f"{host['host']} may not go yet. {host['reason']}")
        elif not as_json:
            click.echo(host["host"])
    if not found["hosts"]:
        warn(f"No host leaves. {found['pool']['reason']}")
    return EXIT_FAILED if is_awaited and not all(host["may_go"] for host in found["hosts"]) else EXIT_OK


def _told(client: Client, pool: str, most: int | None) -> dict[str, Any]:
    query = "" if most is None else f"?hosts={most}"
    return _asked(client, "POST", f"/api/v2/autoscale/{quote(pool, safe='')}/scale-in{query}", "hosts")


def _asked(client: Client, method: str, path: str, key: str) -> dict[str, Any]:
    found: dict[str, Any] = client.ask(method, path)
    if not isinstance(found.get(key), list):
        raise ServerUnreachable(f"{client.base_url} answered something without {key}: is it a Comfyline server?")
    return found


def _cells(pool: dict[str, Any]) -> list[str]:
    most = "" if pool["most"] is None else str(pool["most"])
    return [
        pool["pool"],
        f"{pool['gpus_wanted']} ({pool['least']}-{most})",
        str(pool["gpus_here"]),
        str(pool["busy"]),
        str(pool["starting"]),
        f"{pool['idle']}, up to {pool['longest_idle_s']:.0f} s" if pool["idle"] else "0",
        str(pool["jobs_waiting"]),
        f"{pool['work_s']:.0f} s",
        pool["reason"],
    ]
