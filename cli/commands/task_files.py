"""The commands query, download, download-all, download-from-json: what became of a task, and its files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from cli.commands.shared import json_option, open_client, print_json, server_option
from cli.exit_codes import EXIT_FAILED, EXIT_OK
from cli.output.terminal import Screen, describe_task, warn
from cli.output.text_tables import printable
from cli.remote.answers import RequestRefused
from cli.remote.job_ids import whole_id, whole_path
from cli.remote.task_client import ENDED, Task, TaskClient, file_paths
from cli.remote.written_files import result_file
from core.errors import InvalidBody, InvalidRequest
from core.texts.json_types import JsonObject
from core.texts.strict_json import loads

task_option = click.option("--task_id", "--task-id", metavar="ID", required=True, help="What comfyline submit printed.")
folder_option = click.option(
    "--output", "folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), default=Path("downloads"),
    show_default=True, help="Folder for the files. None is replaced: a second a.png becomes 'a (2).png'.",
)  # fmt: skip


@click.command()
@task_option
@click.option(
    "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), required=True,
    help="JSON file for the whole answer.",
)  # fmt: skip
@json_option
@server_option
def query(task_id: str, output: Path, as_json: bool, server: str | None) -> int:
    """Ask for a task, and write the answer to a file.

    With --json, stdout holds {"task_id", "status", "file_paths"} and
    nothing else, as comfyline download-from-json reads it.

    \b
    Exit status: 0 it waits, runs or is completed; 1 it failed, was cancelled
    or timed out; 2 there is no such task; 4 no server.
    """
    with result_file(output) as write:
        client = open_client(server)
        task = TaskClient(client).task(whole_id(client, task_id))
        write(task)
    if as_json:
        print_json({"task_id": task["id"], "status": task["status"], "file_paths": file_paths(task)})
    else:
        describe_task(Screen(), task, file_paths(task))
    return EXIT_FAILED if _has_failed(task["status"]) else EXIT_OK


@click.command()
@click.option("--path", required=True, help="An output's local_path: <task id>/<file name>.")
@folder_option
@server_option
def download(path: str, folder: Path, server: str | None) -> int:
    """Fetch one file of a task, and print where it is."""
    client = open_client(server)
    _save(TaskClient(client), whole_path(client, path), folder, Screen(json_on_stdout=True))
    return EXIT_OK


@click.command("download-all")
@task_option
@folder_option
@click.option("--wait/--no-wait", default=True, help="Wait for the task's end (default), or fetch only what is there.")
@server_option
def download_all(task_id: str, folder: Path, wait: bool, server: str | None) -> int:
    """Fetch every file of a task, and print where they are, one a line.

    \b
    Exit status: 0 all are here; 1 it has not ended, or ended without success,
    or a file is gone; 2 there is no such task; 4 no server.
    """
    client = open_client(server)
    tasks, task_id = TaskClient(client), whole_id(client, task_id)
    screen = Screen(json_on_stdout=True)
    task = _awaited(tasks, task_id, screen) if wait else tasks.task(task_id)
    if task["status"] not in ENDED:
        warn(f"Task {task_id} has not ended: {task['status']}. Without --no-wait its end is waited for.")
        return EXIT_FAILED
    if _has_failed(task["status"]):
        warn(f"Task {task_id} is {task['status']}: {task.get('message')}")
        return EXIT_FAILED
    return _save_all(tasks, file_paths(task), folder, screen)


@click.command("download-from-json")
@click.option("--json", "text", metavar="TEXT", help="The JSON itself; else it is read from stdin.")
@folder_option
@server_option
def download_from_json(text: str | None, folder: Path, server: str | None) -> int:
    """Fetch the files that JSON names under file_paths, and print where they are, one a line.

    \b
    comfyline query --task_id ID --output query.json --json | comfyline download-from-json

    \b
    Exit status: 0 all are here; 1 the task has made no files yet, or one is
    gone; 2 no such JSON; 4 no server.
    """
    given = _read_json(text)
    paths = given["file_paths"]
    status = given.get("status", "completed")
    if not paths and status != "completed":
        warn(f"Task {given.get('task_id')} has no files: {status}.")
        return EXIT_FAILED
    return _save_all(TaskClient(open_client(server)), paths, folder, Screen(json_on_stdout=True))


def _read_json(text: str | None) -> JsonObject:
    """An object with `file_paths`, from the command line or stdin."""
    if text is None and sys.stdin.isatty():
        raise click.UsageError("Give --json TEXT, or pipe the output of comfyline query --json into this command.")
    try:
        value = loads(sys.stdin.buffer.read() if text is None else text.encode())
    except (InvalidBody, UnicodeEncodeError) as exc:
        raise InvalidRequest(f"What came in is not what comfyline query --json prints: {exc}") from exc
    paths = value.get("file_paths") if isinstance(value, dict) else None
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise InvalidRequest(
            'What came in is not what comfyline query --json prints: it has no "file_paths", a list of texts.'
        )
    return dict(value)


def _awaited(tasks: TaskClient, task_id: str, screen: Screen) -> Task:
    said: list[str] = []

    def on_status(status: str) -> None:
        # An end that comes at once says itself what it is.
        if said[-1:] != [status] and (said or status not in ENDED):
            said.append(status)
            screen.line(status)

    return tasks.wait(task_id, on_status)


def _save_all(tasks: TaskClient, paths: Sequence[str], folder: Path, screen: Screen) -> int:
    """Save what there is; a file that is gone does not keep the others away."""
    if not paths:
        screen.line("The task has made no files.")
    status = EXIT_OK
    for path in paths:
        try:
            _save(tasks, path, folder, screen)
        except RequestRefused as exc:
            warn(str(exc))
            status = EXIT_FAILED
    return status


def _save(tasks: TaskClient, path: str, folder: Path, screen: Screen) -> None:
    with screen.transfer(path.rpartition("/")[2]) as on_bytes:
        saved = tasks.fetch(path, folder, on_bytes)
    print(printable(saved), flush=True)


def _has_failed(status: str) -> bool:
    return status in ENDED and status != "completed"
