"""The command `comfyline models`: the manifest of model files, which the fleet fetches to its GPU hosts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import click
import yaml

from cli.commands.model_files.token_commands import tokens
from cli.commands.shared import json_option, open_client, print_json, print_rows, server_option
from cli.exit_codes import EXIT_OK
from cli.output.terminal import Screen
from cli.output.text_tables import Heading, printable
from cli.remote.answers import ServerUnreachable
from core.errors import InvalidRequest
from core.texts.cards import gigabytes

if sys.version_info >= (3, 11):
    import tomllib
else:  # The same library, before it came with Python.
    import tomli as tomllib

_PATH = "/api/v2/model-files"
#: Entries of one file: the server takes no more at once, and takes all of them or none.
MOST_ENTRIES = 10_000
#: Files that end so are YAML, all others TOML.
YAML_SUFFIXES = (".yaml", ".yml")
#: The largest file that is read: a manifest is text by hand.
MAX_FILE_BYTES = 16 * 1024 * 1024
COLUMNS = (
    Heading("path"),
    Heading("size", gives_way=2),
    Heading("kept by", gives_way=3),
    Heading("hosts", gives_way=4, is_cut=True),
    Heading("source", gives_way=1, is_cut=True),
)

Entry = dict[str, Any]


@click.group()
def models() -> None:
    """The manifest of model files: what the fleet fetches to its GPU hosts, and from where."""


models.add_command(tokens)


@models.command("list")
@server_option
@json_option
def list_command(server: str | None, as_json: bool) -> int:
    """List the model files that the fleet may fetch."""
    found = _checked(open_client(server).get(_PATH))
    screen = Screen(json_on_stdout=as_json)
    if as_json:
        print_json(found)
    elif not found:
        screen.line("The manifest is empty. Enter a file: comfyline models add, or comfyline models import.")
    else:
        print_rows(screen, COLUMNS, [_row(entry) for entry in found])
    return EXIT_OK


@models.command()
@click.argument("path")
@server_option
@json_option
def show(path: str, server: str | None, as_json: bool) -> int:
    """Show one model file."""
    entry = open_client(server).get(_place(path))
    if as_json:
        print_json(entry)
    else:
        _describe(Screen(), entry)
    return EXIT_OK


@models.command()
@click.argument("path")
@click.argument("source")
@click.option("--sha256", metavar="DIGITS", help="Of the whole file; may be left out for hf://.")
@click.option("--size", "size_bytes", metavar="BYTES", type=click.IntRange(min=1), help="Of the whole file.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="Hosts with this tag keep it. May be repeated.")
@click.option("--pool", "pools", metavar="POOL", multiple=True, help="Hosts of this pool keep it. May be repeated.")
@click.option("--token", metavar="NAME", help="The name of a token, see comfyline models tokens.")
@server_option
@json_option
def add(path: str, source: str, server: str | None, as_json: bool, **fields: Any) -> int:
    """Enter a model file, or replace what is known of it.

    PATH is as ComfyUI sees it: checkpoints/x.safetensors. SOURCE is https://..., s3://bucket/key, or
    hf://owner/name@revision/file.
    """
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}
    entry = {"path": path, "source": source, **{name: value for name, value in given.items() if value}}
    entered = _checked(open_client(server).ask("POST", _PATH, body={"model_files": [entry]}))
    _told(entered, as_json=as_json)
    return EXIT_OK


@models.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@server_option
@json_option
def import_command(file: Path, server: str | None, as_json: bool) -> int:
    """Enter all model files of a TOML or YAML file, or none; those that are in the manifest and not in it stay.

    \b
    [[model_files]]
    path = "checkpoints/x.safetensors"
    source = "https://models.example/x.safetensors"
    sha256 = "..."
    """
    entries = read_manifest(file)
    entered = _checked(open_client(server).ask("POST", _PATH, body={"model_files": entries}))
    _told(entered, as_json=as_json)
    return EXIT_OK


@models.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@server_option
@json_option
def remove(paths: tuple[str, ...], server: str | None, as_json: bool) -> int:
    """Forget model files; copies that hosts have of them stay until their room is needed."""
    client, screen = open_client(server), Screen(json_on_stdout=as_json)
    removed = []
    for path in paths:
        removed.append(client.ask("DELETE", _place(path)))
        screen.line(f"{path}  removed")
    if as_json:
        print_json(removed)
    return EXIT_OK


def read_manifest(file: Path) -> list[Entry]:
    """Return the entries of a TOML or YAML file. Raises InvalidRequest: it is none, or holds something else."""
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise InvalidRequest(f"{file} cannot be read: {exc.strerror}.") from exc
    if len(text) > MAX_FILE_BYTES:
        raise InvalidRequest(f"{file} is larger than {MAX_FILE_BYTES // 1024**2} MiB: is it a manifest?")
    is_yaml = file.suffix.lower() in YAML_SUFFIXES
    found = _parsed(file, text, is_yaml=is_yaml)
    more = sorted(str(name) for name in found if name != "model_files") if isinstance(found, dict) else []
    entries = found.get("model_files") if isinstance(found, dict) else None
    if more or not isinstance(entries, list) or not entries or not all(isinstance(each, dict) for each in entries):
        extra = f", not {', '.join(more)}" if more else ""
        form = "a list model_files" if is_yaml else "tables [[model_files]]"
        raise InvalidRequest(f"{file} must hold {form}, each with path, source and sha256{extra}.")
    if len(entries) > MOST_ENTRIES:
        raise InvalidRequest(f"{file} has {len(entries)} entries, and {MOST_ENTRIES} are entered at once: split it.")
    return entries


def _parsed(file: Path, text: bytes, *, is_yaml: bool) -> Any:
    try:
        return yaml.load(text, _Plain) if is_yaml else tomllib.loads(text.decode())  # noqa: S506 - a SafeLoader
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError, RecursionError) as exc:
        # PyYAML says it in several lines, with a drawing.
        words = " ".join(str(exc).split())
        raise InvalidRequest(f"{file} is no {'YAML' if is_yaml else 'TOML'}: {words}.") from exc


class _Plain(yaml.SafeLoader):
    """YAML of texts, numbers, lists and tables.

    It has no aliases, by which a short file stands for one that fills the memory, and a date is a text.
    """

    yaml_constructors: ClassVar[Any] = {
        tag: made
        for tag, made in yaml.SafeLoader.yaml_constructors.items()
        if str(tag).rpartition(":")[2] not in ("binary", "set", "omap", "pairs")
    } | {"tag:yaml.org,2002:timestamp": yaml.SafeLoader.construct_yaml_str}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.get_mark().line + 1}: aliases (*name) are not read")
        return super().compose_node(parent, index)


def _place(path: str) -> str:
    return f"{_PATH}/{quote(path, safe='/')}"


def _checked(answer: dict[str, Any]) -> list[Entry]:
    found = answer.get("model_files")
    if not isinstance(found, list) or not all(isinstance(each, dict) and "path" in each for each in found):
        raise ServerUnreachable("The server answered something that is no manifest: is it a Comfyline server?")
    return found


def _told(entered: list[Entry], *, as_json: bool) -> None:
    if as_json:
        print_json(entered)
        return
    for entry in entered:
        click.echo(f"{printable(entry['path'])}  entered")


def _row(entry: Entry) -> tuple[str, ...]:
    size = entry.get("size_bytes")
    kept = [*(f"pool {pool}" for pool in entry["pools"]), *(f"tag {tag}" for tag in entry["tags"])]
    size_text = "-" if size is None else gigabytes(size)
    return entry["path"], size_text, ", ".join(kept) or "-", _hosts(entry), entry["source"]


def _hosts(entry: Entry) -> str:
    """Return which hosts have a file: `a, b, fetching on c`; `-` for none."""
    copies = entry.get("copies") or ()
    ready = [str(copy["host"]) for copy in copies if copy["state"] == "ready"]
    return (
        ", ".join([*ready, *(f"{copy['state']} on {copy['host']}" for copy in copies if copy["state"] != "ready")])
        or "-"
    )


def _describe(screen: Screen, entry: Entry) -> None:
    screen.line(printable(str(entry.get("path"))))
    for word in ("source", "sha256", "size_bytes", "tags", "pools", "token", "created_at", "updated_at"):
        value = entry.get(word)
        if value not in (None, []):
            screen.line(f"  {word:12} {', '.join(value) if isinstance(value, list) else value}")
    for copy in entry.get("copies") or ():
        error = f": {copy['error']}" if copy.get("error") else ""
        screen.line(f"  on {copy.get('host'):9} {copy.get('state')}{error}")
