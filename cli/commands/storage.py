"""The operator's command for the fleet's storage: a directory's files into a bucket."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from cli.exit_codes import EXIT_FAILED, EXIT_OK
from cli.local.storage_copy import Copied, StorageCopy
from cli.output.terminal import Screen
from core.errors import ConfigurationError, StorageUnavailable
from core.ledger import Ledger
from core.settings import load_settings


@click.group()
def storage() -> None:
    """Move the fleet's files."""


@storage.command()
@click.option(
    "--from", "source", metavar="DIR", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The directory that has outputs and inputs; default: COMFYLINE_STORAGE_DIR, else the data directory.",
)  # fmt: skip
def copy(source: Path | None) -> int:
    """Copy the files of a directory into the bucket that COMFYLINE_STORAGE_URL names.

    The fleet may run meanwhile, and still use the directory. Run it again for what came since: what is in the bucket
    is not sent twice, and each file that is sent is read back and compared by its hash.
    """
    settings = load_settings()
    if not settings.storage_url:
        raise ConfigurationError("COMFYLINE_STORAGE_URL is not set: it names the bucket, s3://bucket/prefix.")
    place = (source or settings.storage_dir or settings.data_dir).absolute()
    screen = Screen()
    try:
        with contextlib.closing(Ledger(settings)) as ledger:
            run = StorageCopy(settings, place, ledger)
            total, done = run.total_bytes(), 0
            with screen.transfer(f"{place} to {settings.storage_url}") as show:

                def on_bytes(size_bytes: int) -> None:
                    nonlocal done
                    done += size_bytes
                    if show is not None:
                        show(done, total)

                copied = run.run(on_bytes)
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
    if not copied.damaged:
        return EXIT_OK
    for key in copied.damaged:
        screen.line(f"{key} is not what the ledger says it is, by its hash; it was not copied.", "red")
    screen.line("The bucket is not marked as the fleet's. Remove these jobs or files, then run the command again.")
    return EXIT_FAILED
