"""Fixtures of unit tests: a ledger is an SQLite file, and time passes only when a test says so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.ledger import Ledger
from core.settings import Settings
from tests.makers import BrokerlessRuntime, StoppedClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    """The ledger's time."""
    return StoppedClock(monkeypatch)


@pytest.fixture
def runtime(sqlite_settings: Settings) -> Iterator[BrokerlessRuntime]:
    """A process's runtime with an empty ledger, on the machine `here`."""
    runtime = BrokerlessRuntime(sqlite_settings.model_copy(update={"host": "here"}))
    yield runtime
    runtime.close()


@pytest.fixture
def ledger(runtime: BrokerlessRuntime) -> Ledger:
    """An empty ledger."""
    return runtime.ledger
