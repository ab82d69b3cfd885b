"""The reconciler goes on with the rollout that runs, and says how it ended."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tasks.reconciling.rolling_on import advance_rollout
from tests.makers import BrokerlessRuntime


def test_it_is_gone_on_with_until_it_ends(runtime: BrokerlessRuntime, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ledger = runtime.ledger
    advance_rollout(runtime)
    ledger.processes.note("io", role="io", host="a", program="1.0", can_upgrade=False)
    order: dict[str, Any] = {
        "version": None,
        "hosts": [],
        "at_once": 1,
        "timeout_s": 60.0,
        "max_failures": 0.2,
        "watch_s": 0.0,
    }
    begun = ledger.rollouts.begin("restart", **order, by=None)
    advance_rollout(runtime)
    assert ledger.processes.wanted("io") == "anew"
    ledger.processes.forget("io")
    ledger.processes.note("io2", role="io", host="a", program="1.0", can_upgrade=False)
    advance_rollout(runtime)
    assert not [each for each in caplog.records if "rollout" in each.message]
    advance_rollout(runtime)
    assert ledger.rollouts.get(begun.id).state == "done"
    assert [each.message for each in caplog.records if "rollout" in each.message] == [
        f"the rollout {begun.id} is done. "
    ]
