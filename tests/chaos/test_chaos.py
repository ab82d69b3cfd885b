"""Whatever is killed, frozen or restarted under load: every job ends once, as it should, with its own picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import redis

from core.settings import Settings
from tests.chaos.load import Load
from tests.chaos.monkey import BROKER, FORGET, ROUND, TERM, Monkey
from tests.chaos.options import OVERHEAD_S, Options, long_options, short_options
from tests.chaos.orders import make_orders, plain_orders
from tests.chaos.run import FROZEN_S, Arena, Plan, arena, check, settle, take_apart
from tests.services import Broker
from tests.waiting import until

#: Some twenty seconds, unless the machine is very busy, or something is broken and is waited for and then described.
SHORT_TIMEOUT_S = 300
LONG_TIMEOUT_S = long_options().limit_s + OVERHEAD_S
RESTARTS = 50
FORGOTTEN = 300
LINES = ("sqlite-valkey", "postgres-redis", "postgres-rabbitmq")


@pytest.mark.timeout(SHORT_TIMEOUT_S)
def test_the_books_balance_after_a_few_strikes(tmp_path: Path) -> None:
    options = short_options()
    with arena(tmp_path, gpus=2) as found:
        # Each kind once before any comes again.
        monkey = monkey_for(found, options.seed, kinds=sorted({*ROUND, BROKER}))
        run(found, monkey, options, depth=10, pause_s=0.7)


@pytest.mark.chaos
@pytest.mark.timeout(LONG_TIMEOUT_S)
@pytest.mark.parametrize("line", LINES)
def test_the_books_balance_after_a_long_run(line: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    options = long_options()
    settings, kinds, forget = prepare(line, request)
    with arena(tmp_path, gpus=4, **settings) as found:
        monkey = monkey_for(found, options.seed, kinds=kinds, forget=forget)
        run(found, monkey, options, depth=40, pause_s=1.0)


@pytest.mark.chaos
@pytest.mark.timeout(LONG_TIMEOUT_S)
def test_rolling_restarts_cost_no_attempt(tmp_path: Path) -> None:
    options = long_options()
    with arena(tmp_path, gpus=4) as found:
        monkey = monkey_for(found, options.seed, kinds=[TERM])
        plan = Plan(
            orders=plain_orders(RESTARTS * 12, seconds=0.3),
            strikes=RESTARTS,
            depth=40,
            pause_s=0.5,
            limit_s=options.limit_s,
        )
        accepted = take_apart(found, monkey, plan)
        entries = settle(found, monkey, is_patient=False)
        print(check(found, monkey, accepted, entries))
    assert len(monkey.strikes) == RESTARTS
    # What a worker gives back before it ends was not begun, and does not count.
    assert [entry.row["id"] for entry in entries if entry.row["lost_attempts"]] == []
    given_back = {entry.row["id"]: [event for event in entry.log if event.data.get("reason")] for entry in entries}
    assert [entry for entry in entries if entry.row["attempt"] != 1 + len(given_back[entry.row["id"]])] == []


@pytest.mark.chaos
@pytest.mark.timeout(LONG_TIMEOUT_S)
def test_jobs_that_the_broker_forgot_end_all_the_same(tmp_path: Path) -> None:
    orders = plain_orders(FORGOTTEN + 150, seconds=0.3)
    with arena(tmp_path, gpus=2) as found:
        load = Load(found.clients, found.ledger, orders, depth=len(orders))
        try:
            until(lambda: load.is_done or load.open_jobs() >= FORGOTTEN, what=f"{FORGOTTEN} open jobs")
            forget_embedded(found)
            assert load.open_jobs() >= FORGOTTEN - 10
            until(lambda: load.is_done, what="the acceptance of all jobs")
        finally:
            load.close()
        monkey = monkey_for(found, 0, kinds=[])
        entries = settle(found, monkey, is_patient=False)
        print(check(found, monkey, load.accepted, entries))
    assert len(entries) == len(orders)


def monkey_for(
    found: Arena, seed: int, *, kinds: Sequence[str], forget: Callable[[Arena], None] | None = None
) -> Monkey:
    """What strikes this fleet."""
    empty = forget or forget_embedded
    return Monkey(found.fleet, seed, gpus=found.gpus, kinds=kinds, frozen_s=FROZEN_S, forget=lambda: empty(found))


def run(found: Arena, monkey: Monkey, options: Options, *, depth: int, pause_s: float) -> None:
    """Strike, let everything end, check the books, and see that the fleet is as good as new."""
    begun_s = time.monotonic()
    print(f"\nchaos with {options}; the same again: COMFYLINE_TEST_CHAOS_SEED={options.seed}", flush=True)
    plan = Plan(
        orders=make_orders(options.seed, options.jobs),
        strikes=options.kills,
        depth=depth,
        pause_s=pause_s,
        limit_s=options.limit_s,
        report=lambda line: print(line, flush=True),
    )
    accepted = take_apart(found, monkey, plan)
    entries = settle(found, monkey, is_patient=options.jobs > 100)
    print(f"{check(found, monkey, accepted, entries)} in {time.monotonic() - begun_s:.1f} s", flush=True)
    quiet = plain_orders(2 * len(found.gpus), seconds=0.05, first=options.jobs)
    job_ids = [found.clients.submit(order).job_id for order in quiet]
    for job_id in job_ids:
        found.fleet.wait(job_id, "succeeded")
    assert {found.ledger.jobs.get(job_id).attempt for job_id in job_ids} == {1}


def prepare(
    line: str, request: pytest.FixtureRequest
) -> tuple[dict[str, str], list[str], Callable[[Arena], None] | None]:
    """Settings for one kind of ledger and broker, what may be done to it, and how the broker is emptied."""
    if line == "sqlite-valkey":
        return {}, [*ROUND, BROKER], None
    settings = {"database_url": request.getfixturevalue("postgres_url")}
    broker: Broker = request.getfixturevalue(f"shared_{line.partition('-')[2]}")
    settings |= {"broker_url": broker.url, "broker_namespace": broker.namespace}
    if broker.kind == "rabbitmq":
        return settings, ROUND, None
    return settings, [*ROUND, FORGET], lambda _found: forget_own_keys(broker)


def forget_embedded(found: Arena) -> None:
    """Empty the fleet's own broker."""
    path = Settings(data_dir=found.fleet.data_dir).embedded_broker_socket
    with redis.Redis(unix_socket_path=str(path)) as client:
        client.flushall()


def forget_own_keys(broker: Broker) -> None:
    """Empty the part of a Redis that is ours."""
    with redis.Redis.from_url(broker.url) as client:
        for key in client.scan_iter(f"{broker.namespace}:*", count=500):
            client.delete(key)
