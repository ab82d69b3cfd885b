"""Which turns the reconciler publishes anew: as many as instances are idle, and none that nobody idle can use."""

from __future__ import annotations

import time

import pytest
from sqlalchemy import insert

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.database.tables import instances, jobs
from core.ledger.instances import HEALTHY
from core.ledger.scheduling.avoidance import AVOID_MS
from tests.ledger_moves import claimed, digest_of, register, set_columns, submit
from tests.waiting import quickest


def missing(ledger: Ledger) -> list[str]:
    """The jobs whose turns are missing."""
    return [turn.job_id for turn in ledger.turns.missing()]


def test_nothing_is_missing_without_jobs_or_without_idle_instances(ledger: Ledger) -> None:
    assert missing(ledger) == []
    register(ledger, "gpu0@here")
    assert missing(ledger) == []
    claimed(ledger, "gpu0@here")
    submit(ledger)
    assert missing(ledger) == []


def test_each_job_has_a_turn_while_instances_are_idle(ledger: Ledger) -> None:
    for number in range(4):
        register(ledger, f"gpu{number}@here")
    claimed(ledger, "gpu3@here")
    first, second = submit(ledger), submit(ledger)
    # They may have come in the same millisecond.
    set_columns(ledger, second.id, created_at_ms=second.created_at_ms + 1)
    assert missing(ledger) == [first.id, second.id]

    urgent = submit(ledger, priority=5)
    assert missing(ledger) == [urgent.id, first.id, second.id]


def test_a_job_that_no_idle_instance_suits_has_no_turn(ledger: Ledger) -> None:
    register(ledger, "busy@here", {"Special": {}})
    special = digest_of(ledger, "busy@here")
    claimed(ledger, "busy@here", catalogues=(special,))
    for number in range(3):
        register(ledger, f"gpu{number}@here")
    pinned = submit(ledger, catalogues=(special,))
    submit(ledger, catalogues=("0" * 64,))
    assert missing(ledger) == []

    register(ledger, "idle@here", {"Special": {}})
    assert missing(ledger) == [pinned.id]


def test_those_that_fit_are_found_behind_any_number_that_do_not(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    for _ in range(20):
        submit(ledger, catalogues=("0" * 64,), priority=3)
    fitting = submit(ledger, catalogues=(digest_of(ledger, "gpu0@here"), "1" * 64))

    assert missing(ledger) == [fitting.id]


@pytest.mark.parametrize("others", ["idle", "busy", "none"])
def test_a_job_just_lost_has_a_turn_only_if_somebody_may_try_it(ledger: Ledger, others: str) -> None:
    register(ledger, "gpu0@here")
    if others != "none":
        register(ledger, "gpu1@here")
    lost = claimed(ledger, "gpu0@here")
    ledger.requeue.release(lost, reason="lost")
    if others == "busy":
        claimed(ledger, "gpu1@here")

    expected = {"idle": [lost.job_id], "busy": [], "none": [lost.job_id]}
    assert missing(ledger) == expected[others]

    set_columns(ledger, lost.job_id, updated_at_ms=now_ms() - AVOID_MS - 1)
    assert missing(ledger) == [lost.job_id] * (2 if others == "idle" else 1), "late, so one more is asked"


def test_what_it_says_is_what_can_be_claimed(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    job = submit(ledger, catalogues=(digest_of(ledger, "gpu0@here"),))
    [turn] = missing(ledger)

    claim = ledger.claims.claim("gpu0@here", named=turn)

    assert claim is not None
    assert claim.job_id == job.id


def test_it_is_cheap_in_a_large_fleet(ledger: Ledger) -> None:
    fleet = [
        {
            "name": f"gpu{number}@host",
            "host": "host",
            "worker": f"w{number}",
            "kind": "comfyui",
            "state": HEALTHY,
            "catalogue": f"{number % 5}" * 64,
            "restarts": 0,
            "started_at_ms": 1,
            "heartbeat_at_ms": now_ms(),
        }
        for number in range(1000)
    ]
    model = submit(ledger, catalogues=("9" * 64,))
    with ledger.database.write() as transaction:
        transaction.connection.execute(insert(instances), fleet)
        [row] = transaction.connection.execute(jobs.select().where(jobs.c.id == model.id)).mappings()
        waiting = [{**row, "id": f"job{number}"} for number in range(5_000)]
        transaction.connection.execute(insert(jobs), waiting)

    def took_s() -> float:
        begun_s = time.monotonic()
        assert missing(ledger) == []
        return time.monotonic() - begun_s

    # Some 20 ms; what asks for each instance takes minutes.
    assert quickest(took_s, limit_s=2, tries=3) < 2
