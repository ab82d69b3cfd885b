"""The commands `comfyline models tokens ...`: what sources of model files are asked with."""

from __future__ import annotations

import sys
from urllib.parse import quote

import click

from cli.commands.shared import json_option, open_client, print_json, server_option
from cli.exit_codes import EXIT_OK
from cli.output.terminal import Screen
from cli.output.text_tables import printable

_PATH = "/api/v2/model-tokens"


@click.group()
def tokens() -> None:
    """The tokens that sources of model files are asked with, by name. They are sealed, and never shown again."""


@tokens.command("list")
@server_option
@json_option
def list_command(server: str | None, as_json: bool) -> int:
    """List their names, and when each was entered."""
    found = open_client(server).get(_PATH)
    if as_json:
        print_json(found)
        return EXIT_OK
    for token in found.get("model_tokens", ()):
        click.echo(f"{printable(str(token.get('name')))}\t{printable(str(token.get('updated_at')))}")
    return EXIT_OK


@tokens.command("set")
@click.argument("name")
@server_option
def set_command(name: str, server: str | None) -> int:
    """Enter the token NAME: asked for without showing it, or the first line of stdin."""
    client = open_client(server)
    token = click.prompt("Token", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    client.ask("PUT", _place(name), body={"token": token})
    Screen().line(f"{name}  entered")
    return EXIT_OK


@tokens.command()
@click.argument("name")
@server_option
def remove(name: str, server: str | None) -> int:
    """Forget the token NAME; files whose entries ask for it cannot be fetched then."""
    open_client(server).ask("DELETE", _place(name))
    Screen().line(f"{name}  removed")
    return EXIT_OK


def _place(name: str) -> str:
    return f"{_PATH}/{quote(name, safe='')}"
