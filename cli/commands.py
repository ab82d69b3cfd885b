"""The commands that look after jobs: status, watch, cancel, delete, list; each talks to any server of Comfy API v2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.client import TERMINAL, Client, Job
from cli.exits import EXIT_OK, exit_status_of
from cli.show import Screen, describe_error, describe_job, list_jobs
from core.settings import load_settings

Command = TypeVar("Command", bound=Callable[..., Any])

SERVER_HELP = "The server; default: $COMFY_BASE_URL, else http://127.0.0.1:8000."
DEFAULT_FOLDER = Path("fleet-output")

server_option = click.option("-l", "--server", metavar="URL", help=SERVER_HELP)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON alone on stdout, all else on stderr.")
output_help = "Folder for the files it makes."


@click.command()
@click.argument("job_id", metavar="ID")
@server_option
@click.option("--wait/--no-wait", default=False, help="Follow it to its end, and exit by its outcome.")
@click.option(
    "--output", "folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help=output_help
)  # fmt: skip
@json_option
def status(job_id: str, server: str | None, wait: bool, folder: Path | None, as_json: bool) -> int:
    """Show one job."""
    screen = Screen(json_on_stdout=as_json)
    client = open_client(server)
    job = client.job(job_id)
    if wait and job["status"] not in TERMINAL:
        job = follow(client, job, screen)
    if not as_json:
        describe_job(screen, job)
    saved = save_outputs(client, job, folder, screen) if folder is not None else []
    if as_json:
        print_json({**job, "saved": [str(path) for path in saved]} if folder is not None else job)
    return exit_status_of(job["status"]) if wait else EXIT_OK


@click.command()
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def watch(job_id: str, server: str | None, as_json: bool) -> int:
    """Follow one job live to its end.

    \b
    Exit status: 0 succeeded, 1 failed or expired, 2 no such job, 3 canceled, 4 no server.
    """
    screen = Screen(json_on_stdout=as_json)
    client = open_client(server)
    job = client.job(job_id)
    if job["status"] not in TERMINAL:
        job = follow(client, job, screen)
    if as_json:
        print_json(job)
    else:
        describe_job(screen, job)
    return exit_status_of(job["status"])


@click.command()
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def cancel(job_id: str, server: str | None, as_json: bool) -> int:
    """Cancel one job, waiting or running."""
    screen = Screen(json_on_stdout=as_json)
    job = open_client(server).cancel(job_id)
    if as_json:
        print_json(job)
    elif job["status"] in ("canceled", "canceling"):
        screen.line(f"{job['id']}  {job['status']}")
    else:
        screen.line(f"{job['id']} has ended already: {job['status']}")
    return EXIT_OK


@click.command()
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def delete(job_id: str, server: str | None, as_json: bool) -> int:
    """Remove one ended job and its files, for good."""
    open_client(server).delete(job_id)
    if as_json:
        print_json({"deleted": job_id})
    else:
        Screen().line(f"{job_id}  deleted")
    return EXIT_OK


@click.command("list")
@server_option
@click.option("--status", help="Only these, for instance running,queued.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@json_option
def list_command(server: str | None, status: str | None, limit: int, as_json: bool) -> int:
    """List jobs, the newest first."""
    jobs = open_client(server).jobs(status=status, limit=limit)
    if as_json:
        print_json(jobs)
    else:
        list_jobs(Screen(), jobs)
    return EXIT_OK


def open_client(server: str | None) -> Client:
    """A client of the server that was named: at the command, before it (`fleet -l URL`), or in the environment."""
    settings = load_settings(**(click.get_current_context().obj or {}))
    return Client(server or settings.comfy_base_url, settings.comfy_api_key.get_secret_value())


def follow(client: Client, job: Job, screen: Screen) -> Job:
    """Show a job's progress until its end. Ctrl-C lets go of it, and says how to come back."""
    try:
        with screen.progress() as progress:
            return client.follow(job["id"], progress)
    except KeyboardInterrupt:
        screen.line(f"\nThe job goes on. See it: fleet status {job['id']}   Stop it: fleet cancel {job['id']}")
        raise


def save_outputs(client: Client, job: Job, folder: Path, screen: Screen) -> list[Path]:
    """Fetch every file a job made and say where each is; say why there is none."""
    saved = []
    for output in job.get("outputs") or []:
        path = client.fetch(job, output, folder)
        screen.line(f"Saved {path}")
        saved.append(path)
    if job["status"] != "succeeded":
        describe_error(screen, job)
    return saved


def print_json(value: Any) -> None:
    """Print a value as JSON, for programs."""
    print(json.dumps(value, indent=2), flush=True)
