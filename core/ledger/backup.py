"""A SQLite ledger as one file to keep, taken while the fleet runs, and brought back where there is none.

A file appears under its name whole and checked, or not at all: whoever dies in the middle leaves a draft beside it,
which the next one takes over. Of the secret key a backup has the mark only, by which it is known again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from alembic.script import ScriptDirectory
from alembic.util import CommandError

from core.errors import ConfigurationError, LedgerUnavailable
from core.ledger.database.connections import parsed_url
from core.ledger.fleet_key import KEY_MARK, key_problem
from core.ledger.sealing import KEY_FILE, Sealer, load_keys
from core.ledger.upgrade import alembic_config, upgrade_lock
from core.settings import Settings

#: For a writer to let us in. Copying itself waits for nobody.
WAIT_S = 30.0
#: How a file is opened that nobody writes to, so that SQLite puts nothing beside it.
UNCHANGING = "mode=ro&immutable=1"
#: What SQLite keeps beside a ledger; with another ledger's it would be read as that one's.
BESIDE = ("-wal", "-shm", "-journal")


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What a file holds."""

    path: Path
    size_bytes: int
    jobs: int
    #: The last migration that its tables have seen.
    revision: str
    #: The id of the secret key that the fleet sealed with; None: it had none yet.
    key_id: str | None


def back_up(settings: Settings, target: Path) -> Backup:
    """Write the ledger as it is at this moment into a new file.

    Processes of the fleet go on reading and writing meanwhile; what they commit after the beginning is not in it.

    Raises:
      ConfigurationError: the ledger is not SQLite, or is not there; there is such a file, or it cannot be written;
        or it is damaged.
      LedgerUnavailable: the ledger cannot be read.
    """
    source = ledger_file(settings)
    if not source.is_file():
        raise ConfigurationError(f"There is no ledger at {source}: see COMFYLINE_DATA_DIR and COMFYLINE_DATABASE_URL.")
    _refuse_existing(target)
    with _draft(target, source.stat().st_size) as draft:
        try:
            with _opened(source, "mode=rw") as ledger, contextlib.closing(sqlite3.connect(draft)) as copy:
                # All at once, in one reading transaction: page by page, each commit of the fleet would begin it anew.
                ledger.backup(copy, pages=-1)
                # One file, with nothing beside it.
                copy.execute("PRAGMA journal_mode=DELETE")
        except sqlite3.Error as exc:
            raise LedgerUnavailable(f"{source} cannot be copied to {draft}: {exc}.") from exc
        return _settled(draft, target)


def restore(settings: Settings, source: Path, *, despite_key: bool = False) -> Backup:
    """Make a backup the ledger of this machine, which has to have none, and no process that runs.

    Parameters:
      despite_key: take it although this machine cannot open what it sealed.
    Raises:
      ConfigurationError: the ledger is not SQLite, or is there; the backup is none, is not whole, is a newer version's,
        or was sealed with another key.
    """
    target = ledger_file(settings)
    if not source.is_file():
        raise ConfigurationError(f"There is no file {source}.")
    if any(Path(f"{source}{end}").exists() for end in BESIDE):
        raise ConfigurationError(
            f"{source} is a ledger in use, and no backup: a part of it stands in {source}{BESIDE[0]}. Make a backup of "
            "it where it is used (comfyline backup)."
        )
    # Who starts meanwhile waits here, and then finds what we have brought.
    with upgrade_lock(settings):
        _refuse_existing(target)
        for path in (Path(f"{target}{end}") for end in BESIDE):
            _refuse_existing(path)
        with _draft(target, source.stat().st_size) as draft:
            try:
                shutil.copyfile(source, draft)
            except OSError as exc:
                raise ConfigurationError(f"{source} cannot be copied to {draft}: {exc.strerror}.") from exc
            _check_version(source, _look(draft, source).revision)
            if not despite_key and (problem := _key_problem(settings, draft)) is not None:
                raise ConfigurationError(problem)
            return _settled(draft, target)


def ledger_file(settings: Settings) -> Path:
    """Return the file of the ledger. Raises ConfigurationError: it is none of SQLite's, or the URL none at all."""
    url = parsed_url(settings.ledger_url)
    if url.get_backend_name() != "sqlite" or not url.database:
        raise ConfigurationError(
            "COMFYLINE_DATABASE_URL names a PostgreSQL, whose own tools do this: pg_dump and pg_restore, see "
            "docs/deployment.md."
        )
    return Path(url.database).absolute()


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ConfigurationError(f"{path} is there, and nothing is written over it: move it away, or name another.")


@contextlib.contextmanager
def _draft(target: Path, size_bytes: int) -> Iterator[Path]:
    """Yield the path of a file that becomes `target` later. It goes with the block, unless the process is killed."""
    path = target.with_name(f".{target.name}.part")
    try:
        free_bytes = shutil.disk_usage(target.parent).free
        if path.exists() and path.stat().st_nlink > 1:
            # Whoever was killed had given it its name already: it is a whole backup, wherever that was moved since.
            path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ConfigurationError(f"{target} cannot be written: {exc.strerror}.") from exc
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigurationError(f"Another process writes {target} at this moment.") from exc
        # Only now is it ours; what another one left that was killed is no part of this.
        os.ftruncate(descriptor, 0)
        _remove(Path(f"{path}{end}") for end in BESIDE)
        try:
            if free_bytes < size_bytes:
                raise ConfigurationError(
                    f"{target.parent} has {free_bytes:,} bytes left, and {size_bytes:,} are needed for {target.name}."
                )
            yield path
        finally:
            _remove([path, *(Path(f"{path}{end}") for end in BESIDE)])
    finally:
        os.close(descriptor)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _settled(draft: Path, target: Path) -> Backup:
    """Check a draft, see that it is on the disk, and give it its name. Raises: as `back_up`."""
    found = _look(draft, target)
    _sync(draft)
    _give_name(draft, target)
    _sync(target.parent)
    return found


def _sync(path: Path) -> None:
    """See that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give_name(draft: Path, target: Path) -> None:
    try:
        # Unlike a rename it never takes the place of what somebody has made meanwhile.
        os.link(draft, target)
    except FileExistsError:
        _refuse_existing(target)
    except OSError:
        # A file system without links.
        _refuse_existing(target)
        draft.rename(target)


def _look(path: Path, name: Path) -> Backup:
    """Read a whole file, and return what it holds.

    Parameters:
      name: what it is called in errors.
    Raises:
      ConfigurationError: it is no ledger, or not whole.
    """
    try:
        with _opened(path, UNCHANGING) as connection:
            problems = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(3)")]
            if problems != ["ok"]:
                raise ConfigurationError(f"{name} is damaged: {'; '.join(problems)}.")
            [revision] = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            [jobs] = connection.execute("SELECT count(*) FROM jobs").fetchone()
            mark = _mark_in(connection)
    except (sqlite3.Error, TypeError) as exc:
        raise ConfigurationError(f"{name} is not a whole ledger: {exc}.") from exc
    key_id = mark.partition(":")[0] if mark else None
    return Backup(path=name, size_bytes=path.stat().st_size, jobs=jobs, revision=revision, key_id=key_id)


def _check_version(source: Path, revision: str) -> None:
    try:
        ScriptDirectory.from_config(alembic_config()).get_revision(revision)
    except CommandError as exc:
        raise ConfigurationError(
            f"{source} was made by a newer version of Comfyline ({revision}); restore it with that one."
        ) from exc


def _key_problem(settings: Settings, path: Path) -> str | None:
    """Return why this machine's key would not open what a backup has sealed; None if it would."""
    with _opened(path, UNCHANGING) as connection:
        mark = _mark_in(connection)
    if mark is None:
        return None
    configured = settings.secret_key.get_secret_value()
    kept = settings.data_dir / KEY_FILE
    advice = "Bring the fleet's key first; if nobody has it any more, --despite-key restores all but what it sealed."
    # Looked for here: whoever loads keys where there are none makes one.
    if not configured and not kept.exists():
        return (
            f"The backup was sealed with the secret key {mark.partition(':')[0]}, and this machine has none: there is "
            f"no COMFYLINE_SECRET_KEY, and no {kept}. {advice}"
        )
    problem = key_problem(mark, Sealer(load_keys(configured, settings.data_dir)), is_set=bool(configured))
    return None if problem is None else f"{problem} {advice}"


def _mark_in(connection: sqlite3.Connection) -> str | None:
    found = connection.execute("SELECT value FROM facts WHERE name = ?", (KEY_MARK,)).fetchone()
    return None if found is None else str(found[0])


def _opened(path: Path, options: str) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?{options}", uri=True, timeout=WAIT_S))
