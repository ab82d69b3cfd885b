"""The command `comfyline batches`: many jobs that were submitted at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from cli.commands.batches.result_commands import RESULT_COMMANDS
from cli.commands.shared import json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_OK
from cli.output.batch_progress import describe_counts
from cli.output.terminal import Screen
from cli.output.text_tables import Heading
from cli.remote.batch_client import Batch, BatchClient

COLUMNS = (
    Heading("id"),
    Heading("status"),
    Heading("done"),
    Heading("jobs", gives_way=1),
    Heading("label", gives_way=2),
    Heading("created (UTC)", gives_way=3),
)
_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True)


@click.group()
def batches() -> None:
    """Look after batches: many jobs from one submit --over."""


@batches.command("list")
@click.option("--status", metavar="STATUS,...", help="Only these: running, paused, completed.")
@click.option("--label", help="Only batches with this label.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=50, show_default=True, help="How many.")
@server_option
@json_option
def list_command(status: str | None, label: str | None, limit: int, server: str | None, as_json: bool) -> int:
    """List batches, the newest first."""
    found = BatchClient(open_client(server)).page(limit=limit, status=status, label=label)
    if as_json:
        print_json(found)
    else:
        print_rows(Screen(), COLUMNS, [_row(batch) for batch in found])
    return EXIT_OK


@batches.command()
@_ids
@server_option
@json_option
def show(ids: tuple[str, ...], server: str | None, as_json: bool) -> int:
    """Show batches: their counts, what was varied, and why jobs failed."""
    client = BatchClient(open_client(server))
    return _each(ids, client.get, as_json=as_json)


def _action(name: str, words: str) -> click.Command:
    @click.command(name, help=words)
    @_ids
    @server_option
    @json_option
    def act(ids: tuple[str, ...], server: str | None, as_json: bool) -> int:
        client = BatchClient(open_client(server))
        return _each(ids, lambda batch_id: client.act(batch_id, name), as_json=as_json)

    return act


for _name, _words in (
    ("cancel", "Cancel all jobs of batches."),
    ("pause", "Let no further job of batches begin; those that run go on."),
    ("resume", "Let the jobs of paused batches begin again."),
    ("retry", "Make the failed jobs of batches again."),
):
    batches.add_command(_action(_name, _words))
for _command in RESULT_COMMANDS:
    batches.add_command(_command)


def _each(ids: tuple[str, ...], act: Callable[[str], Batch], *, as_json: bool) -> int:
    screen, found = Screen(json_on_stdout=as_json), []
    for batch_id in ids:
        found.append(act(batch_id))
        if not as_json:
            _describe(screen, found[-1])
    if as_json:
        print_json(found[0] if len(ids) == 1 else found)
    return EXIT_OK


def _describe(screen: Screen, batch: Batch) -> None:
    label = f"  {batch['label']}" if batch.get("label") else ""
    screen.line(f"Batch {batch['id']}  {batch['status']}{label}  {describe_counts(batch)}")
    for each in batch.get("over") or []:
        screen.line(f"  {each['name']}: {each['count']} values, {_few(each['values'])}")
    for error in batch.get("errors") or []:
        screen.line(f"  {error['count']} x {error['message']}, such as job {error['job_ids'][0]}", style="red")


def _few(values: list[Any]) -> str:
    told = ", ".join(str(value)[:40] for value in values[:3])
    return f"{told}, ..." if len(values) > len(values[:3]) else told


def _row(batch: Batch) -> tuple[str, ...]:
    done = f"{float(batch.get('progress') or 0):.0%}"
    created = str(batch.get("created_at") or "-")[:19].replace("T", " ")
    total, label = str(batch.get("total") or 0), str(batch.get("label") or "-")
    return str(batch["id"]), str(batch["status"]), done, total, label, created
