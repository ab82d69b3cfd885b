"""The commands `comfyline tenants`, on the owners of jobs, files and keys, and `comfyline limits`, for each of them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from cli.commands.access.limit_options import TITLES, cell, given_limits, limit_options
from cli.commands.shared import Number, json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_OK
from cli.output.terminal import Screen
from cli.output.text_tables import Heading, printable
from cli.remote.answers import ServerUnreachable
from core.records.tenant_limits import LIMITS

_PATH = "/api/v2/tenants"
COLUMNS = (
    Heading("name"),
    Heading("weight"),
    *(Heading(TITLES[name], gives_way=number) for number, name in enumerate(LIMITS, start=2)),
    Heading("since", gives_way=1),
)
OWN_COLUMNS = (Heading("limit"), Heading("used"), Heading("allowed"), Heading("left"))

_weight = click.option(
    "--weight", type=Number(min=0, min_open=True), help="Its share of a busy fleet, beside those of others."
)


@click.group()
def tenants() -> None:
    """Make the owners of jobs, files and keys, list, weigh and limit them."""


@tenants.command()
@click.argument("name")
@_weight
@limit_options
@server_option
@json_option
def create(name: str, weight: float | None, server: str | None, as_json: bool, **limits: Any) -> int:
    """Make a tenant."""
    body = {"name": name, **({} if weight is None else {"weight": weight}), **given_limits(limits)}
    _tell(open_client(server).ask("POST", _PATH, body=body), "made", as_json=as_json)
    return EXIT_OK


@tenants.command("list")
@server_option
@json_option
def list_command(server: str | None, as_json: bool) -> int:
    """List the tenants: what each has now, and may have where that is limited."""
    found = open_client(server).ask("GET", _PATH).get("tenants")
    if not isinstance(found, list):
        raise ServerUnreachable("The server answered something that is no list of tenants: is it a Comfyline server?")
    screen = Screen(json_on_stdout=as_json)
    if as_json:
        print_json(found)
    else:
        print_rows(screen, COLUMNS, [_row(each) for each in found])
    return EXIT_OK


@tenants.command("set")
@click.argument("name")
@_weight
@limit_options
@server_option
@json_option
def set_command(name: str, weight: float | None, server: str | None, as_json: bool, **limits: Any) -> int:
    """Change what a tenant may have; what is not given stays. 0 allows nothing."""
    changes = {**({} if weight is None else {"weight": weight}), **given_limits(limits)}
    if not changes:
        raise click.UsageError("Say what is to change, for instance --max-waiting 1000; see --help.")
    _change(name, changes, server, as_json=as_json)
    return EXIT_OK


@tenants.command()
@click.argument("name")
@click.argument("weight", type=Number(min=0, min_open=True))
@server_option
@json_option
def weigh(name: str, weight: float, server: str | None, as_json: bool) -> int:
    """Give a tenant another share of a busy fleet: one of weight 2 has twice that of one of weight 1."""
    _change(name, {"weight": weight}, server, as_json=as_json)
    return EXIT_OK


@click.command()
@server_option
@json_option
def limits(server: str | None, as_json: bool) -> int:
    """Show what the tenant of your key may have, has, and has left."""
    answer = open_client(server).ask("GET", "/api/v2/limits")
    levels = answer.get("limits")
    if not isinstance(levels, dict):
        raise ServerUnreachable("The server answered something that is no list of limits: is it a Comfyline server?")
    screen = Screen(json_on_stdout=as_json)
    if as_json:
        print_json(answer)
    else:
        print_rows(screen, OWN_COLUMNS, [_own_row(name, levels.get(name) or {}) for name in LIMITS])
    return EXIT_OK


def _row(tenant: dict[str, Any]) -> tuple[str, ...]:
    levels = tenant.get("limits") or {}
    standing = (cell(levels.get(name)) for name in LIMITS)
    return str(tenant["name"]), f"{tenant['weight']:g}", *standing, str(tenant["created_at"])


def _own_row(name: str, level: dict[str, Any]) -> tuple[str, ...]:
    numbers = (level.get(key) for key in ("used", "allowed", "left"))
    return TITLES[name], *("-" if number is None else f"{number:.12g}" for number in numbers)


def _change(name: str, changes: dict[str, Any], server: str | None, *, as_json: bool) -> None:
    answer = open_client(server).ask("PATCH", f"{_PATH}/{quote(name, safe='')}", body=changes)
    _tell(answer, "changed", as_json=as_json)


def _tell(tenant: dict[str, Any], word: str, *, as_json: bool) -> None:
    if as_json:
        print_json(tenant)
    else:
        click.echo(f"{printable(str(tenant.get('name')))}  {word}")
