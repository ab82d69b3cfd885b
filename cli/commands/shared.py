"""What the commands that talk to a server share: their options, the client, following a job, saving its outputs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.output.terminal import Screen, describe_error
from cli.output.text_tables import Heading, Row, print_table, printable
from cli.remote.answers import Job
from cli.remote.client import Client
from cli.remote.written_files import file_names, safe_name
from core.settings import load_settings

Command = TypeVar("Command", bound=Callable[..., Any])

SERVER_HELP = "The server; default: $COMFY_BASE_URL, else http://127.0.0.1:8000."
DEFAULT_FOLDER = Path("comfyline-output")


class Number(click.FloatRange):
    """A number of an option, and no NaN or infinity: JSON has neither, and no wait with such ends."""

    what, example = "number", "2"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number. Raises click's BadParameter."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no {self.what}; give one such as {self.example}.", param, ctx)
        return number


class Seconds(Number):
    """An option's seconds: more than none."""

    what, example = "number of seconds", "60"

    def __init__(self) -> None:
        super().__init__(min=0, min_open=True)


server_option = click.option("-l", "--server", metavar="URL", help=SERVER_HELP)
_PLACEMENT = (
    click.option(
        "--requires", metavar="NAME=VALUE,...", help="What the GPU must be: pool=h100,vram_gb=24, or one of the two."
    ),
    click.option(
        "--start-within", metavar="SECONDS", type=Seconds(), help="It ends as expired if no GPU has begun it by then."
    ),
    click.option("--priority", metavar="N", type=int, help="Larger runs sooner; default: 0."),
    click.option("--label", metavar="WORD", help="What to find it by: comfyline list --label WORD."),
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON alone on stdout, all else on stderr.")


def print_rows(
    screen: Screen, headings: Sequence[Heading], rows: Sequence[Row], *, style: Callable[[Row], str] = lambda _row: ""
) -> None:
    """Print a line for each row: a table on a terminal, tab-separated elsewhere."""
    if screen.is_terminal:
        print_table(screen.console, headings, rows, style=style)
        return
    # Not through rich, which would turn tabs into spaces.
    for row in rows:
        click.echo("\t".join(printable(cell) for cell in row))


def placement_options(command: Command) -> Command:
    """Give a command the options that say when and where its job is to begin, and its label; see `placement`."""
    for option in reversed(_PLACEMENT):
        command = option(command)
    return command


def open_client(server: str | None) -> Client:
    """Return a client of the server that the command, `comfyline -l URL` before it, or the environment names."""
    settings = load_settings(**(click.get_current_context().obj or {}))
    return Client(server or settings.comfy_base_url, settings.comfy_api_key.get_secret_value())


def follow(client: Client, job: Job, screen: Screen) -> Job:
    """Show a job's progress until its end. Ctrl-C lets go of it, and says how to come back."""
    try:
        with screen.progress() as progress:
            return client.follow(job["id"], progress)
    except KeyboardInterrupt:
        screen.line(f"\nThe job goes on. See it: comfyline status {job['id']}   Stop it: comfyline cancel {job['id']}")
        raise


def save_outputs(client: Client, job: Job, folder: Path, screen: Screen) -> list[Path]:
    """Fetch every file a job made into `<folder>/<job id>`, and say where each is; say why there is none."""
    saved: list[Path] = []
    folder = folder / safe_name(job["id"])
    for name, output in zip(file_names(job), job.get("outputs") or [], strict=True):
        path = client.fetch(output, folder, name)
        screen.line(f"Saved {path}")
        saved.append(path)
    if job["status"] != "succeeded":
        describe_error(screen, job)
    return saved


def print_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    print(json.dumps(value, indent=2), flush=True)
