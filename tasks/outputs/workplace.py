"""This machine's folder of files that are on their way into a bucket: what earlier lives left there, and since when."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from core.errors import LedgerUnavailable
from core.job_files import is_job_id
from core.ledger import Ledger
from core.records.job import DELIVERING
from core.settings import Settings
from core.storage.backend import output_storage

log = logging.getLogger(__name__)

#: Written when the folder is made: a disk that was replaced is younger than the files that are missed on it.
SINCE = ".since"


def open_workplace(settings: Settings, ledger: Ledger) -> None:
    """Make the folder, and remove from it what no job waits for any more. Called at an io worker's start."""
    storage = output_storage(settings)
    if not storage.is_remote:
        return
    storage.workplace.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (storage.workplace / SINCE).touch(exist_ok=False)
    found = [path.name for path in storage.workplace.iterdir() if is_job_id(path.name)]
    try:
        states = ledger.jobs.states(found) if found else {}
    except LedgerUnavailable as exc:
        log.warning("what earlier workers left in %s stays for now: %s", storage.workplace, exc)
        return
    for job_id in found:
        if job_id not in states or states[job_id][0] != DELIVERING:
            storage.clear_workplace(job_id)


def is_younger(workplace: Path, moment_ms: int) -> bool:
    """Return whether the disk that holds the workplace was put there after a moment, milliseconds since 1970."""
    try:
        return (workplace / SINCE).stat().st_mtime * 1000 > moment_ms
    except FileNotFoundError:
        return False
