"""Connections: how each kind of database is opened, whole transactions, news after the commit, and SQLite's log."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DisconnectionError

from core.errors import ConfigurationError, LedgerUnavailable, NotFound, UnstorableValue
from core.ledger import Ledger
from core.ledger.database import connections, fork_guard
from core.ledger.database.connections import Change, Database
from core.records.job import FAILED, QUEUED
from core.settings import Settings
from tests.ledger_moves import submit
from tests.makers import Stopwatch

POSTGRES = "postgresql://user@db.example/name"


@pytest.fixture
def database(ledger: Ledger) -> Database:
    return ledger.database


@pytest.fixture
def postgres() -> Iterator[Database]:
    """One that nobody connects to."""
    database = Database(POSTGRES)
    yield database
    database.dispose()


def pragma(database: Database, name: str) -> Any:
    with database.read() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()


def keys(database: Database) -> list[str]:
    """What `write_key` left."""
    with database.read() as connection:
        return list(connection.execute(text("SELECT name FROM facts WHERE value = 'x' ORDER BY name")).scalars())


def write_key(connection: Any, name: str) -> None:
    connection.execute(text("INSERT INTO facts (name, value) VALUES (:name, 'x')"), {"name": name})


def write_and_fail(database: Database) -> None:
    with database.write() as transaction:
        write_key(transaction.connection, "a")
        transaction.changes.append(Change(job_id="a", seq=1, status=QUEUED))
        raise KeyError


class TestUrl:
    def test_of_sqlite(self, tmp_path: Path) -> None:
        database = Database(f"sqlite:///{tmp_path}/x.db")
        assert database.is_sqlite
        database.dispose()

    def test_of_postgresql_with_our_driver(self, postgres: Database) -> None:
        assert not postgres.is_sqlite
        assert postgres.url.drivername == postgres.engine.url.drivername == "postgresql+psycopg"

    def test_of_another_kind(self) -> None:
        with pytest.raises(ConfigurationError, match="COMFYLINE_DATABASE_URL: mysql is not"):
            Database("mysql://db.example/name")


class TestSqlite:
    def test_how_it_is_opened(self, database: Database) -> None:
        names = ("journal_mode", "synchronous", "foreign_keys", "secure_delete", "busy_timeout")
        assert [pragma(database, name) for name in names] == ["wal", 1, 1, 1, 2000]

    def test_how_many_connections_there_may_be(self, database: Database) -> None:
        pool: Any = database.engine.pool
        assert (pool.size(), pool._max_overflow, pool._timeout) == (8, 16, 2.0)

    def test_threads_share_them(self, database: Database) -> None:
        assert keys(database) == []
        found: list[list[str]] = []
        thread = threading.Thread(target=lambda: found.append(keys(database)))
        thread.start()
        thread.join()
        assert found == [[]]

    def test_none_is_open_at_a_fork(self, database: Database, postgres: Database) -> None:
        assert database.engine in fork_guard._engines
        assert postgres.engine not in fork_guard._engines

    @pytest.mark.parametrize("way", ["read", "write"])
    def test_forks_are_kept_off_while_it_is_used(self, database: Database, way: str) -> None:
        with getattr(database, way)():
            assert fork_guard._gate._own.depth == 1
        assert fork_guard._gate._own.depth == 0

    def test_a_locked_file_can_be_read(self, database: Database, sqlite_settings: Settings) -> None:
        other = sqlite3.connect(sqlite_settings.data_dir / "ledger.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert keys(database) == []
        other.close()


class TestTransaction:
    def test_it_is_whole_or_nothing(self, database: Database) -> None:
        with pytest.raises(KeyError):
            write_and_fail(database)
        assert keys(database) == []
        with database.write() as transaction:
            write_key(transaction.connection, "a")
            assert keys(database) == [], "it is not committed yet"
        assert keys(database) == ["a"]

    def test_it_has_the_lock_from_its_start(self, database: Database, sqlite_settings: Settings) -> None:
        other = sqlite3.connect(sqlite_settings.data_dir / "ledger.db", isolation_level=None, timeout=0.0)
        with database.write(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        other.close()

    def test_what_it_is_given(self, ledger: Ledger) -> None:
        with ledger.database.write() as transaction:
            assert transaction.is_sqlite
            assert transaction.signer is ledger.links
            assert transaction.changes == []


class TestNews:
    def test_each_job_is_told_of_once_by_its_newest_event_after_the_commit(self, database: Database) -> None:
        told: list[tuple[Change, list[str]]] = []
        database.on_change = lambda change: told.append((change, keys(database)))
        one, newer = Change(job_id="a", seq=1, status=QUEUED), Change(job_id="a", seq=2, status=FAILED, is_posted=True)
        other = Change(job_id="b", seq=1, status=QUEUED)
        with database.write() as transaction:
            write_key(transaction.connection, "k")
            transaction.changes.extend([one, other, newer])
        assert told == [(newer, ["k"]), (other, ["k"])]

    def test_nothing_is_told_of_what_was_not_recorded(self, database: Database) -> None:
        told: list[Change] = []
        database.on_change = told.append
        with pytest.raises(KeyError):
            write_and_fail(database)
        assert told == []

    def test_what_is_recorded_stays_whatever_becomes_of_its_news(self, ledger: Ledger) -> None:
        told: list[str] = []

        def stumble(change: Change) -> None:
            told.append(change.job_id)
            raise AttributeError

        ledger.database.on_change = stumble
        job = submit(ledger)
        assert told == [job.id]
        assert ledger.jobs.get(job.id).status == QUEUED

    def test_a_change_posts_nothing_unless_it_says_so(self) -> None:
        assert not Change(job_id="a", seq=1, status=QUEUED).is_posted


class TestErrors:
    @pytest.mark.parametrize("error", [sqlite3.OperationalError("x"), DisconnectionError("x")])
    def test_those_of_the_database_are_ours(self, database: Database, error: Exception) -> None:
        for way in (database.read, database.write, database.mapped_errors):
            with pytest.raises(LedgerUnavailable), way():
                raise error

    @pytest.mark.parametrize("error", [UnicodeError(), OverflowError()])
    def test_and_those_of_values(self, database: Database, error: Exception) -> None:
        with pytest.raises(UnstorableValue), database.read():
            raise error

    def test_those_of_anybody_else_are_left_alone(self, database: Database) -> None:
        with pytest.raises(NotFound, match="mine"), database.read():
            raise NotFound("mine")

    def test_they_hold_no_values(self, database: Database, postgres: Database) -> None:
        assert database.engine.hide_parameters
        assert postgres.engine.hide_parameters

    def test_a_number_that_json_has_no_form_for(self, ledger: Ledger) -> None:
        with pytest.raises(UnstorableValue):
            submit(ledger, metadata=float("nan"))

    def test_json_is_written_without_spaces(self, ledger: Ledger) -> None:
        submit(ledger, metadata={"a": [1, "é"], "b": 2})
        with ledger.database.read() as connection:
            assert connection.execute(text("SELECT metadata FROM jobs")).scalar_one() == '{"a":[1,"\\u00e9"],"b":2}'


class TestLog:
    def test_it_is_cut_to_nothing(self, database: Database, sqlite_settings: Settings) -> None:
        with database.write() as transaction:
            write_key(transaction.connection, "a")
        log = sqlite_settings.data_dir / "ledger.db-wal"
        assert log.stat().st_size > 0
        assert database.empty_log(timeout_ms=1) is True
        assert log.stat().st_size == 0
        assert pragma(database, "busy_timeout") == 2000

    def test_a_reader_keeps_it(self, database: Database, sqlite_settings: Settings) -> None:
        other = sqlite3.connect(sqlite_settings.data_dir / "ledger.db", isolation_level=None)
        with database.write() as transaction:
            write_key(transaction.connection, "a")
        other.execute("BEGIN")
        other.execute("SELECT * FROM facts").fetchall()
        with database.write() as transaction:
            write_key(transaction.connection, "b")
        assert database.empty_log(timeout_ms=1) is False
        assert pragma(database, "busy_timeout") == 2000
        other.close()

    def test_it_waits_no_longer_than_it_may(self, database: Database) -> None:
        said: list[str] = []

        @event.listens_for(database.engine, "before_cursor_execute")
        def _note(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
            said.append(statement)

        database.empty_log(timeout_ms=7)
        assert said == ["PRAGMA busy_timeout=7", "PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA busy_timeout=2000"]


def test_all_connections_are_closed(database: Database) -> None:
    keys(database)
    pool: Any = database.engine.pool
    assert pool.checkedin() == 1
    database.dispose()
    assert pool.checkedin() == 0


class TestPostgresql:
    def test_how_it_is_opened(self, postgres: Database) -> None:
        given: list[dict[str, Any]] = []

        @event.listens_for(postgres.engine, "do_connect")
        def _refuse(_dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> None:
            given.append(dict(parameters))
            raise psycopg.OperationalError

        with pytest.raises(LedgerUnavailable), postgres.read():
            pass
        (found,) = given
        options = found["options"].split("-c ")[1:]
        assert [option.strip() for option in options] == [
            "statement_timeout=2000",
            "timezone=UTC",
            "idle_in_transaction_session_timeout=10000",
        ]
        times = ("connect_timeout", "tcp_user_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count")
        assert [found[name] for name in times] == [2, 2000, 5, 2, 2]

    @pytest.mark.parametrize(("given", "size"), [({}, 5), ({"pool_size": 3}, 3)])
    def test_how_many_connections_there_may_be(self, given: dict[str, int], size: int) -> None:
        database = Database(POSTGRES, **given)  # type: ignore[arg-type]
        pool: Any = database.engine.pool
        assert (pool.size(), pool._max_overflow, pool._timeout, pool._pre_ping) == (size, size, 2.0, False)

    @pytest.mark.parametrize(("sqlstate", "parts"), [("25006", True), ("25001", False), (None, False)])
    def test_a_session_that_takes_no_writes_goes(self, postgres: Database, sqlstate: str | None, parts: bool) -> None:
        error = SimpleNamespace(sqlstate=sqlstate) if sqlstate else Exception()
        context = SimpleNamespace(original_exception=error, is_disconnect=False)
        for listener in postgres.engine.dialect.dispatch.handle_error:
            listener(context)
        assert context.is_disconnect is parts

    def test_forks_are_none_of_its_business(self, postgres: Database) -> None:
        with postgres._in_use():
            assert getattr(fork_guard._gate._own, "depth", 0) == 0

    def test_json_is_written_in_the_same_way(self, postgres: Database) -> None:
        assert postgres.engine.dialect._json_serializer({"a": 1}) == '{"a":1}'  # type: ignore[attr-defined]


class TestRestedConnection:
    """A connection that rested, or a clock that was not told the time lately, has the server asked for the time."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        clock = SimpleNamespace(is_told=True, told=[])
        clock.follow = clock.told.append
        monkeypatch.setattr(connections, "ledger_clock", clock)
        return clock

    @pytest.fixture
    def watch(self, monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
        watch = Stopwatch()
        monkeypatch.setattr(connections, "time", watch)
        return watch

    def give_back(self, database: Database, record: Any) -> None:
        for listener in database.engine.pool.dispatch.checkin:
            listener(None, record)

    def take(self, database: Database, record: Any, error: Exception | None = None) -> list[str]:
        """Take a connection from the pool; returns what its server was asked, and in which kind of transaction."""
        asked: list[str] = []

        def execute(statement: str) -> Any:
            if error is not None:
                raise error
            asked.append(statement)
            return SimpleNamespace(fetchone=lambda: (77,))

        class Session:
            def __setattr__(self, name: str, value: object) -> None:
                asked.append(f"{name} = {value}")

            def execute(self, statement: str) -> Any:
                return execute(statement)

        connection = Session()
        for listener in database.engine.pool.dispatch.checkout:
            listener(connection, record, None)
        return asked

    @pytest.mark.parametrize(("rested_s", "is_asked"), [(0.0, False), (0.5, False), (0.51, True)])
    def test_one_in_steady_use_is_not_asked(
        self, postgres: Database, clock: Any, watch: Stopwatch, rested_s: float, is_asked: bool
    ) -> None:
        record = SimpleNamespace(info={})
        self.give_back(postgres, record)
        watch.now_s += rested_s
        asked = ["autocommit = True", connections.CLOCK, "autocommit = False"]
        assert self.take(postgres, record) == (asked if is_asked else [])
        assert clock.told == ([77] if is_asked else [])

    @pytest.mark.usefixtures("watch")
    @pytest.mark.parametrize("is_told", [True, False])
    def test_a_new_one_is_asked_where_nobody_told_the_time(self, postgres: Database, clock: Any, is_told: bool) -> None:
        clock.is_told = is_told
        self.take(postgres, SimpleNamespace(info={}))
        assert clock.told == ([] if is_told else [77])

    @pytest.mark.usefixtures("watch")
    def test_one_that_broke_is_replaced(self, postgres: Database, clock: Any) -> None:
        clock.is_told = False
        with pytest.raises(DisconnectionError):
            self.take(postgres, SimpleNamespace(info={}), psycopg.OperationalError())
        assert clock.told == []
