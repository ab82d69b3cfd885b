"""Counts of lines, read as they change: what others write meanwhile is seen, however late it is committed."""

from __future__ import annotations

import random

import pytest
from sqlalchemy import Connection, delete, select, update

from core.ledger import Ledger
from core.ledger.database.tables import lines
from core.ledger.scheduling import line_changes
from core.ledger.scheduling.lines import LineKind, Lines
from tests.waiting import until

WRITERS = 4


@pytest.fixture
def made(ledger: Ledger) -> list[int]:
    """Some lines with a job each."""
    ids = [ledger.lines.id_of(LineKind(priority=number)) for number in range(8)]
    _write(ledger, dict.fromkeys(ids, 1))
    return ids


def _put(connection: Connection, line_id: int, waiting: int) -> None:
    connection.execute(update(lines).where(lines.c.id == line_id).values(waiting=waiting))


def _write(ledger: Ledger, counts: dict[int, int]) -> None:
    with ledger.database.write() as transaction:
        for line_id, waiting in counts.items():
            _put(transaction.connection, line_id, waiting)


def _look_and_fail(ledger: Ledger, reader: Lines, line_id: int) -> None:
    with ledger.database.write() as transaction:
        _put(transaction.connection, line_id, 9)
        assert {line.id: line.waiting for line in reader.waiting(transaction.connection)}[line_id] == 9
        raise KeyError


def _seen(ledger: Ledger, reader: Lines) -> dict[int, int]:
    with ledger.database.read() as connection:
        return {line.id: line.waiting for line in reader.waiting(connection)}


def _unread(ledger: Ledger, reader: Lines) -> set[int]:
    """Return the lines that the next look reads."""
    with ledger.database.read() as connection:
        return {count[0] for count in line_changes.read_changes(connection, reader._last[1]).counts}


def test_what_changes_is_seen_and_only_that_is_read(ledger: Ledger, made: list[int]) -> None:
    reader = Lines(ledger.database)
    assert _seen(ledger, reader) == dict.fromkeys(made, 1)
    is_sqlite = ledger.database.is_sqlite
    if not is_sqlite:
        # A transaction of anybody on the server that began before ours and goes on has them read once more.
        until(lambda: _seen(ledger, reader) and not _unread(ledger, reader), what="the end of older transactions")
    _write(ledger, {made[0]: 5, made[1]: 0})
    assert is_sqlite or _unread(ledger, reader) == {made[0], made[1]}
    assert _seen(ledger, reader) == {**dict.fromkeys(made[2:], 1), made[0]: 5}
    _write(ledger, {made[1]: 2})
    assert _seen(ledger, reader)[made[1]] == 2


def test_a_transaction_that_began_before_a_look_and_ends_after_it_is_seen(ledger: Ledger, made: list[int]) -> None:
    if ledger.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    reader = Lines(ledger.database)
    with ledger.database.engine.connect() as slow, slow.begin():
        _put(slow, made[0], 7)
        # Others come after it, and are done before it.
        for waiting in (3, 4):
            _write(ledger, {made[1]: waiting})
            assert _seen(ledger, reader)[made[1]] == waiting
            assert _seen(ledger, reader)[made[0]] == 1
    assert _seen(ledger, reader)[made[0]] == 7


@pytest.mark.parametrize("begins", ["before", "after"])
def test_what_a_transaction_wrote_that_is_rolled_back_does_not_stay(
    ledger: Ledger, made: list[int], begins: str
) -> None:
    reader = Lines(ledger.database)
    if begins == "before":
        _seen(ledger, reader)
    with pytest.raises(KeyError):
        _look_and_fail(ledger, reader, made[0])
    assert _seen(ledger, reader)[made[0]] == 1
    assert _seen(ledger, reader)[made[0]] == 1


def test_after_a_while_all_is_read_whatever_the_database_says(
    ledger: Ledger, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Lines(ledger.database)
    _seen(ledger, reader)
    found, mark = reader._last
    if mark is not None:
        # As after the database has become another one, whose transactions are counted anew.
        reader._last = found, line_changes.Mark(unseen_from=str(2**31 - 1), began_s=mark.began_s)
    _write(ledger, {made[0]: 6})
    with ledger.database.write() as transaction:
        transaction.connection.execute(delete(lines).where(lines.c.id == made[1]))
    monkeypatch.setattr(line_changes, "ALL_AGAIN_S", 0.0)
    assert _seen(ledger, reader) == {**dict.fromkeys(made[2:], 1), made[0]: 6}


@pytest.mark.parametrize("seed", range(3))
def test_a_look_at_any_moment_sees_what_is_there(ledger: Ledger, made: list[int], seed: int) -> None:
    """Transactions begin, write, and end either way, in any order; each look is compared with the table itself."""
    if ledger.database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    chance = random.Random(seed)
    reader = Lines(ledger.database)
    # Each writer has lines of its own: none waits for another.
    writers = [ledger.database.engine.connect() for _ in range(WRITERS)]
    try:
        for _ in range(200):
            number = chance.randrange(WRITERS)
            writer = writers[number]
            match chance.choice(["write", "write", "commit", "roll back", "nested"]):
                case "write":
                    _put(writer, made[number], chance.randrange(4))
                case "nested":
                    with writer.begin_nested():
                        _put(writer, made[WRITERS + number], chance.randrange(4))
                case "commit":
                    writer.commit()
                case "roll back":
                    writer.rollback()
            with ledger.database.read() as connection:
                rows = connection.execute(select(lines.c.id, lines.c.waiting).where(lines.c.waiting > 0))
                there = {row.id: row.waiting for row in rows}
                assert {line.id: line.waiting for line in reader.waiting(connection)} == there
    finally:
        for writer in writers:
            writer.close()
