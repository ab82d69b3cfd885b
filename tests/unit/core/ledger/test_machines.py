"""Processes on other machines are known by what they write; an earlier boot of this machine is not another one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger import machines as module
from core.ledger.machines import HOLDS_MS, PREFIX, Machines
from tests.makers import StoppedClock

Place = Callable[[str], Machines]


@pytest.fixture
def on(ledger: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A process on a machine, all of which were started long ago."""
    monkeypatch.setattr(module, "seconds_since_boot", lambda: 1e6)
    return lambda here: Machines(ledger.database, ledger.facts, here=here)


def test_each_sees_the_others(on: Place) -> None:
    on("one").note()
    assert on("one").others() == 0

    on("two").note()
    on("two").note()
    on("three").note()

    assert [on(name).others() for name in ("one", "two", "four")] == [2, 2, 3]


def test_who_has_been_silent_for_long_is_no_other_and_is_forgotten(
    on: Place, ledger: Ledger, clock: StoppedClock
) -> None:
    on("one").note()
    clock.pass_ms(HOLDS_MS + 1)

    assert on("two").others() == 0
    on("two").note()
    assert ledger.facts.get(f"{PREFIX}one") is None
    assert ledger.facts.get(f"{PREFIX}two") == str(now_ms())


def test_what_was_said_before_this_machine_was_started_may_be_its_own(
    on: Place, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    on("before the boot").note()
    clock.pass_ms(30_000)
    monkeypatch.setattr(module, "seconds_since_boot", lambda: 20.0)

    assert on("after it").others() == 0
    on("elsewhere").note()
    assert on("after it").others() == 1


def test_one_that_cannot_be_told_from_others_says_nothing(on: Place, ledger: Ledger) -> None:
    on("").note()

    assert ledger.facts.get(PREFIX) is None


def test_what_is_not_ours_to_read_is_no_machine(on: Place, ledger: Ledger) -> None:
    ledger.facts.mark(f"{PREFIX}odd", "yesterday")

    assert on("one").others() == 0
