"""The command `comfyline keys`: who may ask the server, and for what."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from cli.commands.shared import Number, Seconds, json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_OK
from cli.output.terminal import Screen
from cli.output.text_tables import Heading, printable
from cli.remote.answers import ServerUnreachable
from core.records.access import DEFAULT_TENANT, SCOPES

_PATH = "/api/v2/keys"
COLUMNS = (
    Heading("id"),
    Heading("tenant", gives_way=3),
    Heading("name", gives_way=4, is_cut=True),
    Heading("state"),
    Heading("scopes", gives_way=1, is_cut=True),
    Heading("last used", gives_way=2),
    Heading("by", gives_way=5),
)

Entry = dict[str, Any]


@click.group()
def keys() -> None:
    """Make the keys by which clients ask the server, list, rotate and revoke them."""


@keys.command()
@click.argument("name")
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose jobs and files it brings and sees.")
@click.option(
    "--scope", "scopes", type=click.Choice(SCOPES), multiple=True, required=True, help="Good for that. May be repeated."
)
@click.option("--ends-in", "ends_in_s", metavar="SECONDS", type=Seconds(), help="It is good for so long.")
@click.option("--max-priority", metavar="N", type=int, help="The highest priority of its jobs.")
@click.option("--template", "templates", metavar="NAME", multiple=True, help="Jobs from this alone. May be repeated.")
@click.option("--pool", "pools", metavar="NAME", multiple=True, help="Only GPUs of this pool. May be repeated.")
@server_option
@json_option
def create(name: str, server: str | None, as_json: bool, **fields: Any) -> int:
    """Make a key called NAME, and print its secret, which nobody can be told again."""
    given = {field: list(value) if isinstance(value, tuple) else value for field, value in fields.items()}
    body = {"name": name, **{field: value for field, value in given.items() if value not in (None, [])}}
    _tell(_checked(open_client(server).ask("POST", _PATH, body=body)), as_json=as_json)
    return EXIT_OK


@keys.command("list")
@click.option("--tenant", help="Only those of one tenant.")
@server_option
@json_option
def list_command(tenant: str | None, server: str | None, as_json: bool) -> int:
    """List the keys, the newest first, with their last use."""
    found = open_client(server).ask("GET", _PATH, parameters={"tenant": tenant}).get("keys")
    if not isinstance(found, list):
        raise ServerUnreachable("The server answered something that is no list of keys: is it a Comfyline server?")
    screen = Screen(json_on_stdout=as_json)
    if as_json:
        print_json(found)
    elif not found:
        screen.line("There are no keys. Make one: comfyline keys create NAME --scope SCOPE.")
    else:
        print_rows(screen, COLUMNS, [_row(entry) for entry in found])
    return EXIT_OK


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--keep", "keep_s", metavar="SECONDS", type=Number(min=0), help="The one before is good for so long.")
@server_option
@json_option
def rotate(key_id: str, keep_s: float | None, server: str | None, as_json: bool) -> int:
    """Give a key another secret, and print it; the one before is good for a day more."""
    body = {} if keep_s is None else {"keep_s": keep_s}
    _tell(_checked(open_client(server).ask("POST", f"{_place(key_id)}/rotate", body=body)), as_json=as_json)
    return EXIT_OK


@keys.command()
@click.argument("key_ids", metavar="ID...", nargs=-1, required=True)
@server_option
@json_option
def revoke(key_ids: tuple[str, ...], server: str | None, as_json: bool) -> int:
    """Have keys open nothing any more, within a second."""
    client, screen = open_client(server), Screen(json_on_stdout=as_json)
    revoked = []
    for key_id in key_ids:
        revoked.append(client.ask("POST", f"{_place(key_id)}/revoke"))
        screen.line(f"{key_id}  revoked")
    if as_json:
        print_json(revoked)
    return EXIT_OK


def _place(key_id: str) -> str:
    return f"{_PATH}/{quote(key_id, safe='')}"


def _checked(answer: Entry) -> Entry:
    if not isinstance(answer.get("secret"), str) or not isinstance(answer.get("id"), str):
        raise ServerUnreachable("The server answered something that is no key: is it a Comfyline server?")
    return answer


def _tell(key: Entry, *, as_json: bool) -> None:
    """Print a secret alone on stdout, so that a shell can take it; what there is to say goes to stderr."""
    if as_json:
        print_json(key)
        return
    said = Screen(json_on_stdout=True)
    said.line(f"Key {printable(key['id'])} of tenant {printable(str(key.get('tenant')))}. Its secret, told this once:")
    click.echo(printable(key["secret"]))


def _row(entry: Entry) -> tuple[str, ...]:
    return (
        str(entry["id"]),
        str(entry["tenant"]),
        str(entry["name"]),
        _state(entry),
        ",".join(entry["scopes"]),
        str(entry.get("last_used_at") or "never"),
        str(entry.get("last_used_by") or "-"),
    )


def _state(entry: Entry) -> str:
    if entry.get("revoked_at"):
        return "revoked"
    if entry.get("ends_at"):
        return f"until {entry['ends_at']}"
    return "rotating" if entry.get("secrets", 1) > 1 else "good"
