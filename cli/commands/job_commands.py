"""The commands that look after jobs: status, watch, logs, cancel, delete, list; for any server of Comfy API v2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cli.commands.bulk import do_to_all, filter_options, wanted
from cli.commands.shared import follow, json_option, open_client, print_json, save_outputs, server_option
from cli.exit_codes import EXIT_CANCELED, EXIT_FAILED, EXIT_OK, EXIT_USAGE, exit_status_of
from cli.output.job_log import JobLog
from cli.output.terminal import Screen, describe_job, list_jobs, warn
from cli.remote.answers import Job, RequestRefused
from cli.remote.client import TERMINAL, Client
from cli.remote.job_ids import whole_id
from cli.remote.list_filters import label_filters, moment
from core.texts.json_types import JsonObject

output_help = "Folder for the files it makes."
ids_argument = click.argument("ids", metavar="ID...", nargs=-1, required=True)
some_ids_argument = click.argument("ids", metavar="[ID...]", nargs=-1)


@click.command()
@ids_argument
@server_option
@click.option("--wait/--no-wait", default=False, help="Follow it to its end, and exit by its outcome.")
@click.option(
    "--output", "folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False), help=output_help
)  # fmt: skip
@json_option
def status(ids: tuple[str, ...], server: str | None, wait: bool, folder: Path | None, as_json: bool) -> int:
    """Show jobs. An ID may be the beginning of one, if no other job's begins so."""
    screen = Screen(json_on_stdout=as_json)
    client = open_client(server)

    def show(job_id: str) -> Job:
        job = client.job(job_id)
        if wait and job["status"] not in TERMINAL:
            job = follow(client, job, screen)
        if not as_json:
            describe_job(screen, job)
        if folder is None:
            return job
        saved = save_outputs(client, job, folder, screen)
        return {**job, "saved": [str(path) for path in saved]}

    jobs, exit_status = _each_job(client, ids, show)
    if as_json:
        print_json(_one_or_all(jobs, ids))
    return exit_status or (_worst_of(jobs) if wait else EXIT_OK)


@click.command()
@ids_argument
@server_option
@json_option
def watch(ids: tuple[str, ...], server: str | None, as_json: bool) -> int:
    """Follow jobs live to their ends, one after the other.

    \b
    Exit status: 0 succeeded, 1 failed or expired, 2 no such job, 3 canceled, 4 no server.
    """
    screen = Screen(json_on_stdout=as_json)
    client = open_client(server)

    def see(job_id: str) -> Job:
        job = client.job(job_id)
        if len(ids) > 1:
            screen.line(f"Job {job['id']}")
        if job["status"] not in TERMINAL:
            job = follow(client, job, screen)
        if not as_json:
            describe_job(screen, job)
        return job

    jobs, exit_status = _each_job(client, ids, see)
    if as_json:
        print_json(_one_or_all(jobs, ids))
    return exit_status or _worst_of(jobs)


@click.command()
@click.argument("job", metavar="ID")
@server_option
@click.option("--follow/--no-follow", "-f", "is_followed", default=False, help="Go on until the job's end.")
@json_option
def logs(job: str, server: str | None, is_followed: bool, as_json: bool) -> int:
    """Show what ComfyUI printed while a job ran: the end of it, if that is much.

    Nodes print what they like. Secrets of the job, and paths of the GPU's machine, are taken out.
    """
    client = open_client(server)
    job_id = whole_id(client, job)
    if as_json:
        print_json(client.printed(job_id) or {"text": "", "truncated": False, "complete": False})
        return EXIT_OK
    shown = JobLog(client, job_id)
    shown.go_on()
    if is_followed:
        client.follow(job_id, shown.hear)
        shown.finish()
    elif not shown.number:
        warn(f"{job_id}: nothing was printed so far.")
    return EXIT_OK


@click.command()
@some_ids_argument
@filter_options
@server_option
@json_option
def cancel(ids: tuple[str, ...], server: str | None, as_json: bool, yes: bool, **given: Any) -> int:
    """Cancel jobs, waiting or running: by their ids, or all that a filter finds.

    \b
    comfyline cancel 4be1 77c0
    comfyline cancel --label tuesday          says how many there are,
    comfyline cancel --label tuesday --yes    cancels them.
    """
    body = _ids_or_filter(ids, given, yes=yes)
    screen = Screen(json_on_stdout=as_json)
    client = open_client(server)
    if body:
        return do_to_all(client, "cancel", body, is_meant=yes, as_json=as_json, does="cancelled")

    def end(job_id: str) -> Job:
        job = client.cancel(job_id)
        if as_json:
            return job
        if job["status"] in ("canceled", "canceling"):
            screen.line(f"{job['id']}  {job['status']}")
        else:
            screen.line(f"{job['id']} has ended already: {job['status']}")
        return job

    jobs, exit_status = _each_job(client, ids, end)
    if as_json:
        print_json(_one_or_all(jobs, ids))
    return exit_status


@click.command()
@some_ids_argument
@filter_options
@server_option
@json_option
def delete(ids: tuple[str, ...], server: str | None, as_json: bool, yes: bool, **given: Any) -> int:
    """Remove ended jobs and their files, for good: by their ids, or all that a filter finds.

    \b
    comfyline delete --status failed --until 7d          says how many there are,
    comfyline delete --status failed --until 7d --yes    removes them.
    """
    body = _ids_or_filter(ids, given, yes=yes)
    screen = Screen(json_on_stdout=as_json)
    client = open_client(server)
    if body:
        return do_to_all(client, "delete", body, is_meant=yes, as_json=as_json, does="deleted")

    def remove(job_id: str) -> Job:
        client.delete(job_id)
        if not as_json:
            screen.line(f"{job_id}  deleted")
        return {"deleted": job_id}

    deleted, exit_status = _each_job(client, ids, remove)
    if as_json:
        print_json(_one_or_all(deleted, ids))
    return exit_status


@click.command("list")
@server_option
@click.option("--status", help="Only these, for instance running,queued.")
@click.option("--template", metavar="NAME", help="Only jobs made from this workflow of the server.")
@click.option(
    "--label", "labels", metavar="WORD", multiple=True,
    help="Only jobs with this label; KEY=VALUE is looked for in their metadata, up to three of them.",
)  # fmt: skip
@click.option("--since", metavar="TIME", help="Submitted then or later: 30m, 2h, 7d ago, or 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="TIME", help="Submitted earlier than that.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True)
@json_option
def list_command(
    server: str | None,
    status: str | None,
    template: str | None,
    labels: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int,
    as_json: bool,
) -> int:
    """List jobs, the newest first."""
    filters: dict[str, str | None] = {"status": status, "template": template, **label_filters(labels)}
    filters |= {"created_after": moment(since), "created_before": moment(until)}
    jobs = open_client(server).jobs(limit=limit, **filters)
    if as_json:
        print_json(jobs)
    else:
        list_jobs(Screen(), jobs)
    if jobs.has_more:
        warn(f"There are more than these {limit}: --limit shows more of them, --status, --template, --since fewer.")
    return EXIT_OK


def _ids_or_filter(ids: Sequence[str], given: Mapping[str, Any], *, yes: bool) -> JsonObject:
    """Return what the filters say; empty where jobs are named. Raises UsageError: both, or neither."""
    body = wanted(given)
    if ids and (body or yes):
        raise click.UsageError("Name jobs by their ids, or by filters, not both.")
    if not ids and not body.keys() - {"tenant"}:
        raise click.UsageError(
            "Name jobs by their ids, or by --label, --status, --template, --batch, --since, --until."
        )
    return body


def _each_job(client: Client, ids: Sequence[str], act: Callable[[str], Job]) -> tuple[list[Job], int]:
    """Do something with each job that is named, also when one of them cannot be had.

    Returns: what came of those that could, and the exit status for those that could not.
    """
    found: list[Job] = []
    exit_status = EXIT_OK
    for text in ids:
        try:
            found.append(act(whole_id(client, text)))
        except RequestRefused as exc:
            if len(ids) == 1:
                raise
            warn(f"{text}: {exc}")
            exit_status = EXIT_USAGE
    return found, exit_status


def _one_or_all(jobs: list[Job], ids: Sequence[str]) -> Any:
    """Return what `--json` prints: the job, if one was asked for, else a list."""
    return jobs[0] if len(ids) == 1 else jobs


def _worst_of(jobs: Sequence[Job]) -> int:
    """Return the exit status of several jobs: that of one that failed, else of one that was canceled."""
    found = {exit_status_of(job["status"]) for job in jobs}
    return next((status for status in (EXIT_FAILED, EXIT_CANCELED) if status in found), EXIT_OK)
