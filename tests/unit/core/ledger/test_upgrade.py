"""The schema is made by one process at a time, in our words where that goes wrong."""

from __future__ import annotations

import fcntl
import logging
import sqlite3
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DataError, OperationalError, ProgrammingError

from core.errors import ConfigurationError, LedgerFault, LedgerUnavailable, UnstorableValue
from core.ledger import Ledger, upgrade
from core.ledger.database.connections import Database
from core.ledger.upgrade import (
    ADVISORY_LOCK,
    OLDEST_CODE,
    _exclusive,
    _in_our_words,
    alembic_config,
    migrate,
    read_schema,
)
from core.settings import Settings
from tests.ledger_moves import submit


def test_an_empty_database_has_its_tables_then(settings: Settings) -> None:
    migrate(settings)
    ledger = Ledger(settings)
    assert submit(ledger).status == "queued"
    ledger.close()
    assert logging.getLogger("alembic").level == logging.WARNING


def test_one_that_is_as_new_is_left_alone(sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "upgrade", lambda *_arguments: pytest.fail("there is nothing to do"))
    migrate(sqlite_settings)


def set_version(settings: Settings, version: str, works_with: str) -> None:
    """What a later version would have left."""
    with sqlite3.connect(settings.data_dir / "ledger.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (version,))
        connection.execute("UPDATE facts SET value = ? WHERE name = ?", (works_with, OLDEST_CODE))
    connection.close()


def test_one_of_a_newer_version_is_refused(sqlite_settings: Settings) -> None:
    set_version(sqlite_settings, "9999", "9998")
    for look in (migrate, read_schema):
        with pytest.raises(ConfigurationError, match="COMFYLINE_DATABASE_URL: the ledger was made by a newer version"):
            look(sqlite_settings)


def test_one_of_the_next_version_is_left_as_it_is(sqlite_settings: Settings) -> None:
    """While hosts are renewed one after the other, those whose turn has not come may start again."""
    newest = read_schema(sqlite_settings).newest
    set_version(sqlite_settings, "9999", newest)
    migrate(sqlite_settings)
    found = read_schema(sqlite_settings)
    assert (found.revision, found.is_later, found.is_current) == ("9999", True, True)


def test_each_version_says_which_code_works_with_it(sqlite_settings: Settings) -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    head = scripts.get_revision("head")
    ledger = Ledger(sqlite_settings)
    assert ledger.facts.get(OLDEST_CODE) == getattr(head.module, "works_with", head.down_revision)
    ledger.close()


def test_a_file_that_is_none_is_said_to_be_away(sqlite_settings: Settings) -> None:
    (sqlite_settings.data_dir / "ledger.db").write_bytes(b"nothing of the kind" * 1000)
    with pytest.raises(LedgerUnavailable, match=r"COMFYLINE_DATABASE_URL: the database does not answer \(.*not a data"):
        migrate(sqlite_settings)


def test_nobody_else_makes_it_meanwhile(sqlite_settings: Settings) -> None:
    database = Database(sqlite_settings.ledger_url)
    with (sqlite_settings.data_dir / "ledger.lock").open("w") as file:
        with _exclusive(database, sqlite_settings.data_dir), pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_on_postgresql_a_lock_of_the_server_is_held_meanwhile(tmp_path: Path) -> None:
    said: list[tuple[str, Any]] = []

    answers = iter([False, True, True])

    def execute(statement: Any, values: Any) -> Any:
        said.append((str(statement), values))
        return SimpleNamespace(scalar=lambda: next(answers))

    def execution_options(**options: str) -> Any:
        said.append(("how", options))
        return nullcontext(SimpleNamespace(execute=execute))

    def connect() -> Any:
        return SimpleNamespace(execution_options=execution_options)

    database: Any = SimpleNamespace(is_sqlite=False, engine=SimpleNamespace(connect=connect))
    with _exclusive(database, tmp_path):
        said.append(("meanwhile", None))
    name = {"name": ADVISORY_LOCK}
    assert said == [
        ("how", {"isolation_level": "AUTOCOMMIT"}),
        ("SELECT pg_try_advisory_lock(:name)", name),
        ("SELECT pg_try_advisory_lock(:name)", name),
        ("meanwhile", None),
        ("SELECT pg_advisory_unlock(:name)", name),
    ]
    assert list(tmp_path.iterdir()) == []


def test_on_postgresql_it_may_take_its_time_and_is_committed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def said_instead(statement: str) -> Any:
        said.append(statement)
        return text("SELECT 1")

    # SQLite in the part of a server, which has to be told when a transaction ends.
    engine = create_engine(f"sqlite:///{settings.data_dir}/other.db")
    server = SimpleNamespace(is_sqlite=False, engine=engine, dispose=engine.dispose)
    monkeypatch.setattr(upgrade, "Database", lambda _url: server)
    monkeypatch.setattr(upgrade, "text", said_instead)
    migrate(settings)
    assert said.count("SET statement_timeout = 0") == 1, "for the steps"
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM alembic_version")).scalar_one() == 1
    engine.dispose()


@pytest.mark.parametrize(
    ("kind", "meant", "words"),
    [
        (OperationalError, LedgerUnavailable, "COMFYLINE_DATABASE_URL: the database does not answer (cause)."),
        (ProgrammingError, LedgerFault, "COMFYLINE_DATABASE_URL: the tables cannot be made (cause)."),
        (DataError, UnstorableValue, "COMFYLINE_DATABASE_URL: the tables cannot be made (cause)."),
    ],
)
def test_whoever_starts_a_process_may_read_the_cause(
    ledger: Ledger, kind: type[OperationalError], meant: type[Exception], words: str
) -> None:
    found = _in_our_words(ledger.database, kind("SELECT 1", {}, Exception(" cause\n")))
    assert (type(found), str(found)) == (meant, words)
