"""Turns among tenants: by what each used of late for its weight, charged with each claim, on both databases."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import select

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.database.access_tables import tenants
from core.ledger.durations import DEFAULT_S
from core.ledger.scheduling.used import read_used
from core.records.usage import GpuTime
from core.scheduling.shares import HALF_LIFE_S
from tests.ledger_moves import ERROR, in_parallel, submit
from tests.makers import come_up

GPU = "gpu0@here"


def used_s(ledger: Ledger) -> dict[str, float]:
    with ledger.database.read() as connection:
        return {row.name: row.used_s for row in connection.execute(select(tenants)) if row.used_s}


def takers(ledger: Ledger, count: int, instance: str = GPU) -> Counter[str]:
    """Let an instance claim so many jobs; returns how many of each tenant."""
    taken: Counter[str] = Counter()
    for _ in range(count):
        claim = ledger.claims.claim(instance)
        assert claim is not None
        taken[ledger.jobs.get(claim.job_id).tenant] += 1
    return taken


@pytest.fixture
def shared(ledger: Ledger) -> Ledger:
    ledger.tenants.create("acme")
    ledger.tenants.create("globex")
    come_up(ledger, GPU)
    return ledger


def test_who_came_first_with_many_jobs_does_not_hold_up_the_other(shared: Ledger) -> None:
    for _ in range(30):
        submit(shared, tenant="acme")
    for _ in range(10):
        submit(shared, tenant="globex")
    taken = takers(shared, 12)
    assert taken["globex"] >= 5


def test_a_weight_is_a_share(shared: Ledger) -> None:
    shared.tenants.weigh("globex", 3.0)
    for _ in range(40):
        submit(shared, tenant="acme")
        submit(shared, tenant="globex")
    taken = takers(shared, 40)
    assert 27 <= taken["globex"] <= 33, taken


def test_the_default_tenant_has_its_turns_too(shared: Ledger) -> None:
    for _ in range(20):
        submit(shared, tenant="acme")
    for _ in range(20):
        submit(shared)
    assert abs(takers(shared, 20)["default"] - 10) <= 2


def test_a_claim_is_charged_with_what_it_is_expected_to_take(shared: Ledger) -> None:
    submit(shared, tenant="acme")
    takers(shared, 1)
    assert used_s(shared) == {"acme": pytest.approx(DEFAULT_S, rel=0.01)}


def test_where_there_is_one_tenant_nothing_is_charged(ledger: Ledger) -> None:
    come_up(ledger, GPU)
    submit(ledger)
    takers(ledger, 1)
    assert used_s(ledger) == {}


def test_what_was_used_counts_half_after_a_while(shared: Ledger) -> None:
    submit(shared, tenant="acme")
    takers(shared, 1)
    submit(shared, tenant="acme")
    submit(shared, tenant="globex")
    shared.tenants.weigh("acme", 2.0)
    with shared.database.read() as connection:
        waiting = shared.lines.waiting(connection)
        later = read_used(connection, waiting, now_ms() + int(HALF_LIFE_S * 1000)).seconds
    assert later is not None
    assert later == {"acme": pytest.approx(DEFAULT_S / 2 / 2, rel=0.01)}


def test_a_forecast_takes_the_same_turns(shared: Ledger) -> None:
    for _ in range(10):
        submit(shared, tenant="acme")
    last = submit(shared, tenant="globex")
    assert takers(shared, 2) == {"acme": 2}
    outlook = shared.outlook.read()
    place = outlook.place(*outlook.indexes[last.id])
    assert place.position == 1, "before the jobs of acme that came first"


def test_many_claim_at_once_for_two_tenants(shared: Ledger) -> None:
    names = [f"gpu{number}@here" for number in range(8)]
    for name in names[1:]:
        come_up(shared, name)
    for _ in range(40):
        submit(shared, tenant="acme")
        submit(shared, tenant="globex")
    total = Counter[str]()
    for taken in in_parallel(len(names), lambda number: takers(shared, 5, names[number])):
        assert isinstance(taken, Counter), taken
        total += taken
    assert sum(total.values()) == 40
    assert abs(total["acme"] - 20) <= 4
    assert sum(used_s(shared).values()) == pytest.approx(40 * DEFAULT_S, rel=0.05), "no charge is lost"


def test_a_tenant_is_charged_with_what_its_job_took_and_not_with_what_was_expected(shared: Ledger) -> None:
    """Whoever calls its jobs short, or long, gains and loses nothing by that."""
    submit(shared, tenant="acme", expected_time_s=1.0)
    submit(shared, tenant="globex", expected_time_s=500.0)
    for _ in range(2):
        claim = shared.claims.claim(GPU)
        assert claim is not None
        shared.claims.fail(claim, ERROR, spent=GpuTime(run_ms=20_000, load_ms=10_000))
    assert used_s(shared) == pytest.approx({"acme": 30.0, "globex": 30.0}, abs=1.0)


def test_what_the_fleet_lost_is_not_charged(shared: Ledger) -> None:
    submit(shared, tenant="acme")
    claim = shared.claims.claim(GPU)
    assert claim is not None
    shared.requeue.release(claim, reason="gone", spent=GpuTime(run_ms=20_000))
    assert used_s(shared).get("acme", 0.0) == pytest.approx(0.0, abs=0.1)
    again = shared.claims.claim(GPU)
    assert again is not None
    shared.claims.generated(again, [], outputs_reused=False, spent=GpuTime(run_ms=20_000), may_run_again=True)
    assert used_s(shared)["acme"] == pytest.approx(20.0, abs=0.5)
    shared.requeue.lose_files(again.job_id, again.attempt)
    assert used_s(shared).get("acme", 0.0) == pytest.approx(0.0, abs=0.5)
