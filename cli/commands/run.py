"""The commands `comfyline run`, from the name of a server's workflow to its files, and `comfyline upload`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from cli.commands.shared import DEFAULT_FOLDER, json_option, open_client, placement_options, print_json, server_option
from cli.commands.submit import check_gpus, explained, see_through
from cli.exit_codes import EXIT_OK, EXIT_USAGE
from cli.output.terminal import Screen, warn
from cli.remote.answers import RequestRefused, ServerUnreachable
from cli.remote.client import Client
from cli.remote.local_files import upload
from cli.remote.placement import placement
from cli.remote.task_values import parse_parameters
from cli.remote.written_files import is_file
from core.errors import ConfigurationError, InvalidRequest
from core.texts.json_types import JsonObject


@click.command()
@click.argument("template", metavar="TEMPLATE")
@click.option(
    "-p", "--parameter", "parameters", metavar="NAME=VALUE", multiple=True,
    help="A parameter; may be repeated. A file of this machine is uploaded where the template takes a picture.",
)  # fmt: skip
@click.option(
    "--output", "folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_FOLDER,
    show_default=True, help="Folder for the files it makes; they stand in it under the job's id.",
)  # fmt: skip
@click.option("--wait/--no-wait", default=True, help="Follow it to its end (default), or return when it is queued.")
@placement_options
@server_option
@json_option
def run(
    template: str,
    parameters: tuple[str, ...],
    folder: Path,
    wait: bool,
    requires: str | None,
    start_within: float | None,
    priority: int | None,
    label: str | None,
    server: str | None,
    as_json: bool,
) -> int:
    """Run a workflow of the server, and save what it makes.

    \b
    comfyline run text2image -p prompt="a lighthouse" -p steps=12
    comfyline workflows list      says which there are,
    comfyline workflows show NAME what one takes.

    \b
    Exit status: 0 succeeded (or queued), 1 failed, 2 refused or misused,
    3 canceled, 4 no server, or no GPU that is ready.
    """
    screen = Screen(json_on_stdout=as_json)
    values, placed = parse_parameters(parameters), placement(requires, start_within, priority, label)
    client = open_client(server)
    schema = _schema(client, template)
    check_gpus(client, wait=wait)
    values = _with_uploads(values, schema, client, screen)
    with explained(screen, as_json=as_json):
        job = client.submit_template(template, values, placed)
    return see_through(client, job, folder, screen, wait=wait, as_json=as_json)


@click.command("upload")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)  # fmt: skip
@server_option
@json_option
def upload_command(files: tuple[Path, ...], server: str | None, as_json: bool) -> int:
    """Give the server files, and print the id of each: a value wherever a graph names an input file."""
    screen = Screen(json_on_stdout=True)
    client = open_client(server)
    assets, exit_status = [], EXIT_OK
    for file in files:
        try:
            asset = upload(client, file, screen)
        except (RequestRefused, ConfigurationError) as exc:
            # What is kept already must be told all the same, and the others have their turn.
            warn(str(exc))
            exit_status = EXIT_USAGE
            continue
        assets.append(asset)
        if not as_json:
            click.echo(asset["id"])
            screen.line(f"{file}: kept as {asset['id']} until {asset.get('expires_at')}")
    if as_json and (assets or len(files) > 1):
        print_json(assets[0] if len(files) == 1 else assets)
    return exit_status


def _schema(client: Client, template: str) -> Mapping[str, Any]:
    """What the template takes, as `{name: JSON schema}`."""
    try:
        answer = client.get(f"/workflows/{quote(template, safe='')}")
    except RequestRefused:
        if is_file(Path(template)):
            raise InvalidRequest(f"{template} is a file; run it by: comfyline submit {template}") from None
        raise
    parameters = answer.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    if not isinstance(properties, dict):
        raise ServerUnreachable(f"{client.base_url} answered something that is no template.")
    return properties


def _with_uploads(values: Mapping[str, Any], schema: Mapping[str, Any], client: Client, screen: Screen) -> JsonObject:
    """The values with every file of this machine uploaded that stands where the template takes a file."""
    found = dict(values)
    for name, value in values.items():
        takes_file = isinstance(schema.get(name), dict) and "contentMediaType" in schema[name]
        if takes_file and isinstance(value, str) and is_file(Path(value)):
            found[name] = upload(client, Path(value), screen)["id"]
            screen.line(f"Uploaded {value}")
    return found
