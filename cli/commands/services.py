"""One process each: the commands that stand in the Procfile, and that `comfyline up` runs together."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import time
from collections.abc import Sequence

import click

from cli.doctor.rounds import host_round
from cli.doctor.servers import look_only
from cli.exit_codes import EXIT_OK, EXIT_USAGE
from cli.local.broker import run_broker
from cli.local.data_dir import make_data_dir
from cli.local.processes import NOT_AGAIN, TICK_S, ProcessSet, StopSignals
from cli.local.stack import HINT_AFTER_S, child_environment, fleet_process
from cli.local.startup_checks import (
    broker_advice,
    note_start,
    settle_key,
    settle_storage,
    wait_for_ledger,
    wait_for_needs,
)
from cli.output.findings import finding_line
from cli.output.terminal import warn
from comfy.process.spec import REPOSITORY_ROOT, InstanceSpec
from core import log_format
from core.errors import ConfigurationError, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.upgrade import migrate as migrate_ledger
from core.outbound import Policy
from core.settings import Settings, load_settings, process_environment
from core.startup import check_api, data_dir_advice, is_told_already
from tasks.instance.directory_lock import occupied
from tasks.instance.plan import plan_instances
from tasks.instance.tenure import NameTaken, refuse_taken_names
from tasks.worker import run_beat, run_gpu_worker, run_io_worker


@click.command()
def broker() -> int:
    """Run the embedded broker (nothing to do if COMFYLINE_BROKER_URL is set)."""
    return run_broker(load_settings(), process_environment(), warn)


@click.command()
def api() -> None:
    """Run the HTTP API under gunicorn."""
    # Also in gunicorn's settings, for those who start it themselves; here before anything is waited for.
    check_api(load_settings())
    settings = _ready_settings("api", uses_files=True)
    logging.getLogger("comfyline.api").info("URLs of clients may lead to %s.", Policy.from_settings(settings))
    command = [sys.executable, "-m", "gunicorn", "--config", "python:api.gunicorn_config"]
    os.chdir(REPOSITORY_ROOT)
    # It becomes gunicorn, so that signals reach gunicorn's own handlers.
    os.execve(sys.executable, command, child_environment(settings, {}))  # noqa: S606 - no shell is wanted


@click.command()
def gpu() -> int:
    """Run one GPU worker for each GPU of this machine."""
    settings = load_settings()
    log_format.set_up(settings.log_format, "gpu")
    specs = plan_instances(settings)
    names = [spec.name for spec in specs]
    make_data_dir(settings)
    with contextlib.ExitStack() as stack:
        # Said once and here, as what follows, before workers are started that would find out one by one.
        for spec in specs:
            stack.enter_context(occupied(spec.data_dir))
        _look_around(settings, specs)
        wait_for_ledger(settings, warn)
        with contextlib.closing(look_only(settings)) as ledger, contextlib.suppress(LedgerUnavailable):
            refuse_taken_names(settings, specs, ledger)
    stop = StopSignals()
    processes = ProcessSet(report=warn, restart_clean_ends=False)
    environment = child_environment(settings, {})
    for name in names:
        processes.start(fleet_process(name, "worker", name, environment=environment))
    while processes.is_running():
        processes.tick()
        if stop:
            break
        time.sleep(TICK_S)
    # Each finishes its job first; a second signal does not wait for that.
    processes.ask_to_end(names)
    asked_s = time.monotonic()
    left = processes.wait(names, until=lambda: stop.count > 1 or time.monotonic() > asked_s + HINT_AFTER_S)
    if left and stop.count < 2:
        grace_s = settings.drain_grace_s
        warn(f"{', '.join(left)}: up to {grace_s:.0f} s for running jobs; a second signal does not wait.")
        processes.wait(left, until=lambda: stop.count > 1)
    processes.kill(names)
    processes.sweep()
    return EXIT_USAGE if processes.refused else EXIT_OK


@click.command()
@click.argument("name")
def worker(name: str) -> int:
    """Run the worker of one GPU (NAME is gpu0, gpu1, ...)."""
    try:
        run_gpu_worker(_ready_settings(name, uses_files=True), name)
    except NameTaken as exc:
        if not is_told_already():
            raise
        # Whoever has started us would do so again and again.
        warn(exc.message)
        return NOT_AGAIN
    return EXIT_OK


@click.command()
def io() -> None:
    """Run an io worker: uploads, webhooks, upkeep."""
    run_io_worker(_ready_settings("io", uses_files=True))


@click.command()
def beat() -> None:
    """Run the clock of periodic work; one for the whole fleet."""
    run_beat(_ready_settings("beat"))


@click.command()
def flower() -> int:
    """Run Flower, the window on workers and queues."""
    settings = _ready_settings("flower")
    # Imported by name and late: Flower takes half a second, which the other processes need not pay.
    status: int = importlib.import_module("cli.local.flower").run_flower(settings)
    return status


@click.command()
def migrate() -> None:
    """Create the ledger's tables, or bring them to this version."""
    settings = load_settings()
    make_data_dir(settings)
    migrate_ledger(settings)
    warn("the ledger has the tables of this version.")


@click.command(name="adopt-key")
def adopt_key() -> None:
    """Have the fleet go by the secret key of this machine, because nobody has the one it went by any more.

    What was sealed with that one stays closed: jobs that brought secrets fail, links to files end.
    """
    settings = load_settings()
    make_data_dir(settings)
    migrate_ledger(settings)
    with contextlib.closing(Ledger(settings, pool_size=1)) as ledger:
        ledger.fleet_key.adopt()
        ledger.audit.note("secret_key.adopt", "fleet")
    warn("COMFYLINE_SECRET_KEY of this machine is the fleet's now. Set it on all others, and restart every process.")


def _look_around(settings: Settings, specs: Sequence[InstanceSpec]) -> None:
    """Say how this machine and what it needs are. What is wrong may pass, and is waited for.

    Raises:
      ConfigurationError: with this no worker can start.
    """
    found = host_round(settings, specs)
    if (refusal := next((each for each in found if each.refuses), None)) is not None:
        raise ConfigurationError(refusal.text)
    for each in found:
        line = finding_line(each.subject, each.mark, each.text, stream=sys.stderr)
        if log_format.is_json():
            log_format.say(line)
        else:
            print(line, file=sys.stderr, flush=True)


def _ready_settings(process: str, *, uses_files: bool = False) -> Settings:
    """Return the settings, once broker and ledger are there.

    Parameters:
      process: which one starts, for the book of acts.
      uses_files: the process puts files into storage, or takes some from there.
    """
    settings = load_settings()
    log_format.set_up(settings.log_format, process)
    make_data_dir(settings)
    wait_for_needs(settings, warn)
    settle_key(settings, warn)
    if not is_told_already():
        for line in (data_dir_advice(settings), *broker_advice(settings)):
            if line:
                warn(line)
    if uses_files:
        settle_storage(settings, warn)
    note_start(settings, process)
    return settings
