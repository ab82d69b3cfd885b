"""The operator's commands for a copy of the ledger: `backup`, while the fleet runs, and `restore`, while none does."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import click

from cli.local.broker import broker_lock
from cli.local.data_dir import make_data_dir
from cli.output.terminal import warn
from comfy.liveness.procfs import having_open
from core.errors import ConfigurationError
from core.ledger import backup as files
from core.settings import Settings, load_settings
from core.startup import private_from_now_on
from tasks.instance.directory_lock import occupied

#: Processes that are named.
MOST_NAMED = 5


@click.command()
@click.argument("target", metavar="FILE|DIR", type=click.Path(path_type=Path))
def backup(target: Path) -> None:
    """Write the ledger, as it is now, into a new FILE, or into one named for the time in DIR.

    For a SQLite ledger; the fleet may run. The file is checked before it gets its name. Pictures and uploads are in the
    storage, and not in it, nor is the secret key.
    """
    settings = load_settings()
    private_from_now_on()
    if target.is_dir():
        target /= time.strftime("comfyline-%Y%m%dT%H%M%SZ.db", time.gmtime())
    made = files.back_up(settings, target.absolute())
    warn(f"{_described(made)}.")
    key = f" Nor is the secret key ({made.key_id}): keep that, too, and elsewhere." if made.key_id else ""
    warn(f"Outputs and uploads are not in it: copy the storage after this, see docs/deployment.md.{key}")
    click.echo(made.path)


@click.command()
@click.argument("source", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--despite-key", is_flag=True, help="Restore it although this machine has another secret key.")
def restore(source: Path, despite_key: bool) -> None:
    """Make a FILE of `comfyline backup` the ledger of this machine, which must have none, and run nothing."""
    settings = load_settings()
    target = files.ledger_file(settings)
    make_data_dir(settings)
    with _standing_still(settings, target):
        made = files.restore(settings, source.absolute(), despite_key=despite_key)
    warn(f"{_described(made)}.")
    warn(
        "The storage has to be at least as young as the backup. Jobs that had not ended then run, and their webhooks "
        "are sent, as soon as the fleet starts."
    )
    click.echo(made.path)


def _described(made: files.Backup) -> str:
    return f"{made.path}: {made.size_bytes:,} bytes, {made.jobs:,} jobs, tables of {made.revision}, checked"


@contextlib.contextmanager
def _standing_still(settings: Settings, ledger: Path) -> Iterator[None]:
    """See that no process of this machine's fleet runs, and that no worker and no broker starts for the time being.

    Raises:
      ConfigurationError: some do.
    """
    with contextlib.ExitStack() as stack:
        if users := having_open(ledger):
            named = ", ".join(f"{pid} ({command})" for pid, command in users[:MOST_NAMED])
            raise ConfigurationError(f"The fleet of {ledger} runs; stop it first. These use its ledger: {named}.")
        if settings.has_embedded_broker:
            stack.enter_context(broker_lock(settings))
        for folder in sorted(settings.data_dir.glob("gpus/*/")):
            stack.enter_context(occupied(folder))
        yield
