"""Whether an instance takes jobs: each reason against it, and which of several is named."""

from __future__ import annotations

from typing import Any

import pytest

from core.ledger.instances import DISK_FULL, DRAINING, HEALTHY, QUARANTINED, STARTING, UNHEALTHY
from tasks.instance.admission import Admission, Condition

#: From the one that is named first.
REASONS: list[tuple[dict[str, Any], str]] = [
    ({"is_up": False}, STARTING),
    ({"taken_by": "Another worker has it."}, UNHEALTHY),
    ({"is_stopping": True}, DRAINING),
    ({"is_restarting": True}, DRAINING),
    ({"is_drained": True}, DRAINING),
    ({"storage_problem": "It is not the fleet's."}, UNHEALTHY),
    ({"disk_problem": "It is full."}, DISK_FULL),
]


def test_one_that_is_up_takes_jobs() -> None:
    admission = Admission(is_up=True)
    assert admission.takes_jobs
    assert admission.condition == Condition(state=HEALTHY)
    assert Admission(is_up=True, note="Slow.").condition == Condition(state=HEALTHY, reason="Slow.")


@pytest.mark.parametrize(("fields", "state"), REASONS)
def test_each_reason_keeps_jobs_away(fields: dict[str, Any], state: str) -> None:
    admission = Admission(**{"is_up": True, **fields})
    assert not admission.takes_jobs
    assert admission.condition.state == state


@pytest.mark.parametrize("first", range(len(REASONS)))
def test_the_first_that_applies_is_named(first: int) -> None:
    every = {name: value for fields, _ in REASONS[first:] for name, value in fields.items()}
    alone = Admission(**{"is_up": True, **REASONS[first][0]})
    assert Admission(**{"is_up": True, **every}).condition == alone.condition


def test_while_it_is_away_only_that_is_shown() -> None:
    resting = Condition(state=QUARANTINED, reason="Too many failures.", quarantined_until_ms=5)
    assert Admission(is_up=False, away=resting, is_drained=True, disk_problem="full").condition == resting
