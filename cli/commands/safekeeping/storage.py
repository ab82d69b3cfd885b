"""The operator's command for the fleet's storage: a directory's files into a bucket."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from cli.exit_codes import EXIT_FAILED, EXIT_OK
from cli.local.storage_copy import Copied, StorageCopy, alone
from cli.output.terminal import Screen
from core.errors import ConfigurationError, StorageUnavailable
from core.ledger import Ledger
from core.settings import load_settings

#: Lost files that are named.
MOST_LINES = 100


@click.group()
def storage() -> None:
    """Move the fleet's files."""


@storage.command()
@click.option(
    "--from", "source", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The directory that has outputs and inputs; default: COMFYLINE_STORAGE_DIR, else the data directory.",
)  # fmt: skip
@click.option("--despite-losses", is_flag=True, help="Let the fleet move although some of its files are lost.")
def copy(source: Path | None, despite_losses: bool) -> int:
    """Copy the files of a directory into the bucket that COMFYLINE_STORAGE_URL names.

    The fleet may run meanwhile, and still use the directory. Run it again for what came since: what is in the bucket
    is not sent twice, and each file that is sent is read back and compared by its hash. When all files that the ledger
    knows are in the bucket, the first process that is started with it moves the fleet there.
    """
    settings = load_settings()
    if not settings.storage_url:
        raise ConfigurationError("COMFYLINE_STORAGE_URL is not set: it names the bucket, s3://bucket/prefix.")
    place = (source or settings.storage_dir or settings.data_dir).absolute()
    screen = Screen()
    try:
        with alone(place), contextlib.closing(Ledger(settings)) as ledger:
            run = StorageCopy(settings, place, ledger)
            total, done = run.total_bytes(), 0
            with screen.transfer(f"{place} to {settings.storage_url}") as show:

                def on_bytes(size_bytes: int) -> None:
                    nonlocal done
                    done += size_bytes
                    if show is not None:
                        show(done, total)

                copied = run.run(on_bytes, despite_losses=despite_losses)
    except OSError as exc:
        raise StorageUnavailable(
            f"{exc.strerror or exc}. What was copied stays: run the command again, and it goes on."
        ) from exc
    return _told(screen, copied, settings.storage_url)


def _told(screen: Screen, copied: Copied, url: str) -> int:
    words = f"{copied.copied} files copied to {url}, {copied.known} were there"
    if copied.unrecorded:
        words += f", {copied.unrecorded} belong to no job that has ended, and were left"
    screen.line(f"{words}.")
    for lost in copied.lost[:MOST_LINES]:
        whose = f"asset {lost.asset_id}" + (f" of job {lost.job_id}" if lost.job_id else "")
        screen.line(f"{lost.key} ({whose}) {lost.why}.", "red")
    if len(copied.lost) > MOST_LINES:
        screen.line(f"So are {len(copied.lost) - MOST_LINES} more.", "red")
    if copied.is_ready:
        screen.line("The first process that is started with this COMFYLINE_STORAGE_URL moves the fleet to it.")
        return EXIT_OK
    screen.line(
        "The fleet cannot move yet. Bring these files back, or delete their jobs, and run the command again; with "
        "--despite-losses the fleet moves without them."
    )
    return EXIT_FAILED
