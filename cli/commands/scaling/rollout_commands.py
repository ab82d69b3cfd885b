"""`comfyline rollout`: the fleet's processes renewed, host after host. The fleet does it; this orders and looks on."""

from __future__ import annotations

import time
from typing import Any, TypeAlias

import click

from cli.commands.shared import Seconds, json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_FAILED, EXIT_OK
from cli.output.terminal import Screen, warn
from cli.output.text_tables import Heading
from cli.remote.answers import ServerUnreachable
from cli.remote.client import Client
from core.errors import InvalidRequest

#: As the API shows it: `id`, `kind`, `state`, `reason`, `hosts`, ...
Rollout: TypeAlias = dict[str, Any]

PATH = "/api/v2/rollouts"
COLUMNS = (Heading("host"), Heading("state"), Heading("because", gives_way=1, is_cut=True))
STYLES = {"done": "green", "failed": "red", "skipped": "dim", "waiting": "dim"}
POLL_S = 1.0
#: An API that is renewed is away for a moment; one that is away for longer is told of.
AWAY_S = 120.0
#: Without a look for so long nobody goes on with it.
IDLE_S = 60.0
_ORDER = (
    click.option("--host", "hosts", metavar="HOST", multiple=True, help="Only this host; may be given several times."),
    click.option("--at-once", metavar="N", type=click.IntRange(1, 1000), help="Hosts at once, after the first."),
    click.option("--timeout", "timeout_s", metavar="SECONDS", type=Seconds(), help="For a host that stands still."),
    click.option(
        "--max-failures", metavar="SHARE", type=click.FloatRange(0, 1), help="Of jobs on renewed hosts; default: 0.2."
    ),
    click.option("--watch", "watch_s", metavar="SECONDS", type=click.FloatRange(0, 86400), help="Each that is back."),
    click.option("--no-wait", "is_left", is_flag=True, help="Order it, and do not look on."),
    server_option,
)  # fmt: skip


@click.group()
def rollout() -> None:
    """Renew the processes of all hosts, one host after the other: drained, checked healthy, stopped where it fails.

    The order stands in the ledger, and the fleet goes on with it by itself: this command may be ended at any moment.
    """


def _ordering(command: Any) -> Any:
    for option in reversed(_ORDER):
        command = option(command)
    return command


@rollout.command()
@_ordering
def restart(**options: Any) -> int:
    """Start all processes anew, ComfyUI too; the code is what is installed on each host now.

    \b
    Exit status: 0 done; 1 it stopped, or was aborted; 2 one runs already, or no such host; 4 no server.
    """
    return _begin({"kind": "restart"}, **options)


@rollout.command()
@click.argument("version")
@_ordering
def upgrade(version: str, **options: Any) -> int:
    """Bring VERSION of Comfyline to all hosts, by each host's own COMFYLINE_UPGRADE_COMMAND.

    A host without one is drained, and waited for until it comes back with that version.

    \b
    Exit status: 0 done; 1 it stopped, or was aborted; 2 one runs already, or no such host; 4 no server.
    """
    return _begin({"kind": "upgrade", "version": version}, **options)


@rollout.command()
@click.argument("rollout_id", metavar="[ID]", required=False)
@click.option("--wait", "is_awaited", is_flag=True, help="Look on until it ends, and exit by the outcome.")
@json_option
@server_option
def status(rollout_id: str | None, is_awaited: bool, as_json: bool, server: str | None) -> int:
    """Show a rollout, by default the newest.

    \b
    Exit status: 0 it runs, or is done; 1 it stopped, or was aborted; 2 no such rollout; 4 no server.
    """
    client = open_client(server)
    found = _found(client, rollout_id)
    if is_awaited:
        found = _look_on(client, found)
    if as_json:
        print_json(found)
    else:
        _show(found)
    return EXIT_OK if found["state"] in ("running", "done") else EXIT_FAILED


@rollout.command()
@click.argument("rollout_id", metavar="[ID]", required=False)
@click.option("--no-wait", "is_left", is_flag=True, help="Do not look on.")
@server_option
def resume(rollout_id: str | None, is_left: bool, server: str | None) -> int:
    """Go on with a rollout that stopped or was aborted, by default the newest. Hosts that failed get another turn."""
    client = open_client(server)
    found = client.ask("POST", f"{PATH}/{_found(client, rollout_id)['id']}/resume")
    return _outcome(client, found, is_left=is_left)


@rollout.command()
@click.argument("rollout_id", metavar="[ID]", required=False)
@server_option
def abort(rollout_id: str | None, server: str | None) -> int:
    """End a rollout, by default the newest: what has been renewed stays so, the rest is left as it is."""
    client = open_client(server)
    _show(client.ask("POST", f"{PATH}/{_found(client, rollout_id)['id']}/abort"))
    return EXIT_OK


def _begin(order: dict[str, Any], *, is_left: bool, server: str | None, **options: Any) -> int:
    client = open_client(server)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    return _outcome(client, client.ask("POST", PATH, body=order | given), is_left=is_left)


def _outcome(client: Client, found: Rollout, *, is_left: bool) -> int:
    if is_left:
        click.echo(found["id"])
        return EXIT_OK
    warn(f"rollout {found['id']}; the fleet goes on with it also without this command.")
    found = _look_on(client, found)
    _show(found)
    return EXIT_OK if found["state"] == "done" else EXIT_FAILED


def _found(client: Client, rollout_id: str | None) -> Rollout:
    if rollout_id is not None:
        return client.ask("GET", f"{PATH}/{rollout_id}")
    newest = client.ask("GET", f"{PATH}?limit=1").get("rollouts")
    if not isinstance(newest, list):
        raise ServerUnreachable(f"{client.base_url} answered something without rollouts: is it a Comfyline server?")
    if not newest:
        raise InvalidRequest("There has been no rollout.")
    found: Rollout = newest[0]
    return found


def _look_on(client: Client, found: Rollout) -> Rollout:
    """Say what changes, until it ends."""
    screen = Screen(json_on_stdout=True)
    known: dict[str, str] = {}
    answered_s = time.monotonic()
    is_idle = False
    while True:
        for host in found["hosts"]:
            if known.get(host["host"], "waiting") != host["state"]:
                screen.line(f"{host['host']}: {host['state']}" + (f". {host['reason']}" if host["reason"] else ""))
            known[host["host"]] = host["state"]
        if found["state"] != "running":
            return found
        idle_s = time.time() - found["looked_at_ms"] / 1000
        if idle_s > IDLE_S and not is_idle:
            warn(f"Nobody has gone on with it for {idle_s:.0f} s: it takes an io worker, and beat.")
        is_idle = idle_s > IDLE_S
        time.sleep(POLL_S)
        try:
            found = client.ask("GET", f"{PATH}/{found['id']}")
            answered_s = time.monotonic()
        except ServerUnreachable:
            # The API is renewed, too.
            if time.monotonic() > answered_s + AWAY_S:
                raise


def _show(found: Rollout) -> None:
    version = f" to {found['version']}" if found["version"] else ""
    screen = Screen()
    screen.line(
        f"{found['kind']}{version}  {found['id']}  {found['state']}"
        + (f". {found['reason']}" if found["reason"] else "")
    )
    rows = [(host["host"], host["state"], host["reason"] or "") for host in found["hosts"]]
    print_rows(screen, COLUMNS, rows, style=lambda row: STYLES.get(row[1], "yellow"))
