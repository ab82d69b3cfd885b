"""Facts that a fleet agrees on: the first to write one has it, and marks that change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.ledger import Ledger
from core.ledger.database.connections import Transaction
from core.ledger.database.error_map import Conflict
from core.ledger.facts import WRITTEN
from tests.makers import StoppedClock


def test_the_first_to_come_settles_it(ledger: Ledger) -> None:
    assert ledger.facts.get("a") is None
    assert ledger.facts.settle("a", "1") == "1"
    assert ledger.facts.settle("a", "2") == "1"
    assert ledger.facts.settle("b", "3") == "3"
    assert (ledger.facts.get("a"), ledger.facts.get("b")) == ("1", "3")


@pytest.mark.parametrize(("there", "is_true"), [("theirs", "theirs"), (None, "ours")])
def test_another_is_first_by_a_moment(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, there: str | None, is_true: str
) -> None:
    if there is not None:
        ledger.facts.settle("a", there)

    @contextmanager
    def refused() -> Iterator[Transaction]:
        raise Conflict("x")
        yield

    monkeypatch.setattr(ledger.database, "write", refused)
    assert ledger.facts.settle("a", "ours") == is_true


def test_a_mark_replaces_what_there_is(ledger: Ledger) -> None:
    ledger.facts.settle("b", "0")
    for value in ("1", "2"):
        ledger.facts.mark("a", value)
        assert (ledger.facts.get("a"), ledger.facts.get("b")) == (value, "0")


def test_a_try_says_when_it_was(ledger: Ledger, clock: StoppedClock) -> None:
    ledger.facts.try_write()
    assert ledger.facts.get(WRITTEN) == str(clock.now_ms)
