"""What is said of an instance that takes no jobs, and of one that takes them under reserve."""

from __future__ import annotations

from typing import Any

import pytest

from core.ledger.instances import HEALTHY, STARTING
from tasks.instance.admission import MUTE, Admission, Condition


def test_a_worker_begins_with_an_instance_that_is_not_up() -> None:
    assert Admission().condition == Condition(state=STARTING)
    assert not Admission().takes_jobs


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"taken_by": "Another worker has it."}, "Another worker has it."),
        ({"is_stopping": True}, "Its worker was told to stop."),
        ({"is_restarting": True}, "It is restarted when its job is done."),
        ({"is_drained": True}, "An operator drained it; comfyline resume ends that."),
        ({"storage_problem": "Not the fleet's."}, "Not the fleet's."),
        ({"disk_problem": "Full."}, "Full."),
    ],
)
def test_each_reason_is_said(fields: dict[str, Any], reason: str) -> None:
    assert Admission(is_up=True, **fields).condition.reason == reason


def test_one_that_is_mute_takes_jobs_and_says_so() -> None:
    admission = Admission(is_up=True, is_mute=True, note="Slow.")
    assert admission.condition == Condition(state=HEALTHY, reason=MUTE)
    assert admission.takes_jobs
