"""What the ledger tells of other machines changes where clients' URLs may lead, while the process runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger import machines as module
from core.ledger.machines import PREFIX, Machines
from core.neighbour_watch import NOTE_S, NeighbourWatch
from core.outbound import Policy
from core.settings.neighbours import company
from tests.makers import StoppedClock
from tests.services import make_settings


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, clock: StoppedClock) -> Iterator[None]:
    monkeypatch.setattr(module, "seconds_since_boot", lambda: 1e6)
    yield
    company.is_there = False


@pytest.fixture
def here(ledger: Ledger) -> Machines:
    return Machines(ledger.database, ledger.facts, here="here")


def test_loopback_is_for_clients_as_long_as_nobody_is_elsewhere(tmp_path: Path, ledger: Ledger, here: Machines) -> None:
    settings = make_settings(tmp_path)
    watch = NeighbourWatch(here)
    watch.look()
    assert Policy.from_settings(settings).permits("127.0.0.1")

    Machines(ledger.database, ledger.facts, here="elsewhere").note()
    watch.look()

    assert not Policy.from_settings(settings).permits("127.0.0.1")
    ledger.facts.mark(f"{PREFIX}elsewhere", "0")
    watch.look()
    assert Policy.from_settings(settings).permits("127.0.0.1")


def test_it_says_where_it_is_now_and_then(ledger: Ledger, here: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    time_s = 1000.0
    monkeypatch.setattr("core.neighbour_watch.time.monotonic", lambda: time_s)
    watch = NeighbourWatch(here)
    watch.look()
    assert ledger.facts.get(f"{PREFIX}here") is not None

    ledger.facts.mark(f"{PREFIX}here", "0")
    time_s += NOTE_S
    watch.look()
    assert ledger.facts.get(f"{PREFIX}here") == "0"
    time_s += 1
    watch.look()
    assert ledger.facts.get(f"{PREFIX}here") != "0"


def test_what_was_seen_holds_while_the_ledger_is_away(
    ledger: Ledger, here: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    Machines(ledger.database, ledger.facts, here="elsewhere").note()
    watch = NeighbourWatch(here)
    watch.look()

    def away() -> int:
        raise LedgerUnavailable("away")

    monkeypatch.setattr(here, "others", away)
    watch.start()
    watch.close()

    assert company.is_there
