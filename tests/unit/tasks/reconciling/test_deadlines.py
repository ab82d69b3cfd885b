"""The watch over deadlines: what is late ends, webhooks follow, and the next look comes in time."""

from __future__ import annotations

import pytest

from core.records.job import EXPIRED, QUEUED
from tasks.reconciling.deadlines import LOOK_S, SHORTEST_S, StartDeadlines
from tests.ledger_moves import WEBHOOK, submit
from tests.makers import BrokerlessRuntime, StoppedClock
from tests.waiting import eventually


@pytest.fixture
def watch(runtime: BrokerlessRuntime, clock: StoppedClock) -> StartDeadlines:
    runtime.ledger.timekeeping.look()
    return StartDeadlines(runtime)


def test_what_is_late_ends_and_is_told_of(
    runtime: BrokerlessRuntime, clock: StoppedClock, watch: StartDeadlines
) -> None:
    late, other = submit(runtime.ledger, start_within_s=5.0, webhook=WEBHOOK), submit(runtime.ledger)
    clock.pass_ms(5_001)
    watch.look()
    assert runtime.ledger.jobs.get(late.id).status == EXPIRED
    assert runtime.ledger.jobs.get(other.id).status == QUEUED
    assert runtime.published.sent == [("notify", late.id)]
    assert runtime.ledger.outbox.jobs_due() == [late.id]


@pytest.mark.parametrize(
    ("start_within_s", "next_s"), [(None, LOOK_S), (60.0, LOOK_S), (0.4, 0.4 + SHORTEST_S), (0.0, SHORTEST_S)]
)
def test_the_next_look_comes_in_time(
    runtime: BrokerlessRuntime, watch: StartDeadlines, start_within_s: float | None, next_s: float
) -> None:
    submit(runtime.ledger, start_within_s=start_within_s)
    assert watch.look() == pytest.approx(next_s)


def test_behind_one_that_ended_stands_the_next(
    runtime: BrokerlessRuntime, clock: StoppedClock, watch: StartDeadlines
) -> None:
    for _ in range(2):
        submit(runtime.ledger, start_within_s=1.0)
        clock.pass_ms(1_001)
    assert watch.look() == LOOK_S, "both have ended"
    submit(runtime.ledger, start_within_s=1.0)
    submit(runtime.ledger, start_within_s=1.2)
    clock.pass_ms(1_100)
    assert watch.look() == SHORTEST_S


def test_a_clock_that_was_set_ends_nothing(
    runtime: BrokerlessRuntime, clock: StoppedClock, watch: StartDeadlines
) -> None:
    job = submit(runtime.ledger, start_within_s=5.0)
    clock.pass_ms(24 * 3_600_000)
    watch.look()
    assert runtime.ledger.jobs.get(job.id).status == QUEUED
    clock.pass_ms(5_001)
    assert watch.look() == LOOK_S
    assert runtime.ledger.jobs.get(job.id).status == QUEUED, "claims are renewed first, and workers heard"
    clock.pass_ms(int(runtime.settings.lease_s * 1000))
    watch.look()
    assert runtime.ledger.jobs.get(job.id).status == EXPIRED


def test_it_watches_until_it_is_closed(runtime: BrokerlessRuntime) -> None:
    watch = StartDeadlines(runtime)
    watch.start()
    try:
        job = submit(runtime.ledger, start_within_s=0.2)
        assert eventually(lambda: runtime.ledger.jobs.get(job.id).status == EXPIRED, 10)
    finally:
        watch.close()
    assert not watch._loop.life.is_alive
