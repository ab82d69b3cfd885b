"""The command `comfyline tenants`: the owners of jobs, files and keys."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from cli.commands.shared import json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_OK
from cli.output.terminal import Screen
from cli.output.text_tables import Heading, printable
from cli.remote.answers import ServerUnreachable

_PATH = "/api/v2/tenants"
COLUMNS = (Heading("name"), Heading("weight"), Heading("since", gives_way=1))

_weight = click.option(
    "--weight", type=click.FloatRange(min=0, min_open=True), help="Its share of a busy fleet, beside those of others."
)


@click.group()
def tenants() -> None:
    """Make the owners of jobs, files and keys, list and weigh them."""


@tenants.command()
@click.argument("name")
@_weight
@server_option
@json_option
def create(name: str, weight: float | None, server: str | None, as_json: bool) -> int:
    """Make a tenant."""
    body = {"name": name, **({} if weight is None else {"weight": weight})}
    _tell(open_client(server).ask("POST", _PATH, body=body), "made", as_json=as_json)
    return EXIT_OK


@tenants.command("list")
@server_option
@json_option
def list_command(server: str | None, as_json: bool) -> int:
    """List the tenants."""
    found = open_client(server).ask("GET", _PATH).get("tenants")
    if not isinstance(found, list):
        raise ServerUnreachable("The server answered something that is no list of tenants: is it a Comfyline server?")
    screen = Screen(json_on_stdout=as_json)
    rows = [(str(each["name"]), f"{each['weight']:g}", str(each["created_at"])) for each in found]
    if as_json:
        print_json(found)
    else:
        print_rows(screen, COLUMNS, rows)
    return EXIT_OK


@tenants.command()
@click.argument("name")
@click.argument("weight", type=click.FloatRange(min=0, min_open=True))
@server_option
@json_option
def weigh(name: str, weight: float, server: str | None, as_json: bool) -> int:
    """Give a tenant another share of a busy fleet: one of weight 2 has twice that of one of weight 1."""
    answer = open_client(server).ask("PATCH", f"{_PATH}/{quote(name, safe='')}", body={"weight": weight})
    _tell(answer, "changed", as_json=as_json)
    return EXIT_OK


def _tell(tenant: dict[str, Any], word: str, *, as_json: bool) -> None:
    if as_json:
        print_json(tenant)
    else:
        click.echo(f"{printable(str(tenant.get('name')))}  {word}")
