"""The command `comfyline workflows`: check template files and make them, and see which templates a server has."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from cli.commands.shared import json_option, open_client, server_option
from cli.exit_codes import EXIT_FAILED, EXIT_OK
from cli.output.terminal import warn
from cli.output.text_tables import printable
from cli.remote.answers import ServerUnreachable
from cli.remote.client import Client
from cli.remote.task_values import read_workflow
from core.errors import ConfigurationError, InvalidBody, InvalidRequest
from core.texts.json_types import JsonObject
from core.texts.strict_json import loads
from workflows.editor.convert import convert as convert_document
from workflows.graphs.graph import parse_graph
from workflows.graphs.misplaced import is_document
from workflows.templates.proposal import propose
from workflows.templates.sidecar import Sidecar
from workflows.templates.template import template_faults, unwrapped
from workflows.templates.template_files import SIDECAR_SUFFIX, check_file


@click.group()
def workflows() -> None:
    """Check templates, make them, and see which there are."""


@workflows.command()
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)  # fmt: skip
@json_option
def check(files: tuple[Path, ...], as_json: bool) -> int:
    """Say what is wrong with templates and their files. FILE is a graph or a sidecar; exit status 1 if anything is."""
    found = {file: check_file(file) for file in files}
    # A template that is given by both of its files (*.json) has its problems told once.
    problems = list(dict.fromkeys(problem for each in found.values() for problem in each))
    if as_json:
        _print_json([{**asdict(problem), "file": str(problem.file)} for problem in problems])
    else:
        for problem in problems:
            click.echo(printable(problem))
        for file, faults in found.items():
            if not faults:
                click.echo(printable(f"{file}: right"))
    return EXIT_FAILED if problems else EXIT_OK


@workflows.command("import")
@click.argument("file", metavar="GRAPH.json", type=click.File("rb"))
@click.option(
    "--output", metavar="NAME" + SIDECAR_SUFFIX, type=click.Path(path_type=Path, dir_okay=False),
    help="Write it there instead of to stdout.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the file that --output names.")
def import_command(file: Any, output: Path | None, force: bool) -> int:
    """Propose a sidecar for an exported graph. GRAPH.json (API format; - is stdin) itself stays as it is."""
    # Anything else would be no sidecar, and might be the graph itself.
    if output is not None and not output.name.endswith(SIDECAR_SUFFIX):
        raise InvalidRequest(f"{output} is no sidecar's name; it ends in {SIDECAR_SUFFIX}.")
    try:
        graph = parse_graph(unwrapped(loads(file.read())))
    except InvalidBody as exc:
        raise InvalidRequest(f"{file.name} is not a workflow: {exc}") from exc
    proposed = propose(graph)
    # For people to edit, so that texts are not escaped; as bytes, since JSON is UTF-8 in any locale.
    text = json.dumps(proposed, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text.encode(), nl=False)
    else:
        _write(output, text, force=force)
        click.echo(printable(f"Wrote {output}"))
    for faults in template_faults(graph, Sidecar(proposed)):
        for _, reason in faults:
            warn(f"Still to be put right: {reason}")
    return EXIT_OK


@workflows.command()
@click.argument("file", metavar="FILE", type=click.File("rb"))
@click.option(
    "--output", metavar="GRAPH.json", type=click.Path(path_type=Path, dir_okay=False),
    help="Write it there instead of to stdout.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Replace the file that --output names.")
@click.option(
    "--object-info", metavar="INFO.json", type=click.File("rb"),
    help="Convert here, by a ComfyUI's saved /object_info, and ask no server.",
)  # fmt: skip
@server_option
def convert(file: Any, output: Path | None, force: bool, object_info: Any, server: str | None) -> int:
    """Convert what the editor saves to a graph in the API format. FILE (- is stdin) itself stays as it is."""
    workflow = read_workflow(file.read(), file.name)
    if object_info is not None:
        catalogue = read_workflow(object_info.read(), object_info.name)
        graph = convert_document(workflow, catalogue) if is_document(workflow) else workflow
    else:
        graph = open_client(server).convert(workflow)
    text = json.dumps(parse_graph(graph), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        click.echo(text.encode(), nl=False)
    else:
        _write(output, text, force=force)
        click.echo(printable(f"Wrote {output}"))
    return EXIT_OK


@workflows.command("list")
@server_option
@json_option
def list_command(server: str | None, as_json: bool) -> int:
    """List a server's templates. What is wrong with its files goes to stderr."""
    answer = _ask(open_client(server), "/workflows", workflows={"name", "title"}, problems={"file", "line", "reason"})
    if as_json:
        _print_json(answer["workflows"])
    else:
        for each in answer["workflows"]:
            click.echo(printable(f"{each['name']}\t{each['title']}"))
    for problem in answer["problems"]:
        where = f"{problem['file']}:{problem['line']}" if problem["line"] else problem["file"]
        warn(f"{where}: {problem['reason']}")
    return EXIT_OK


@workflows.command()
@click.argument("name")
@server_option
def show(name: str, server: str | None) -> int:
    """Print what a template takes. NAME is one of the server's; its parameters are shown as a JSON Schema."""
    _print_json(_ask(open_client(server), f"/workflows/{quote(name, safe='')}", parameters=set())["parameters"])
    return EXIT_OK


def _ask(client: Client, path: str, **shape: set[str]) -> JsonObject:
    """The JSON object at a path. `shape`: its fields, and what the object, or each of a list, in them must have."""
    value = client.get(path)
    if not all(_has(value.get(key), keys) for key, keys in shape.items()):
        raise ServerUnreachable(f"{client.base_url} answered something that is no template: is it a Comfyline server?")
    return value


def _has(value: Any, keys: set[str]) -> bool:
    objects = value if isinstance(value, list) else [value]
    return all(isinstance(each, dict) and keys <= each.keys() for each in objects)


def _write(path: Path, text: str, *, force: bool) -> None:
    """Under another name first: a server that uses the folder must not read half a file."""
    if path.exists() and not force:
        raise InvalidRequest(f"{path} exists already; --force replaces it.")
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as exc:
        raise ConfigurationError(f"{path} cannot be written: {exc.strerror}.") from exc


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
