"""The whole road over real services: PostgreSQL with Redis, PostgreSQL with RabbitMQ, and the embedded default."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from comfy_sdk import Comfy

from tests.fleet import ALL, Fleet, work
from tests.services import Broker


def run_jobs(fleet: Fleet) -> None:
    """A burst over both GPUs through both contracts, a failure, a cancellation, and the official client."""
    job_ids = [fleet.submit(work(0.2, seed=seed)) for seed in range(8)]
    body = {"input": {"workflow_json": work(0.1, seed=100)}}
    answer = requests.post(f"{fleet.base_url}/generate/sync", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    pictures = {fleet.picture(fleet.wait(job_id, "succeeded")) for job_id in job_ids}
    assert len(pictures) == len(job_ids)
    assert {instance["state"] for instance in fleet.instances()} == {"healthy"}
    slow = fleet.submit(work(30.0, steps=300, seed=200))
    fleet.wait(slow, "running")
    fleet.cancel(slow)
    fleet.wait(slow, "canceled", timeout_s=10)


def test_embedded_broker_and_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Fleet(tmp_path) as fleet:
        fleet.start(*ALL).ready()
        run_jobs(fleet)
        # Its own broker, on its own socket: nothing that happens to run on this machine.
        assert (fleet.data_dir / "broker" / "appendonlydir").exists()
        monkeypatch.setenv("COMFY_BASE_URL", fleet.base_url)
        with Comfy() as client:
            job = client.run(client.workflows.from_json(work(0.1, seed=300)))
        [output] = job.outputs
        assert output.name.endswith(".png")


def test_postgresql_and_redis(tmp_path: Path, postgres_url: str, shared_redis: Broker) -> None:
    with Fleet(
        tmp_path, database_url=postgres_url, broker_url=shared_redis.url, broker_namespace=shared_redis.namespace
    ) as fleet:
        fleet.start(*(name for name in ALL if name != "broker")).ready()
        run_jobs(fleet)


def test_postgresql_and_rabbitmq(tmp_path: Path, postgres_url: str, shared_rabbitmq: Broker) -> None:
    with Fleet(
        tmp_path, database_url=postgres_url, broker_url=shared_rabbitmq.url, broker_namespace=shared_rabbitmq.namespace
    ) as fleet:
        fleet.start(*(name for name in ALL if name != "broker")).ready()
        run_jobs(fleet)
        assert not (fleet.data_dir / "broker").exists()
