"""The options of `comfyline submit` that make it a batch, and the body that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.commands.batches.over_values import parse_over, request_key
from cli.commands.batches.sending import send_batch
from cli.commands.shared import open_client
from cli.output.terminal import Screen
from cli.remote.local_files import local_files, with_uploads
from cli.remote.task_values import parse_parameters, read_workflow
from cli.remote.written_files import is_file

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--over", metavar="NAME=VALUES", multiple=True,
        help="Batch: a parameter, or node.input, and its values: 1..100, a,b,c, [JSON], or @FILE with one on each "
        "line. May be repeated: each value with each.",
    ),
    click.option("--zip", "zip", is_flag=True, help="Batch: the values side by side, not each with each."),
    click.option("--max-running", metavar="N", type=click.IntRange(min=1), help="Batch: so many at once, no more."),
    click.option("--key", help="Batch: the same key is the same batch. Default: made of all that is sent."),
)  # fmt: skip
#: By the names that click gives to them.
BATCH_OPTIONS = ("over", "zip", "max_running", "key")


def batch_options(command: Command) -> Command:
    """Give a command the options of a batch."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def submit_batch(
    source: str | None,
    folder: Path | None,
    server: str | None,
    placed: Mapping[str, Any],
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    wait: bool,
    upload: bool,
    as_json: bool,
) -> int:
    """Submit a batch of a file's graph, or of a server's workflow, and follow it; returns the exit status.

    Parameters:
      given: other options of `submit`, of which only parameters have a meaning here.
      options: `BATCH_OPTIONS`.
    """
    if source is None:
        raise click.UsageError("--over varies a FILE, or a workflow of the server: name one.")
    if stray := [name for name, value in given.items() if value and name != "parameters"]:
        raise click.UsageError(f"--{stray[0]} belongs to a task: name its graph by --workflow.")
    if folder is not None and is_file(folder):
        raise click.BadParameter(f"Directory '{folder}' is a file.", param_hint="'--output'")
    screen, client = Screen(json_on_stdout=as_json), open_client(server)
    body = {**placed, "over": parse_over(options["over"]), **({"mode": "zip"} if options["zip"] else {})}
    body |= {} if options["max_running"] is None else {"max_running": options["max_running"]}
    body |= _source(source, given["parameters"])
    folder_of_graph = Path(source).parent
    # Of what lies here: uploads have other ids each time.
    graph = client.convert(body.get("workflow", {})) if upload else {}
    files = list(local_files(graph, folder_of_graph))
    key = options["key"] or request_key(body, files)
    if files:
        body["workflow"] = with_uploads(graph, folder_of_graph, client, screen)
    is_own = options["key"] is not None
    return send_batch(client, body, screen, key=key, is_own=is_own, folder=folder, wait=wait, as_json=as_json)


def _source(source: str, parameters: tuple[str, ...]) -> dict[str, Any]:
    """Return what the jobs are made of: a graph, or the name of a template."""
    if source != "-" and not is_file(Path(source)):
        return {"template": source, "parameters": parse_parameters(parameters)}
    if parameters:
        raise click.UsageError("-p is for a workflow of the server; values of a FILE are varied by --over node.input.")
    with click.open_file(source, "rb") as file:
        return {"workflow": read_workflow(file.read(), source)}
