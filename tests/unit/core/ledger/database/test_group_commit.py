from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest

from core.errors import LedgerUnavailable
from core.ledger.database.group_commit import MOST_ITEMS, GroupCommit
from tests.paths import ROOT
from tests.waiting import until


class Disk:
    """Keeps what was written together; the first write takes until `go` is set."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.go = threading.Event()
        self.is_away = False

    def write_all(self, items: Sequence[str]) -> list[str]:
        self.go.wait(10)
        if self.is_away:
            raise LedgerUnavailable("It does not answer.")
        if "bad" in items:
            raise ValueError(f"bad among {len(items)}")
        if "killer" in items:
            raise KeyboardInterrupt
        self.groups.append(list(items))
        return [item.upper() for item in items]


def _together(disk: Disk, *items: str, weight: int = 1) -> list[Future[str]]:
    """Have the first item written, and the others come while that is under way."""
    commit = GroupCommit(disk.write_all, weight_of=lambda _item: weight)
    with ThreadPoolExecutor(len(items)) as pool:
        futures = [pool.submit(commit.write, items[0])]
        until(lambda: commit._one_at_a_time.locked() and not commit._waiting, what="the first write")
        for number, item in enumerate(items[1:], 1):
            futures.append(pool.submit(commit.write, item))
            until(partial(_waits, commit, number), what="one more that waits")
        disk.go.set()
    assert not commit._waiting
    return futures


def _waits(commit: GroupCommit[str, str], count: int) -> bool:
    return len(commit._waiting) == count


def test_those_that_come_meanwhile_are_written_together() -> None:
    disk = Disk()
    written = _together(disk, "a", "b", "c", "d")
    assert [each.result() for each in written] == ["A", "B", "C", "D"]
    assert disk.groups == [["a"], ["b", "c", "d"]]


def test_one_that_cannot_be_written_hurts_no_other() -> None:
    disk = Disk()
    first, second, bad, last = _together(disk, "a", "b", "bad", "c")
    assert [first.result(), second.result(), last.result()] == ["A", "B", "C"]
    with pytest.raises(ValueError, match="bad among 1"):
        bad.result()


def test_an_absent_ledger_is_told_to_each() -> None:
    disk = Disk()
    disk.is_away = True
    errors = [each.exception() for each in _together(disk, "a", "b", "c")]
    assert {type(error) for error in errors} == {LedgerUnavailable}
    assert len({id(error) for error in errors}) == 3


def test_whom_an_interrupted_one_wrote_for_learns_that_nothing_is_known() -> None:
    disk = Disk()
    _first, killer, other = _together(disk, "a", "killer", "b")
    assert {type(each.exception()) for each in (killer, other)} == {KeyboardInterrupt, LedgerUnavailable}


@pytest.mark.parametrize(("weight", "largest"), [(1, MOST_ITEMS), (1_000_000, 2), (5_000_000, 1)])
def test_a_transaction_takes_so_much(weight: int, largest: int) -> None:
    disk = Disk()
    _together(disk, *map(str, range(MOST_ITEMS + 3)), weight=weight)
    assert max(map(len, disk.groups)) == largest
    assert sum(map(len, disk.groups)) == MOST_ITEMS + 3


_INTERRUPTED = """
from gevent import monkey
monkey.patch_all()
import gevent
from core.ledger.database.group_commit import GroupCommit

written = []
def write_all(items):
    gevent.sleep(0.2)
    written.extend(items)
    return items

commit = GroupCommit(write_all, weight_of=len)
first, late, last = (gevent.spawn(commit.write, item) for item in ("first", "late", "last"))
gevent.sleep(0.05)
late.kill(block=True)
gevent.joinall([first, last])
assert written == ["first", "last"], written
"""


def test_who_is_interrupted_while_waiting_is_not_written() -> None:
    subprocess.run([sys.executable, "-c", _INTERRUPTED], cwd=ROOT, check=True, timeout=60)
