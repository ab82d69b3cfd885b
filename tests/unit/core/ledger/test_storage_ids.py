"""Which storage is the fleet's changes once, for the one that was prepared last, however many processes start there."""

from __future__ import annotations

import threading

from core.ledger import Ledger
from core.ledger.storage_ids import StorageIds


def test_a_fleet_begins_with_one_storage(ledger: Ledger) -> None:
    assert ledger.storage_moves.ids() is None

    assert ledger.storage_moves.begin("first") == StorageIds(current="first")
    assert ledger.storage_moves.begin("second") == StorageIds(current="first")
    assert ledger.storage_moves.fleet() == ledger.storage_moves.fleet()


def test_the_storage_prepared_last_is_the_next_one(ledger: Ledger) -> None:
    moves = ledger.storage_moves
    moves.begin("first")
    outdated, announced = moves.prepare(), moves.prepare()

    assert moves.ids() == StorageIds(current="first", next=announced)
    assert not moves.move(outdated)
    assert moves.move(announced)

    assert moves.ids() == StorageIds(current=announced, left=("first",))


def test_of_many_processes_one_moves(ledger: Ledger) -> None:
    moves = ledger.storage_moves
    moves.begin("first")
    announced, moved = moves.prepare(), []
    threads = [threading.Thread(target=lambda: moved.append(moves.move(announced))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(moved) == [False, False, False, True]
    assert moves.ids() == StorageIds(current=announced, left=("first",))


def test_every_storage_of_before_is_remembered(ledger: Ledger) -> None:
    moves = ledger.storage_moves
    moves.begin("first")
    ids = ["first"]
    for _ in range(3):
        ids.append(moves.prepare())
        assert moves.move(ids[-1])

    assert moves.ids() == StorageIds(current=ids[-1], left=tuple(ids[:-1]))
