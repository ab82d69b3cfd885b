"""Entries of usage are folded in steps until there are none."""

from __future__ import annotations

import pytest

from core.clock import DAY_MS, now_ms
from core.ledger.usage.report import Usage
from tasks.reconciling import usage_folding
from tasks.reconciling.usage_folding import fold_usage
from tests.ledger_moves import submit
from tests.makers import BrokerlessRuntime


def test_all_is_folded_and_nothing_is_lost(runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = runtime.ledger
    for _ in range(5):
        ledger.jobs.cancel(submit(ledger).id)
    fold = Usage.fold
    monkeypatch.setattr(usage_folding, "FOLDED", 2)
    monkeypatch.setattr(Usage, "fold", lambda usage: fold(usage, limit=2))
    fold_usage(runtime)
    assert ledger.usage.fold() == 0
    today = now_ms() // DAY_MS
    [told] = ledger.usage.sums(["tenant"], since=today - 1, until=today)
    assert (told.group, told.amounts["canceled"]) == (("default",), 5)
