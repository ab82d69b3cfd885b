"""Tenants: `default` is always there, names are unique, weights change."""

from __future__ import annotations

import pytest

from core.errors import AlreadyExists, NotFound
from core.ledger import Ledger


def test_one_is_there_from_the_beginning(ledger: Ledger) -> None:
    [tenant] = ledger.tenants.all()
    assert (tenant.name, tenant.weight) == ("default", 1.0)


def test_one_is_made_once(ledger: Ledger) -> None:
    made = ledger.tenants.create("acme", weight=2.5)
    assert [tenant.name for tenant in ledger.tenants.all()] == ["acme", "default"]
    assert ledger.tenants.get("acme") == made
    with pytest.raises(AlreadyExists, match="acme"):
        ledger.tenants.create("acme")
    assert ledger.tenants.get("acme").weight == 2.5


def test_a_weight_changes(ledger: Ledger) -> None:
    ledger.tenants.create("acme")
    assert ledger.tenants.weigh("acme", 4.0).weight == 4.0
    assert ledger.tenants.get("default").weight == 1.0
    with pytest.raises(NotFound, match="nobody"):
        ledger.tenants.weigh("nobody", 1.0)
