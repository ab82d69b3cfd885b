"""Jobs that are there: one of them once more, and many of them by what they have in common, ended or removed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.commands.shared import DEFAULT_FOLDER, json_option, open_client, placement_options, print_json, server_option
from cli.commands.submit import check_gpus, explained, see_through
from cli.exit_codes import EXIT_FAILED, EXIT_OK
from cli.output.terminal import Screen, warn
from cli.output.text_tables import printable
from cli.remote.answers import ServerUnreachable
from cli.remote.client import Client
from cli.remote.job_ids import whole_id
from cli.remote.list_filters import moment
from cli.remote.placement import placement
from cli.remote.task_values import scalar
from core.errors import InvalidRequest
from core.texts.json_types import JsonObject

Command = TypeVar("Command", bound=Callable[..., Any])

#: Answers in a row that did nothing and left something; then somebody else holds it up.
IDLE_ANSWERS, PAUSE_S = 5, 0.5
_FILTERS = (
    click.option("--status", help="All jobs with one of these, such as queued,running."),
    click.option("--label", metavar="WORD", help="All jobs with this label."),
    click.option("--template", metavar="NAME", help="All jobs made from this workflow of the server."),
    click.option("--batch", metavar="ID", help="All jobs of this batch."),
    click.option("--since", metavar="TIME", help="Submitted then or later: 30m, 2h, 7d ago, or 2026-01-31T12:00:00Z."),
    click.option("--until", metavar="TIME", help="Submitted earlier than that."),
    click.option("--tenant", metavar="NAME", help="For operators: jobs of this tenant, or * of all."),
    click.option("--yes", is_flag=True, help="Do it; without this the jobs are counted, and nothing happens to them."),
)


def filter_options(command: Command) -> Command:
    """Give a command the options that say which jobs are meant, see `wanted`."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def wanted(given: Mapping[str, Any]) -> JsonObject:
    """Return what the filters of a command say, as the body of a request; empty where they say nothing."""
    body = {name: given[name] for name in ("label", "template", "batch", "tenant")}
    body |= {"created_after": moment(given["since"]), "created_before": moment(given["until"])}
    body["status"] = given["status"].split(",") if given["status"] else None
    return {name: value for name, value in body.items() if value is not None}


def do_to_all(client: Client, action: str, body: JsonObject, *, is_meant: bool, as_json: bool, does: str) -> int:
    """Count jobs, and where that is meant do it to them until none is left.

    Parameters:
      action: `cancel` or `delete`.
      does: what has become of a job then, such as `cancelled`.
    Returns: the exit status.
    """
    screen, path = Screen(json_on_stdout=as_json), f"/api/v2/bulk/{action}"
    counted = _checked(client.ask("POST", path, body=body))
    if not is_meant or not counted["matched"]:
        if as_json:
            print_json(counted)
        else:
            hint = f" Nothing was done: with --yes they are {does}." if counted["matched"] else ""
            screen.line(f"{_jobs(counted['matched'])} match{_parts(counted)}.{hint}")
        return EXIT_OK
    done, idle = 0, 0
    while True:
        answer = _checked(client.ask("POST", path, body={**body, "confirm": counted["confirm"]}))
        done += answer["done"]
        idle = 0 if answer["done"] else idle + 1
        if not answer["left"] or idle >= IDLE_ANSWERS:
            break
        screen.line(f"{done} of {counted['matched']} {does}")
        time.sleep(PAUSE_S if idle else 0)
    if as_json:
        print_json({**answer, "done": done})
    else:
        screen.line(f"{_jobs(done)} {does}.")
    if answer["left"]:
        warn(f"{_jobs(answer['left'])} could not be {does} now. Try again in a moment.")
        return EXIT_FAILED
    return EXIT_OK


@click.command()
@filter_options
@server_option
@json_option
def purge(server: str | None, as_json: bool, yes: bool, **given: Any) -> int:
    """Cancel all jobs that wait, by label or another filter. What runs goes on."""
    body = wanted(given)
    if "status" in body:
        raise click.UsageError("Only jobs that wait are purged: comfyline cancel takes --status.")
    if not body.keys() - {"tenant"}:
        raise click.UsageError("Say which jobs: --label, --template, --batch, --since or --until.")
    body["status"] = ["queued"]
    return do_to_all(open_client(server), "cancel", body, is_meant=yes, as_json=as_json, does="cancelled")


@click.command()
@click.argument("job_id", metavar="ID")
@click.option(
    "--set", "changes", metavar="NAME=VALUE", multiple=True,
    help="Another value: of a template's parameter, or of a place of the graph such as 3.steps. May be repeated.",
)  # fmt: skip
@click.option("--same-seed", is_flag=True, help="Keep the seeds that were drawn; else they are drawn anew.")
@click.option(
    "--output", "folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), default=DEFAULT_FOLDER,
    show_default=True, help="Folder for the files it makes; they stand in it under the job's id.",
)  # fmt: skip
@click.option("--wait/--no-wait", default=True, help="Follow it to its end (default), or return when it is queued.")
@placement_options
@server_option
@json_option
def rerun(
    job_id: str,
    changes: tuple[str, ...],
    same_seed: bool,
    folder: Path,
    wait: bool,
    requires: str | None,
    start_within: float | None,
    priority: int | None,
    label: str | None,
    server: str | None,
    as_json: bool,
) -> int:
    """Run a job once more, and save what it makes.

    \b
    comfyline rerun 4be1                     with new seeds, where they were drawn
    comfyline rerun 4be1 --set steps=30      with another value
    comfyline rerun 4be1 --set 3.cfg=6.5     also of a plain graph

    \b
    Exit status: 0 succeeded (or queued), 1 failed, 2 refused or misused,
    3 canceled, 4 no server, or no GPU that is ready.
    """
    body = {**_changes(changes), **placement(requires, start_within, priority, label)}
    if same_seed:
        body["same_seed"] = True
    screen, client = Screen(json_on_stdout=as_json), open_client(server)
    check_gpus(client, wait=wait)
    with explained(screen, as_json=as_json):
        job = client.rerun(whole_id(client, job_id), body)
    return see_through(client, job, folder, screen, wait=wait, as_json=as_json)


def _changes(texts: tuple[str, ...]) -> JsonObject:
    """Return `NAME=VALUE` as fields of a rerun. Raises: InvalidRequest - one is none, or a name is given twice."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidRequest(f"--set {text}: it is NAME=VALUE, for instance --set steps=20 or --set 3.steps=20.")
        values = found.setdefault("inputs" if "." in name else "parameters", {})
        if name in values:
            raise InvalidRequest(f"--set {text}: {name} is given twice.")
        values[name] = scalar(value)
    return found


def _checked(answer: JsonObject) -> JsonObject:
    numbers = ("matched", "done", "left")
    if not all(isinstance(answer.get(name), int) for name in numbers) or not isinstance(answer.get("confirm"), str):
        raise ServerUnreachable("The server answered something that is no count of jobs: is it a Comfyline server?")
    return answer


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _parts(answer: JsonObject) -> str:
    found = answer.get("by_status")
    parts = [f"{count} {printable(str(status))}" for status, count in found.items()] if isinstance(found, dict) else []
    return f" ({', '.join(parts)})" if parts else ""
