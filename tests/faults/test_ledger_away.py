"""The ledger's database stops, freezes or comes back: clients get a 503 in time, and work that is done is not lost."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import requests

from tests.fleet import ALL, Fleet, work
from tests.own_servers import OwnPostgres
from tests.waiting import PATIENCE, until


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, own_cluster: OwnPostgres) -> Iterator[Fleet]:
    """One fleet for all: it finds its ledger again at the end of each test."""
    own_cluster.start()
    settings = {"simulated_gpus": "1", "database_url": own_cluster.new_database()}
    with Fleet(tmp_path_factory.mktemp("ledger-away"), **settings) as fleet:
        yield fleet.start(*(name for name in ALL if name != "gpu1")).ready(gpus=1)


@pytest.fixture
def fleet(started: Fleet, own_postgres: OwnPostgres) -> Fleet:
    """The fleet, with its ledger there."""
    return started.ready(gpus=1)


def refused_in_time(fleet: Fleet) -> requests.Response:
    begun_s = time.monotonic()
    answer = requests.post(f"{fleet.base_url}/api/v2/jobs", json={"workflow": work(0.05)}, timeout=10)
    assert time.monotonic() - begun_s < 3.0 * PATIENCE
    return answer


def test_submitting_answers_503_within_3_s_while_the_ledger_is_stopped(fleet: Fleet, own_postgres: OwnPostgres) -> None:
    own_postgres.stop()
    for _ in range(2):
        answer = refused_in_time(fleet)
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.json()["error"]["code"] == "ledger_unavailable"
    assert requests.get(f"{fleet.base_url}/health", timeout=5).status_code == 200
    until(
        lambda: requests.get(f"{fleet.base_url}/ready", timeout=5).status_code == 503,
        timeout_s=5,
        what="not being ready",
    )
    own_postgres.start()
    fleet.ready(gpus=1)
    fleet.wait(fleet.submit(work(0.05)), "succeeded")


def test_submitting_answers_503_within_3_s_while_the_ledger_is_frozen(fleet: Fleet, own_postgres: OwnPostgres) -> None:
    own_postgres.freeze()
    try:
        for _ in range(2):
            answer = refused_in_time(fleet)
            assert answer.status_code == 503, answer.text
            assert "Retry-After" in answer.headers
    finally:
        own_postgres.thaw()
    fleet.ready(gpus=1)
    fleet.wait(fleet.submit(work(0.05, seed=2)), "succeeded")


def test_a_picture_finished_while_the_ledger_is_away_is_kept(fleet: Fleet, own_postgres: OwnPostgres) -> None:
    job_id = fleet.submit(work(1.0, seed=3))
    fleet.wait(job_id, "running")
    time.sleep(0.3)
    own_postgres.stop()
    folder = fleet.data_dir / "gpus" / "gpu0" / "output" / job_id
    until(lambda: list(folder.glob("*.png")), what="the picture on the GPU host")
    own_postgres.start()
    job = fleet.wait(job_id, "succeeded", timeout_s=40)
    assert fleet.picture(job).startswith(b"\x89PNG")
