"""What a batch made, into a file: all outputs as one ZIP, a table, a contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import click

from cli.commands.shared import open_client, server_option
from cli.exit_codes import EXIT_OK
from cli.output.terminal import Screen
from cli.remote.client import Client
from cli.remote.written_files import Draft

Command = TypeVar("Command", bound=Callable[..., Any])

_batch = click.argument("batch_id", metavar="BATCH")


def _output(default: str) -> Callable[[Command], Command]:
    kind = click.Path(path_type=Path, dir_okay=False)
    text = f"The file. Default: {default}, after the batch."
    return click.option("-o", "--output", "file", metavar="FILE", type=kind, help=text)


@click.command()
@_batch
@_output("batch-ID.zip")
@server_option
def outputs(batch_id: str, file: Path | None, server: str | None) -> int:
    """Save all outputs of a batch as one ZIP.

    Of a batch that still runs it has what is there; manifest.json in it says
    which jobs there are, and how each stands.
    """
    return _save(open_client(server), batch_id, "outputs.zip", file or Path(f"batch-{batch_id}.zip"))


@click.command()
@_batch
@_output("batch-ID.csv")
@server_option
def table(batch_id: str, file: Path | None, server: str | None) -> int:
    """Save parameters and outputs of a batch as a table: CSV, or JSON for a FILE that ends with .json."""
    file = file or Path(f"batch-{batch_id}.csv")
    return _save(open_client(server), batch_id, f"table.{_kind(file, 'csv', 'json')}", file)


@click.command()
@_batch
@_output("batch-ID.png")
@click.option("--page", type=click.IntRange(min=1), default=1, show_default=True, help="Of a batch with many jobs.")
@click.option(
    "--cell", metavar="PIXELS", type=click.IntRange(64, 512), default=256, show_default=True, help="Its edge."
)
@server_option
def sheet(batch_id: str, file: Path | None, page: int, cell: int, server: str | None) -> int:
    """Save a batch as a contact sheet: PNG, or WebP for a FILE that ends with .webp."""
    file = file or Path(f"batch-{batch_id}.png")
    name = f"sheet.{_kind(file, 'png', 'webp')}?page={page}&cell={cell}"
    return _save(open_client(server), batch_id, name, file)


RESULT_COMMANDS = (outputs, table, sheet)


def _kind(file: Path, usual: str, other: str) -> str:
    return other if file.suffix.lower() == f".{other}" else usual


def _save(client: Client, batch_id: str, name: str, file: Path) -> int:
    target = file.resolve()
    with Draft(target.parent) as draft:
        client.receive(f"/api/v2/batches/{quote(batch_id, safe='')}/{name}", draft)
        draft.keep_as(target.name)
    Screen().line(f"Saved {file}")
    return EXIT_OK
