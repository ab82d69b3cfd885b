"""Backups of a SQLite ledger: whole and checked or not there, whatever is written or killed meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import ConfigurationError
from core.ledger import Ledger
from core.ledger.backup import _look, back_up, restore
from core.ledger.sealing import KEY_FILE, make_key
from core.ledger.upgrade import migrate
from core.settings import Settings
from tests.ledger_moves import submit
from tests.paths import ROOT
from tests.services import PostgresServer, make_settings, missing
from tests.waiting import until

#: Large enough that a copy takes a while.
BULK_BYTES = 400_000_000


@pytest.fixture
def used(tmp_path: Path) -> Settings:
    """A machine whose ledger has a job, and whose fleet has a key."""
    settings = make_settings(tmp_path / "used")
    migrate(settings)
    with contextlib.closing(Ledger(settings)) as ledger:
        ledger.fleet_key.settle()
        submit(ledger)
    return settings


@pytest.fixture
def fresh(tmp_path: Path) -> Settings:
    """Another machine, with nothing but a data directory."""
    settings = make_settings(tmp_path / "fresh")
    settings.make_data_dir()
    return settings


def bring_key(source: Settings, target: Settings) -> None:
    shutil.copy(source.data_dir / KEY_FILE, target.data_dir / KEY_FILE)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@contextlib.contextmanager
def submitting(settings: Settings) -> Iterator[list[str]]:
    """Submit jobs all the time, and list the ids of those that are recorded."""
    recorded: list[str] = []
    stop = threading.Event()

    def work() -> None:
        with contextlib.closing(Ledger(settings)) as ledger:
            while not stop.is_set():
                recorded.append(submit(ledger).id)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield recorded
    finally:
        stop.set()
        thread.join()


def test_what_was_recorded_before_is_in_it_although_others_write(used: Settings, fresh: Settings) -> None:
    target = fresh.data_dir.parent / "ledger.backup"
    with submitting(used) as recorded:
        until(lambda: len(recorded) >= 5)
        before = list(recorded)
        made = back_up(used, target)
        during = len(recorded)
        until(lambda: len(recorded) > during)
    bring_key(used, fresh)

    restored = restore(fresh, target)

    assert made.path == target
    assert len(before) <= made.jobs - 1 <= len(recorded)
    assert (restored.jobs, restored.revision, restored.key_id) == (made.jobs, made.revision, made.key_id)
    with contextlib.closing(Ledger(fresh)) as ledger:
        ledger.fleet_key.settle()
        assert {ledger.jobs.get(job_id).id for job_id in before} == set(before)
        submit(ledger)


def test_a_backup_is_one_file_that_is_its_users_alone(used: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()

    back_up(used, folder / "a.db")

    assert names(folder) == {"a.db"}
    assert (folder / "a.db").stat().st_mode & 0o077 == 0


def test_nothing_is_written_over_a_file(used: Settings, fresh: Settings, tmp_path: Path) -> None:
    target = tmp_path / "kept.db"
    back_up(used, target)
    was = target.read_bytes()
    with contextlib.closing(Ledger(used)) as ledger:
        submit(ledger)

    with pytest.raises(ConfigurationError, match=r"kept\.db is there"):
        back_up(used, target)
    with pytest.raises(ConfigurationError, match=r"ledger\.db is there"):
        restore(used, target)

    assert target.read_bytes() == was


def test_what_is_left_of_another_ledger_is_not_read_as_part_of_this_one(
    used: Settings, fresh: Settings, tmp_path: Path
) -> None:
    back_up(used, tmp_path / "kept.db")
    bring_key(used, fresh)
    (fresh.data_dir / "ledger.db-wal").write_bytes(b"of another one")

    with pytest.raises(ConfigurationError, match=r"ledger\.db-wal is there"):
        restore(fresh, tmp_path / "kept.db")

    assert not (fresh.data_dir / "ledger.db").exists()


def test_a_ledger_in_use_is_no_backup(used: Settings, fresh: Settings) -> None:
    with contextlib.closing(Ledger(used)) as ledger:
        submit(ledger)

        with pytest.raises(ConfigurationError, match="is a ledger in use"):
            restore(fresh, used.data_dir / "ledger.db")


@pytest.mark.parametrize("harm", ["cut", "changed", "another file", "another database"])
def test_what_is_not_whole_is_not_restored(harm: str, used: Settings, fresh: Settings, tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"
    back_up(used, kept)
    bring_key(used, fresh)
    content = bytearray(kept.read_bytes())
    if harm == "cut":
        kept.write_bytes(content[: len(content) // 2])
    elif harm == "changed":
        for page in range(1, len(content) // 4096):
            content[page * 4096 : page * 4096 + 16] = b"\xff" * 16
        kept.write_bytes(content)
    elif harm == "another file":
        kept.write_text("no database at all\n" * 1000)
    else:
        kept.unlink()
        with contextlib.closing(sqlite3.connect(kept)) as connection:
            connection.execute("CREATE TABLE jobs (id)")
            connection.commit()

    with pytest.raises(ConfigurationError, match=r"kept\.db is (damaged|not a whole ledger)"):
        restore(fresh, kept)

    assert names(fresh.data_dir) == {KEY_FILE, "ledger.lock"}


def test_the_backup_of_a_newer_version_is_refused(used: Settings, fresh: Settings, tmp_path: Path) -> None:
    kept = tmp_path / "kept.db"
    back_up(used, kept)
    with contextlib.closing(sqlite3.connect(kept)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()

    with pytest.raises(ConfigurationError, match="newer version"):
        restore(fresh, kept)


def test_a_machine_without_the_fleets_key_is_told_which_one_it_needs(
    used: Settings, fresh: Settings, tmp_path: Path
) -> None:
    made = back_up(used, tmp_path / "kept.db")
    assert made.key_id

    with pytest.raises(
        ConfigurationError, match=f"sealed with the secret key {made.key_id}, and this machine has none"
    ):
        restore(fresh, made.path)
    # It has not got one by being asked.
    assert not (fresh.data_dir / KEY_FILE).exists()

    with pytest.raises(
        ConfigurationError, match=f"COMFYLINE_SECRET_KEY holds .*, and the fleet seals with {made.key_id}"
    ):
        restore(fresh.model_copy(update={"secret_key": type(fresh.secret_key)(make_key())}), made.path)
    assert not (fresh.data_dir / "ledger.db").exists()

    restore(fresh, made.path, despite_key=True)
    assert (fresh.data_dir / "ledger.db").exists()


def test_a_key_of_the_setting_does_as_well(used: Settings, fresh: Settings, tmp_path: Path) -> None:
    made = back_up(used, tmp_path / "kept.db")
    key = (used.data_dir / KEY_FILE).read_text()

    assert restore(fresh.model_copy(update={"secret_key": type(fresh.secret_key)(key)}), made.path).jobs == 1


def test_postgresql_has_its_own_tools(fresh: Settings, tmp_path: Path) -> None:
    elsewhere = fresh.model_copy(update={"database_url": "postgresql://db.internal/comfyline"})

    for act in (back_up, restore):
        with pytest.raises(ConfigurationError, match="pg_dump"):
            act(elsewhere, tmp_path / "kept.db")


def test_a_url_that_cannot_be_read_is_told_without_what_it_says(fresh: Settings, tmp_path: Path) -> None:
    unread = fresh.model_copy(update={"database_url": "postgresql://u:s3cret-w0rd@h:notaport/d"})

    for act in (back_up, restore):
        with pytest.raises(ConfigurationError, match="must look like postgresql://") as refused:
            act(unread, tmp_path / "kept.db")
        assert "s3cret-w0rd" not in str(refused.value)


def test_a_backup_that_has_no_room_is_not_begun(
    used: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))

    with pytest.raises(ConfigurationError, match=r"has 1,000 bytes left, and [\d,]+ are needed"):
        back_up(used, tmp_path / "kept.db")

    assert "kept.db" not in names(tmp_path)


def test_postgresqls_own_tools_bring_a_ledger_back_as_the_page_says(tmp_path: Path, postgres: PostgresServer) -> None:
    tools = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"), reverse=True)), None)
    if tools is None:
        missing("pg_dump is not in /usr/lib/postgresql")
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert "pg_dump --format=custom --file=comfyline.dump" in page
    assert "pg_restore --no-owner --dbname=URL comfyline.dump" in page
    url, dump = postgres.create(), tmp_path / "comfyline.dump"
    settings = make_settings(tmp_path / "used", database_url=url)
    migrate(settings)
    with contextlib.closing(Ledger(settings)) as ledger:
        ledger.fleet_key.settle()
        job_id = submit(ledger).id

    subprocess.run([tools, "--format=custom", f"--file={dump}", f"--dbname={url}"], check=True, timeout=60)
    empty = postgres.create()
    subprocess.run([tools.parent / "pg_restore", "--no-owner", f"--dbname={empty}", dump], check=True, timeout=60)

    restored = settings.model_copy(update={"database_url": empty})
    migrate(restored)
    with contextlib.closing(Ledger(restored)) as ledger:
        ledger.fleet_key.settle()
        assert ledger.jobs.get(job_id).id == job_id
        submit(ledger)


# --- killed in the middle -------------------------------------------------------------------------------------------


def enlarge(settings: Settings) -> None:
    """Make the ledger of a machine large."""
    with contextlib.closing(sqlite3.connect(settings.data_dir / "ledger.db")) as connection:
        connection.execute("CREATE TABLE bulk (content)")
        connection.executemany("INSERT INTO bulk VALUES (zeroblob(?))", [(BULK_BYTES // 100,)] * 100)
        connection.commit()


def killed_in_the_middle(settings: Settings, command: str, argument: Path, draft: Path) -> None:
    """Run a command, and kill it when it has written a part."""
    environment = {**os.environ, "COMFYLINE_DATA_DIR": str(settings.data_dir)}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", command, str(argument)], cwd=ROOT, env=environment, stderr=subprocess.PIPE
    )
    try:
        until(lambda: draft.exists() and draft.stat().st_size > 1_000_000, what=f"a part of {draft}")
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_backup_that_is_killed_leaves_no_backup_and_the_next_one_is_whole(used: Settings, tmp_path: Path) -> None:
    enlarge(used)
    folder = tmp_path / "kept"
    folder.mkdir()
    target = folder / "a.db"

    killed_in_the_middle(used, "backup", target, folder / ".a.db.part")

    assert names(folder) <= {".a.db.part", ".a.db.part-journal"}
    assert back_up(used, target).jobs == 1
    assert names(folder) == {"a.db"}


def test_a_restore_that_is_killed_leaves_no_ledger_and_the_next_one_is_whole(
    used: Settings, fresh: Settings, tmp_path: Path
) -> None:
    enlarge(used)
    kept = back_up(used, tmp_path / "kept.db").path
    bring_key(used, fresh)

    killed_in_the_middle(fresh, "restore", kept, fresh.data_dir / ".ledger.db.part")

    assert not (fresh.data_dir / "ledger.db").exists()
    assert restore(fresh, kept).jobs == 1
    assert ".ledger.db.part" not in names(fresh.data_dir)


def test_the_next_backup_harms_none_whose_process_was_killed_when_it_had_its_name(
    used: Settings, tmp_path: Path
) -> None:
    target, moved = tmp_path / "a.db", tmp_path / "yesterday.db"
    back_up(used, target)
    # Killed right after the file had its name, and before its draft was gone.
    os.link(target, tmp_path / ".a.db.part")
    target.rename(moved)
    with contextlib.closing(Ledger(used)) as ledger:
        submit(ledger)

    assert back_up(used, target).jobs == 2

    assert _look(moved, moved).jobs == 1
    assert names(tmp_path) >= {"a.db", "yesterday.db"}
    assert ".a.db.part" not in names(tmp_path)
