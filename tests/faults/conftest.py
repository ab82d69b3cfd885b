"""What the tests of a whole fleet share; each module has a fixture `fleet` of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.ledger import Ledger
from core.settings import Settings
from tests.fleet import Fleet


@pytest.fixture(scope="module")
def ledger(fleet: Fleet) -> Iterator[Ledger]:
    """The ledger of the module's fleet, which is in SQLite."""
    ledger = Ledger(Settings(data_dir=fleet.data_dir))
    yield ledger
    ledger.close()
