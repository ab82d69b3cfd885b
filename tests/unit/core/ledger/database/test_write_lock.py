"""SQLite's write lock: taken at once when it is free, waited for otherwise, and who waits longest asks most often."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from sqlalchemy import Connection

from core.ledger import Ledger
from core.ledger.database.write_lock import LONGEST_S, SHORTEST_S, begin_writing, pause_s
from core.settings import Settings


@pytest.fixture
def connection(ledger: Ledger) -> Iterator[Connection]:
    with ledger.database.engine.connect() as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def other(ledger: Ledger, sqlite_settings: Settings) -> Iterator[sqlite3.Connection]:
    """Somebody else's connection, to the same file."""
    path = sqlite_settings.data_dir / "ledger.db"
    connection = sqlite3.connect(path, isolation_level=None, timeout=0.0, check_same_thread=False)
    yield connection
    connection.close()


def busy_timeout(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one())


def test_one_that_is_free_is_taken(connection: Connection, other: sqlite3.Connection) -> None:
    begin_writing(connection, timeout_s=1.0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    assert busy_timeout(connection) == 1000


def test_one_that_is_taken_is_waited_for(connection: Connection, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    let_go_at_s: list[float] = []

    def let_go() -> None:
        let_go_at_s.append(time.monotonic())
        other.execute("ROLLBACK")

    timer = threading.Timer(0.2, let_go)
    timer.start()
    begin_writing(connection, timeout_s=30.0)
    assert let_go_at_s, "it was free only then"
    timer.join()


def test_others_may_keep_it_for_too_long(connection: Connection, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    began_s = time.monotonic()
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        begin_writing(connection, timeout_s=0.1)
    assert time.monotonic() - began_s >= 0.1
    assert busy_timeout(connection) == 100, "other statements wait as before"


def test_what_is_wrong_otherwise_is_not_waited_for(connection: Connection) -> None:
    begin_writing(connection, timeout_s=30.0)
    with pytest.raises(sqlite3.OperationalError, match="within a transaction"):
        begin_writing(connection, timeout_s=30.0)


def test_who_waits_longer_asks_more_often() -> None:
    pauses = [pause_s(waited_ms / 1000) for waited_ms in range(0, 60, 5)]
    assert all(later < sooner for sooner, later in pairwise(pauses))
    assert (pauses[0], pause_s(2.0)) == (LONGEST_S, SHORTEST_S)
