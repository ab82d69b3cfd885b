"""What a rollout hears of jobs: how attempts ended on instances, and which were lost."""

from __future__ import annotations

from core.ledger import Ledger
from core.ledger.rollouts.fleet import outcomes
from core.records.rollout import Outcome
from tests.ledger_moves import ERROR, claimed
from tests.makers import NAME, come_up


def seen(ledger: Ledger, since_ms: int = 0) -> list[tuple[str, bool]]:
    with ledger.database.read() as connection:
        found: list[Outcome] = outcomes(connection, since_ms)
    return sorted((each.instance, each.is_failure) for each in found)


def test_failed_and_lost_attempts_are_failures(ledger: Ledger) -> None:
    come_up(ledger)
    failed = claimed(ledger, NAME)
    ledger.claims.fail(failed, ERROR)
    assert seen(ledger) == [(NAME, True)]
    claimed(ledger, NAME)
    assert seen(ledger) == [(NAME, True)], "one that runs has not ended"
    ledger.requeue.expire_leases(NAME)
    ledger.requeue.take_back_lapsed()
    assert seen(ledger) == [(NAME, True), (NAME, True)]
    assert seen(ledger, since_ms=2**50) == []
