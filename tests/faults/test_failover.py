"""The ledger takes no writes for a while, as after a failover: afterwards everything runs, without a restart."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from psycopg import sql

from tests.fleet import ALL, Fleet, work
from tests.receivers import Receiver, receiving
from tests.services import PostgresServer
from tests.waiting import until

#: Longer than a lease, so that every thread meets it, some more than once.
READ_ONLY_S = 6.0
QUICK = {"lease_s": "4", "lease_renew_s": "1", "reconcile_s": "1"}

Switch = Callable[[str], None]


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Fleet]:
    settings = {"simulated_gpus": "2", "database_url": postgres_url, "allow_networks": "127.0.0.0/8", **QUICK}
    with Fleet(tmp_path_factory.mktemp("failover"), **settings) as fleet:
        yield fleet.start(*ALL).ready(gpus=2)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def switch(postgres: PostgresServer, postgres_url: str) -> Switch:
    """Makes the fleet's database read-only, or lets it write again."""
    name = postgres_url.rpartition("/")[2]

    def set_to(value: str) -> None:
        setting = sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
        postgres.execute(setting.format(sql.Identifier(name), sql.SQL(value)))
        if value == "on":
            # As a failover does. Those that come meanwhile are not ended: they would stay read-only for ever.
            of_fleet = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            postgres.execute(sql.SQL(of_fleet), (name,))

    return set_to


def test_after_a_failover_all_is_well_without_a_restart(fleet: Fleet, receiver: Receiver, switch: Switch) -> None:
    first = fleet.submit(work(READ_ONLY_S, seed=1), webhook={"url": receiver.url})
    fleet.wait(first, "running")

    switch("on")
    until(lambda: submitting(fleet).status_code == 503, timeout_s=10, what="503")
    answer = submitting(fleet)
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "ledger_unavailable"
    until(lambda: not ready(fleet)["ledger"]["ok"], timeout_s=10, what="/ready that knows it")
    assert requests.get(f"{fleet.base_url}/health", timeout=5).status_code == 200
    time.sleep(READ_ONLY_S)
    switch("off")

    fleet.ready(gpus=2, timeout_s=30)
    fleet.wait(first, "succeeded", timeout_s=60)
    others = [fleet.submit(work(0.2, seed=seed), webhook={"url": receiver.url}) for seed in range(2, 8)]
    for job_id in others:
        fleet.wait(job_id, "succeeded", timeout_s=60)
    until(lambda: told_of(receiver) == {first, *others}, what="a webhook for each")
    assert all(loop["alive"] for loop in ready(fleet)["loops"])


def submitting(fleet: Fleet) -> requests.Response:
    return requests.post(f"{fleet.base_url}/api/v2/jobs", json={"workflow": work(0.05)}, timeout=10)


def ready(fleet: Fleet) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{fleet.base_url}/ready", timeout=5).json()
    return found


def told_of(receiver: Receiver) -> set[str]:
    return {got.body["data"]["id"] for got in receiver.received}
