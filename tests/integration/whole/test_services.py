"""The whole road over real services: PostgreSQL with Redis, PostgreSQL with RabbitMQ, and the embedded default."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import requests
from comfy_sdk import Comfy
from PIL import Image

from tests.fleet import ALL, Fleet, work
from tests.services import Broker
from tests.waiting import until

pytestmark = pytest.mark.slow


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
    # Remote control, which uses queues of its own.
    assert fleet.command("drain", "gpu0").returncode == 0
    until(lambda: fleet.instances("drained"), what="the drain")
    assert fleet.command("resume", "gpu0").returncode == 0
    until(lambda: len(fleet.instances("healthy")) == 2, what="the end of the drain")


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
        run_a_modifier(fleet)


def run_a_modifier(fleet: Fleet) -> None:
    """A client gives a few values in place of a graph; which ones, the server says."""
    listed = requests.get(f"{fleet.base_url}/workflows", timeout=10).json()
    assert listed["problems"] == []
    assert {"sd3", "flux", "text2image", "interior_design"} <= {found["name"] for found in listed["workflows"]}
    described = requests.get(f"{fleet.base_url}/workflows/text2image", timeout=10).json()
    assert described["parameters"]["required"] == ["prompt"]
    assert requests.get(f"{fleet.base_url}/workflows/nothing", timeout=10).status_code == 404
    answer = requests.post(f"{fleet.base_url}/workflows/flux", json={"parameters": {"prompt": "a boat"}}, timeout=10)
    assert answer.status_code == 201, answer.text
    drawn = answer.json()["parameters"]["seed"]
    assert fleet.wait(answer.json()["id"], "succeeded")["parameters"]["seed"] == drawn
    modifications = {"prompt": 'a "quoted" boat', "steps": 2, "seed": 7}
    for modifier in ("Text2Image", "RawWorkflow"):
        body = {"input": {"modifier": modifier, "modifications": modifications | {"width": 256, "height": 128}}}
        answer = requests.post(f"{fleet.base_url}/generate/sync", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        [output] = answer.json()["output"]
        with Image.open(io.BytesIO(requests.get(output["url"], timeout=10).content)) as picture:
            assert picture.size == (256, 128)
            graph = json.loads(picture.info["prompt"])
        assert any(node["inputs"].get("text") == 'a "quoted" boat' for node in graph.values())


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
