"""The command `comfyline`: finds the subcommand, runs it, and turns errors into one clear line and an exit status."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

import click

from cli.exit_codes import EXIT_INTERRUPTED, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE
from cli.output.terminal import warn
from core.errors import ComfylineError, TransientError

#: Where each command stands, and its line in `comfyline --help`. They are imported when called: a client command need
#: not wait for Celery and SQLAlchemy.
COMMANDS = {
    "up": ("cli.commands.up:up", "Run the whole stack here; Ctrl-C stops it."),
    "demo": ("cli.commands.demo:demo", "Start everything, make one picture, stop everything."),
    "run": ("cli.commands.run:run", "Run a workflow of the server, and save what it makes."),
    "submit": ("cli.commands.submit:submit", "Run a workflow file, or queue one as a task."),
    "check": ("cli.commands.dry_runs.check:check", "Say whether some GPU can run a workflow, without running it."),
    "status": ("cli.commands.job_commands:status", "Show jobs."),
    "watch": ("cli.commands.job_commands:watch", "Follow jobs live to their ends."),
    "logs": ("cli.commands.job_commands:logs", "Show what ComfyUI printed while a job ran."),
    "rerun": ("cli.commands.bulk:rerun", "Run a job once more."),
    "cancel": ("cli.commands.job_commands:cancel", "Cancel jobs."),
    "purge": ("cli.commands.bulk:purge", "Cancel all jobs that wait, by a filter."),
    "delete": ("cli.commands.job_commands:delete", "Remove ended jobs and their files."),
    "list": ("cli.commands.job_commands:list_command", "List jobs, the newest first."),
    "batches": ("cli.commands.batches.batch_commands:batches", "Look after batches: many jobs from one submit --over."),
    "query": ("cli.commands.task_files:query", "Ask for a task, and keep the answer in a file."),
    "download": ("cli.commands.task_files:download", "Fetch one file of a task."),
    "download-all": ("cli.commands.task_files:download_all", "Fetch every file of a task."),
    "download-from-json": ("cli.commands.task_files:download_from_json", "Fetch the files that query --json names."),
    "upload": ("cli.commands.run:upload_command", "Give the server files, for graphs to name."),
    "workflows": ("cli.commands.templates:workflows", "Check templates, make them, and see which there are."),
    "webhooks": ("cli.commands.webhooks:webhooks", "List webhook deliveries, send them again, forget them."),
    "keys": ("cli.commands.access.key_commands:keys", "Make, list, rotate and revoke the keys of the server."),
    "tenants": (
        "cli.commands.access.tenant_commands:tenants",
        "Make, list, weigh and limit the owners of jobs, files and keys.",
    ),
    "limits": ("cli.commands.access.tenant_commands:limits", "Show what your tenant may have, and has left."),
    "usage": ("cli.commands.access.usage_commands:usage", "Show what was used: GPU time, jobs, bytes, money."),
    "audit": ("cli.commands.access.audit_commands:audit", "Show who did what on the server."),
    "models": ("cli.commands.model_files.manifest_commands:models", "The model files that the fleet fetches."),
    "gpus": ("cli.commands.gpus:gpus", "List the fleet's GPUs: state, job, models, uptime."),
    "drain": ("cli.commands.gpus:drain", "Have a GPU finish its job and take no more."),
    "resume": ("cli.commands.gpus:resume", "Have a drained or quarantined GPU take jobs again."),
    "restart": ("cli.commands.gpus:restart", "Restart a GPU's ComfyUI when its job is done."),
    "autoscale": ("cli.commands.scaling.scaling_commands:autoscale", "Show how many GPUs each pool wants, and why."),
    "scale-in": (
        "cli.commands.scaling.scaling_commands:scale_in",
        "Give back hosts that the fleet does not want any more.",
    ),
    "rollout": (
        "cli.commands.scaling.rollout_commands:rollout",
        "Restart or upgrade all hosts, one after the other.",
    ),
    "doctor": ("cli.commands.installation:doctor", "Say what is wrong here or in the fleet, and what to change."),
    "storage": ("cli.commands.safekeeping.storage:storage", "Copy the files of a directory into a bucket."),
    "broker": ("cli.commands.services:broker", "Run the embedded broker alone."),
    "api": ("cli.commands.services:api", "Run the HTTP API alone."),
    "gpu": ("cli.commands.services:gpu", "Run one worker for each GPU of this machine."),
    "worker": ("cli.commands.services:worker", "Run the worker of one GPU."),
    "io": ("cli.commands.services:io", "Run an io worker: uploads, webhooks, upkeep."),
    "beat": ("cli.commands.services:beat", "Run the clock of periodic work."),
    "flower": ("cli.commands.services:flower", "Run Flower, the window on workers and queues."),
    "vast-worker": (
        "cli.commands.scaling.vast_commands:vast_worker",
        "Serve as a worker of a Vast.ai serverless endpoint.",
    ),
    "migrate": ("cli.commands.services:migrate", "Bring the ledger's tables to this version."),
    "backup": ("cli.commands.safekeeping.backup:backup", "Write the SQLite ledger into a file to keep."),
    "restore": ("cli.commands.safekeeping.backup:restore", "Make such a file the ledger, where there is none."),
    "adopt-key": ("cli.commands.services:adopt_key", "Have the fleet go by this machine's secret key."),
    "version": ("cli.commands.installation:version", "Print the version."),
}

#: Of flags that choose among the endpoints of a router, in scripts that were written for one.
UNUSED = "Accepted for old scripts; has no effect here."


class _Commands(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("-k", "--api-key", metavar="KEY", help="The server's key; default: $COMFY_API_KEY.")
@click.option("-l", "--server-url", metavar="URL", help="The server; default: $COMFY_BASE_URL.")
@click.option("-e", "--endpoint-group", metavar="NAME", expose_value=False, help=UNUSED)
@click.option("-i", "--instance", metavar="NAME", expose_value=False, help=UNUSED)
@click.pass_context
def comfyline(context: click.Context, api_key: str | None, server_url: str | None) -> None:
    """Many GPUs that run ComfyUI, one job API.

    The options here are for commands that talk to a server. They stand before the command.
    """
    given = {"comfy_api_key": api_key, "comfy_base_url": server_url}
    #: What `open_client` sets over the environment.
    context.obj = {name: value for name, value in given.items() if value is not None}


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit status."""
    try:
        status = comfyline.main(args=list(arguments), prog_name="comfyline", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except ComfylineError as exc:
        warn(str(exc))
        return EXIT_UNREACHABLE if isinstance(exc, TransientError) else EXIT_USAGE
    return status if isinstance(status, int) else EXIT_OK


def main() -> None:
    """Entry point of the script `comfyline`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
