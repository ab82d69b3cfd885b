"""The command `comfyline submit`: run a graph and save its outputs, or queue it as a task and keep the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from cli.commands.batches.submitting import BATCH_OPTIONS, batch_options, submit_batch
from cli.commands.shared import (
    DEFAULT_FOLDER,
    follow,
    json_option,
    open_client,
    placement_options,
    print_json,
    save_outputs,
    server_option,
)
from cli.exit_codes import EXIT_OK, exit_status_of
from cli.output.terminal import Screen, describe_refusal, warn
from cli.output.text_tables import printable
from cli.remote.answers import Job, RequestRefused, ServerUnreachable
from cli.remote.client import Client
from cli.remote.local_files import prepared, with_uploads
from cli.remote.placement import placement
from cli.remote.task_client import TaskClient
from cli.remote.task_values import (
    FLAGS,
    ROOMS,
    STYLES,
    fitted,
    local_image,
    names_for,
    parse_parameters,
    read_graph,
    read_workflow,
)
from cli.remote.written_files import is_file, result_file
from core.errors import InvalidRequest


@click.command()
@click.argument("file", required=False)
@click.option("--workflow", metavar="FILE|NAME", help="Queue this as a task: a graph, or a workflow of the server.")
@click.option("--user_img", "--user-img", metavar="FILE|URL", help="Task: {{USER_IMG}}; a file is uploaded first.")
@click.option("--style", help=f"Task: {{{{STYLE}}}}: {', '.join(STYLES)}, or 0, 1, 2.")
@click.option("--room", help=f"Task: {{{{ROOM}}}}: {', '.join(ROOMS)}.")
@click.option("--prefix", metavar="TEXT", help="Task: {{PREFIX}}, what the names of its files begin with.")
@click.option(
    "-p", "--parameter", "parameters", metavar="NAME=VALUE", multiple=True,
    help="Task: any other parameter; may be repeated. VALUE is text unless it reads as a number, true or false.",
)  # fmt: skip
@click.option(
    "--output", metavar="PATH", type=click.Path(path_type=Path),
    help=f"FILE: folder for the outputs (default: {DEFAULT_FOLDER}). Task: file for the answer; needed.",
)  # fmt: skip
@click.option(
    "--wait/--no-wait", default=None, help="FILE: follow it to its end (default), or return when it is queued."
)
@click.option("--upload/--no-upload", default=True, help="Upload files of this machine that loaders name (default).")
@batch_options
@placement_options
@server_option
@json_option
def submit(
    file: str | None,
    workflow: str | None,
    output: Path | None,
    wait: bool | None,
    upload: bool,
    requires: str | None,
    start_within: float | None,
    priority: int | None,
    label: str | None,
    server: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Run a workflow. There are three forms:

    \b
    comfyline submit FILE
        Run the workflow in FILE (- is stdin), show its progress,
        and save its outputs in the folder --output, under the job's id.
    comfyline submit --workflow FILE|NAME --output RESULT.json ...
        Queue a graph, or a workflow of the server, as a task. Write the
        answer to RESULT.json, print the task's id alone, and do not wait:
        comfyline query and comfyline download-all go on from there.
    comfyline submit FILE|NAME --over NAME=VALUES ...
        Submit many jobs at once, which differ in what is varied, and follow
        them. Run again with the same arguments, it goes on with the batch
        that is there, and saves in --output what is missing there.

    \b
    Exit status: 0 succeeded (or queued), 1 failed, 2 refused or misused,
    3 canceled, 4 no server.
    """
    placed = placement(requires, start_within, priority, label)
    if given["over"]:
        if workflow is not None:
            raise click.UsageError("--over varies a FILE, or a workflow of the server: not a task's --workflow.")
        options = {name: given.pop(name) for name in BATCH_OPTIONS}
        return submit_batch(
            file, output, server, placed, given, options, wait=wait is not False, upload=upload, as_json=as_json
        )
    if stray := [name for name in BATCH_OPTIONS if given.pop(name)]:
        raise click.UsageError(f"--{stray[0].replace('_', '-')} belongs to a batch: say what is varied by --over.")
    opened = None if file is None else _opened(file)
    if workflow is None:
        if opened is None:
            raise click.UsageError("Name a FILE to run, or a task's --workflow.")
        if stray := [name for name, value in given.items() if value]:
            raise click.UsageError(f"--{stray[0].removesuffix('s')} belongs to a task: name its graph by --workflow.")
        is_waited_for = wait is not False
        folder = output or DEFAULT_FOLDER
        return _run_graph(opened, folder, server, placed, wait=is_waited_for, upload=upload, as_json=as_json)
    if file is not None:
        raise click.UsageError("Name a FILE to run, or a task's --workflow, not both.")
    if wait:
        raise click.UsageError("A task is not waited for: use comfyline watch ID, or comfyline download-all.")
    if output is None:
        raise click.UsageError("A task needs --output RESULT.json, the file that its answer is written to.")
    return _queue_task(workflow, output, server, given, placed, upload=upload, as_json=as_json)


def _opened(name: str) -> Any:
    """Return the file of that name, - for stdin, open until the command ends. Raises click's BadParameter."""
    context = click.get_current_context()
    parameter = next(each for each in context.command.params if each.name == "file")
    return click.File("rb").convert(name, parameter, context)


def _run_graph(
    file: Any,
    folder: Path,
    server: str | None,
    placed: Mapping[str, Any],
    *,
    wait: bool,
    upload: bool,
    as_json: bool,
) -> int:
    if is_file(folder):
        raise click.BadParameter(f"Directory '{folder}' is a file.", param_hint="'--output'")
    screen = Screen(json_on_stdout=as_json)
    client = open_client(server)
    workflow = read_workflow(file.read(), file.name)
    check_gpus(client, wait=wait)
    with explained(screen, as_json=as_json):
        beside: dict[str, Any] = {}
        if upload:
            workflow, beside = prepared(workflow, Path(file.name).parent, client, screen)
        job = client.submit(workflow, {**placed, **beside})
    return see_through(client, job, folder, screen, wait=wait, as_json=as_json)


def check_gpus(client: Client, *, wait: bool) -> None:
    """Say before a job is queued that no GPU would take it.

    Raises: ServerUnreachable - none is ready, and the job would be waited for.
    """
    states = client.unready_gpus()
    if states and wait:
        raise ServerUnreachable(
            f"{client.base_url} has no GPU that is ready: {states}; comfyline gpus says why. Nothing was queued; with "
            "--no-wait the job is, and waits."
        )
    if states:
        warn(f"No GPU is ready: {states}; comfyline gpus says why. The job waits.")


def see_through(client: Client, job: Job, folder: Path, screen: Screen, *, wait: bool, as_json: bool) -> int:
    """Follow a job that was just queued to its files; returns the exit status."""
    if not wait:
        print_json(job) if as_json else screen.line(f"{job['id']}  {job['status']}")
        return EXIT_OK
    screen.line(f"Job {job['id']}")
    job = follow(client, job, screen)
    saved = save_outputs(client, job, folder, screen)
    if as_json:
        print_json({**job, "saved": [str(path) for path in saved]})
    return exit_status_of(job["status"])


def _queue_task(
    workflow: str,
    output: Path,
    server: str | None,
    given: Mapping[str, Any],
    placed: Mapping[str, Any],
    *,
    upload: bool,
    as_json: bool,
) -> int:
    # On stdout stands the id and nothing else.
    screen = Screen(json_on_stdout=True)
    flags = {name: given[name] for name in FLAGS if given[name] is not None}
    others = parse_parameters(given["parameters"], taken=flags)
    image = local_image(flags.get("user_img"))
    file = Path(workflow)
    client = open_client(server)
    graph = read_graph(file, client) if is_file(file) else None
    if graph is not None and "label" in placed:
        raise click.UsageError(f"The task of a graph file has no label: run it by comfyline submit {workflow} --label.")
    if graph is not None:
        flags, asked = fitted(graph, flags, others), flags
        for name in [name for name in asked if name not in flags]:
            screen.line(f"--{name} is not used: {{{{{name.upper()}}}}} stands nowhere in {workflow}.")
    tasks = TaskClient(client)
    with result_file(output) as write, explained(screen, as_json=as_json):
        if graph is not None and upload:
            graph = with_uploads(graph, file.parent, client, screen)
        name = _server_workflow(tasks, workflow, screen) if graph is None else ""
        if image is not None and "user_img" in flags:
            flags["user_img"] = tasks.upload(image)
            screen.line(f"Uploaded {image}")
        values = {**flags, **others}
        if graph is None:
            task = tasks.submit_workflow(name, values, placed)
        else:
            task = tasks.submit_graph(graph, values, placed)
        # Before the file is written: should the disk be full, the task can still be found.
        if as_json:
            print_json(task)
        else:
            print(printable(task["id"]), flush=True)
        write(task)
    return EXIT_OK


def _server_workflow(tasks: TaskClient, workflow: str, screen: Screen) -> str:
    """Return the server's workflow that is meant where there is no such file."""
    there_are = tasks.workflow_names()
    for name in names_for(workflow):
        if name in there_are:
            if name != workflow:
                screen.line(f"There is no file {workflow} here: the server's workflow {name} is run.")
            return name
    raise InvalidRequest(
        f"There is no file {workflow}, and the server has no workflow of that name; it has: {', '.join(there_are)}."
    )


@contextmanager
def explained(screen: Screen, *, as_json: bool) -> Iterator[None]:
    """When the server refuses a graph, say node by node why before the error goes on."""
    try:
        yield
    except RequestRefused as exc:
        describe_refusal(screen, exc.envelope["error"].get("details"))
        if as_json:
            print_json(exc.envelope)
        raise
