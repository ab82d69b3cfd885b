"""No error of a database gets out of the ledger but in our words: away for now, a value refused, or our fault."""

from __future__ import annotations

import inspect
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy.exc
from psycopg import errors as states
from psycopg import sql
from sqlalchemy import text

from core.errors import ComfylineError, LedgerFault, LedgerUnavailable, NotFound, RequestError, UnstorableValue
from core.ledger import Ledger
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict, in_our_words
from core.ledger.upgrade import migrate
from core.settings import Settings
from tests.ledger_moves import submit
from tests.services import PostgresServer, make_settings

#: What stands between a driver and us.
WRAPPED = {
    "Error": sqlalchemy.exc.DBAPIError,
    **{
        name: getattr(sqlalchemy.exc, name)
        for name in (
            "InterfaceError",
            "DatabaseError",
            "DataError",
            "OperationalError",
            "IntegrityError",
            "InternalError",
            "ProgrammingError",
            "NotSupportedError",
        )
    },
}


def classes_of(module: Any, base: type[BaseException]) -> list[type[Any]]:
    found = [each for each in vars(module).values() if inspect.isclass(each) and issubclass(each, base)]
    return sorted(set(found), key=lambda each: each.__name__)


DRIVER_ERRORS = [
    *classes_of(states, psycopg.Error),
    *classes_of(psycopg, psycopg.Error),
    *classes_of(sqlite3, sqlite3.Error),
]
SQLALCHEMY_ERRORS = classes_of(sqlalchemy.exc, sqlalchemy.exc.SQLAlchemyError)


def as_raised(kind: type[Exception]) -> sqlalchemy.exc.DBAPIError:
    """A driver's error as SQLAlchemy raises it: in the class that the driver's own is derived from."""
    name = next(each.__name__ for each in kind.__mro__ if each.__name__ in WRAPPED)
    return WRAPPED[name]("SELECT 1", {}, kind("in the words of the server"))  # type: ignore[no-any-return]


def test_every_error_of_a_driver_is_one_of_ours() -> None:
    assert len(DRIVER_ERRORS) > 200
    for kind in DRIVER_ERRORS:
        meant = in_our_words(as_raised(kind))
        assert isinstance(meant, (LedgerUnavailable, UnstorableValue, LedgerFault)), kind
        assert "words of the server" not in meant.message, "they hold values"


def test_what_is_the_servers_state_may_pass() -> None:
    passing = {kind.sqlstate[:2] for kind in DRIVER_ERRORS if getattr(kind, "sqlstate", None) and is_away(kind)}
    assert {"08", "25", "40", "53", "57", "58", "XX"} <= passing
    assert not {"22", "23", "0A"} & passing
    assert is_away(states.ReadOnlySqlTransaction)
    assert is_away(states.DiskFull)
    assert is_away(states.InsufficientPrivilege)
    assert is_away(sqlite3.DatabaseError), "the file is damaged, or none of a database"
    assert not is_away(states.UndefinedTable)


def is_away(kind: type[Exception]) -> bool:
    return isinstance(in_our_words(as_raised(kind)), LedgerUnavailable)


def test_every_error_of_sqlalchemy_is_one_of_ours() -> None:
    assert len(SQLALCHEMY_ERRORS) > 30
    for kind in SQLALCHEMY_ERRORS:
        assert isinstance(in_our_words(made(kind)), ComfylineError), kind


def made(kind: type[Any]) -> Exception:
    """One of this class, whatever its constructor wants."""
    if issubclass(kind, sqlalchemy.exc.DBAPIError):
        return as_raised(getattr(psycopg, kind.__name__, psycopg.Error))
    error: Exception = Exception.__new__(kind)
    if isinstance(error, sqlalchemy.exc.StatementError):
        error.orig = ValueError()
    return error


def fails_with(database: Database, statement: str) -> ComfylineError:
    with pytest.raises(ComfylineError) as caught, database.write() as transaction:
        transaction.connection.execute(text(statement))
    return caught.value


@pytest.fixture
def database(ledger: Ledger) -> Database:
    return ledger.database


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("INSERT INTO idempotency_keys (key, job_id, created_at_ms) VALUES ('a', 'b', 1), ('a', 'b', 1)", Conflict),
        ("INSERT INTO events (job_id, seq, type, data, at_ms) VALUES ('none', 1, 't', '{}', 1)", Conflict),
    ],
)
def test_conflicts(database: Database, statement: str, kind: type[ComfylineError]) -> None:
    assert type(fails_with(database, statement)) is kind


def test_a_statement_of_ours_that_is_wrong_is_a_fault_of_ours(postgres_settings: Settings) -> None:
    ledger = Ledger(postgres_settings)
    assert type(fails_with(ledger.database, "SELECT no_such_column FROM jobs")) is LedgerFault
    assert type(fails_with(ledger.database, "SELECT * FROM no_such_table")) is LedgerFault
    ledger.close()


def test_values_that_no_database_takes(ledger: Ledger) -> None:
    for value in ("half a surrogate \ud800", 2**80):
        with pytest.raises(UnstorableValue):
            submit(ledger, priority=value) if isinstance(value, int) else submit(ledger, template=value)


def test_postgresql_takes_no_nul(postgres_settings: Settings) -> None:
    ledger = Ledger(postgres_settings)
    with pytest.raises(UnstorableValue):
        submit(ledger, request_id="a\0b")
    with pytest.raises(RequestError):
        ledger.jobs.get("a\0b")
    with pytest.raises(UnstorableValue):
        submit(ledger, request_id="x" * 200)
    ledger.close()


def damaged(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


def no_database(path: Path) -> None:
    path.write_bytes(b"nothing of the kind" * 1000)


def gone(path: Path) -> None:
    for file in path.parent.iterdir():
        if file.is_file():
            file.unlink()
    path.parent.joinpath("ledger.db").mkdir()


@pytest.mark.parametrize("harm", [damaged, no_database, gone])
def test_a_broken_file_is_said_to_be_away(sqlite_settings: Settings, harm: Callable[[Path], None]) -> None:
    harm(sqlite_settings.data_dir / "ledger.db")
    ledger = Ledger(sqlite_settings)
    with pytest.raises(LedgerUnavailable):
        submit(ledger)
    with pytest.raises(LedgerUnavailable):
        ledger.instances.all()
    ledger.close()


@pytest.mark.parametrize("harm", [damaged, no_database, gone])
def test_no_error_gets_out_of_a_migration_either(sqlite_settings: Settings, harm: Callable[[Path], None]) -> None:
    harm(sqlite_settings.data_dir / "ledger.db")
    with pytest.raises(LedgerUnavailable, match="COMFYLINE_DATABASE_URL"):
        migrate(sqlite_settings)


def test_a_migration_that_may_write_nothing_says_so(postgres: PostgresServer, tmp_path: Path) -> None:
    url = postgres.create()
    name = sql.Identifier(url.rpartition("/")[2])
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    with pytest.raises(LedgerUnavailable, match=r"COMFYLINE_DATABASE_URL.*read-only"):
        migrate(make_settings(tmp_path, database_url=url))
    postgres.drop(url)


def test_a_full_disk_is_said_to_be_away(sqlite_settings: Settings) -> None:
    ledger = Ledger(sqlite_settings)
    with ledger.database.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    graph = '{"1": "' + 1_000_000 * "x" + '"}'
    with pytest.raises(LedgerUnavailable):
        submit(ledger, graph_text=graph)
    ledger.close()


@pytest.fixture
def read_only_database(postgres_settings: Settings) -> Settings:
    """A database as a failover leaves it for a while."""
    name = sql.Identifier(postgres_settings.database_url.rpartition("/")[2])
    with psycopg.connect(postgres_settings.database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
    return postgres_settings


def test_a_server_that_takes_no_writes_is_away_for_writers_alone(read_only_database: Settings) -> None:
    ledger = Ledger(read_only_database)
    with pytest.raises(LedgerUnavailable, match="ReadOnlySqlTransaction"):
        submit(ledger)
    with pytest.raises(NotFound):
        ledger.jobs.get("none")
    ledger.close()


def test_a_change_that_is_recorded_is_not_undone_by_its_news(sqlite_settings: Settings) -> None:
    def stumble(_change: object) -> None:
        raise AttributeError

    ledger = Ledger(sqlite_settings, on_change=stumble)
    job = submit(ledger)
    assert ledger.jobs.get(job.id).status == "queued"
    ledger.close()
