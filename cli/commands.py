"""The client's commands: submit, status, cancel, list; each talks to any server of Comfy API v2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cli.client import TERMINAL, Client, Job, RequestRefused
from cli.exits import EXIT_OK, exit_status_of
from cli.show import Screen, describe_error, describe_job, describe_refusal, list_jobs
from core.errors import InvalidBody, InvalidRequest
from core.settings import load_settings
from core.strict_json import loads

Command = TypeVar("Command", bound=Callable[..., Any])

SERVER_HELP = "The server; default: $COMFY_BASE_URL, else http://127.0.0.1:8000."
DEFAULT_FOLDER = Path("fleet-output")

server_option = click.option("-l", "--server", metavar="URL", help=SERVER_HELP)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON alone on stdout, all else on stderr.")
output_help = "Folder for the files it makes."


@click.command()
@click.argument("file", type=click.File("rb"))
@server_option
@click.option("--wait/--no-wait", default=True, help="Follow it to its end (default), or return when it is queued.")
@click.option(
    "--output", "folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help=output_help,
    default=DEFAULT_FOLDER, show_default=True,
)  # fmt: skip
@json_option
def submit(file: Any, server: str | None, wait: bool, folder: Path, as_json: bool) -> int:
    """Run the workflow in FILE (API format; - is stdin).

    \b
    Exit status: 0 succeeded (or queued, with --no-wait), 1 failed,
    2 refused or misused, 3 canceled, 4 no server.
    """
    screen = Screen(json_on_stdout=as_json)
    client = open_client(server)
    workflow = read_workflow(file.read(), file.name)
    job = submit_or_explain(client, workflow, screen, as_json=as_json)
    if not wait:
        _print_json(job) if as_json else screen.line(f"{job['id']}  {job['status']}")
        return EXIT_OK
    screen.line(f"Job {job['id']}")
    job = follow(client, job, screen)
    saved = save_outputs(client, job, folder, screen)
    if as_json:
        _print_json({**job, "saved": [str(path) for path in saved]})
    return exit_status_of(job["status"])


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
        _print_json({**job, "saved": [str(path) for path in saved]} if folder is not None else job)
    return exit_status_of(job["status"]) if wait else EXIT_OK


@click.command()
@click.argument("job_id", metavar="ID")
@server_option
@json_option
def cancel(job_id: str, server: str | None, as_json: bool) -> int:
    """Cancel one job, waiting or running."""
    screen = Screen(json_on_stdout=as_json)
    job = open_client(server).cancel(job_id)
    if as_json:
        _print_json(job)
    elif job["status"] in ("canceled", "canceling"):
        screen.line(f"{job['id']}  {job['status']}")
    else:
        screen.line(f"{job['id']} has ended already: {job['status']}")
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
        _print_json(jobs)
    else:
        list_jobs(Screen(), jobs)
    return EXIT_OK


def open_client(server: str | None) -> Client:
    """A client of the server that was named, here or in the environment."""
    settings = load_settings()
    return Client(server or settings.comfy_base_url, settings.comfy_api_key.get_secret_value())


def read_workflow(body: bytes, name: str) -> dict[str, Any]:
    """The graph in a file, also where it stands in a request body under `workflow` or `prompt`.

    Raises:
      InvalidRequest: the file is not JSON, or not an object.
    """
    try:
        value = loads(body)
    except InvalidBody as exc:
        raise InvalidRequest(f"{name} is not a workflow: {exc}") from exc
    if isinstance(value, dict):
        for wrapper in ("workflow", "prompt"):
            if isinstance(value.get(wrapper), dict) and "class_type" not in value[wrapper]:
                value = value[wrapper]
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} is not a workflow: it holds no JSON object.")
    return value


def submit_or_explain(client: Client, workflow: dict[str, Any], screen: Screen, *, as_json: bool = False) -> Job:
    """Submit; when the graph is refused, say node by node why before the error goes on."""
    try:
        return client.submit(workflow)
    except RequestRefused as exc:
        describe_refusal(screen, exc.envelope["error"].get("details"))
        if as_json:
            _print_json(exc.envelope)
        raise


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


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2), flush=True)
