"""The command `comfyline check`: whether some GPU can run a workflow, without running it."""

from __future__ import annotations

from pathlib import Path

import click

from cli.commands.dry_runs.dry_run_client import MAX_SENT_BYTES, DryRunClient
from cli.commands.shared import json_option, open_client, placement_options, print_json, server_option
from cli.commands.submit import explained
from cli.exit_codes import EXIT_FAILED, EXIT_OK
from cli.output.dry_run_report import describe_report
from cli.output.terminal import Screen, warn
from cli.remote.placement import placement
from cli.remote.task_values import parse_parameters, read_workflow
from cli.remote.written_files import is_file
from core.texts.cards import gigabytes


@click.command()
@click.argument("source", metavar="FILE|TEMPLATE")
@click.option(
    "-p", "--parameter", "parameters", metavar="NAME=VALUE", multiple=True,
    help="Of a template: a parameter; may be repeated. A picture may be a file of this machine.",
)  # fmt: skip
@placement_options
@server_option
@json_option
def check(
    source: str,
    parameters: tuple[str, ...],
    requires: str | None,
    start_within: float | None,
    priority: int | None,
    label: str | None,
    server: str | None,
    as_json: bool,
) -> int:
    """Say whether some GPU can run a workflow, and when. Nothing is submitted, and nothing is kept on the server.

    FILE (- is stdin) is a graph, or what the editor saves; TEMPLATE is a workflow of the server.

    \b
    comfyline check graph.json
    comfyline check text2image -p prompt="a lighthouse" --requires pool=h100

    \b
    Exit status: 0 some GPU can run it, 1 none can, 2 it is no workflow, or
    may not be submitted, 4 no server.
    """
    screen = Screen(json_on_stdout=as_json)
    placed = placement(requires, start_within, priority, label)
    is_a_file = source == "-" or is_file(Path(source))
    if is_a_file and parameters:
        raise click.UsageError("-p is for a workflow of the server: a FILE has its values in it.")
    tries = DryRunClient(open_client(server))
    with explained(screen, as_json=as_json):
        if is_a_file:
            with click.open_file(source, "rb") as file:
                workflow = read_workflow(file.read(), source)
            report = tries.graph(workflow, Path(source).parent, placed)
        else:
            report = tries.template(source, parse_parameters(parameters), placed)
    for each in tries.left_out:
        warn(f"{each} was not looked at: no more than {gigabytes(MAX_SENT_BYTES)} of files are sent for a check.")
    print_json(report) if as_json else describe_report(screen, report)
    return EXIT_OK if report.get("runnable") is True else EXIT_FAILED
