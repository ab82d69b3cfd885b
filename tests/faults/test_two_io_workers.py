"""Two io workers on one data directory, started by mistake or on purpose: each part of the work is done once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import requests

from tests.fleet import Fleet, work
from tests.receivers import OK, receiving
from tests.services import Broker
from tests.waiting import until

JOBS = 24


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker) -> Iterator[Fleet]:
    settings = {
        "broker_url": shared_redis.url,
        "broker_namespace": shared_redis.namespace,
        "allow_networks": "loopback",
        "simulated_gpus": "1",
        "reconcile_s": "1",
    }
    with Fleet(tmp_path_factory.mktemp("two"), **settings) as fleet:
        fleet.start("api", "beat", "gpu0", "io")
        fleet.ready(gpus=1)
        yield fleet


def test_two_io_workers_on_one_data_directory_share_the_work(fleet: Fleet) -> None:
    first = fleet.processes.pop("io")
    # Its twin has another log under the same name.
    (fleet.root / "io.log").rename(fleet.root / "first.log")
    fleet.start("io")
    told = f"An io worker runs on this data directory already (process {first.pid} on "
    until(lambda: told in fleet.log("io") and "ready." in fleet.log("io"), what="the second io worker", timeout_s=40)

    try:
        with receiving(lambda _received: OK) as receiver:
            graphs = [work(0.02, seed=number) for number in range(JOBS)]
            for graph in graphs:
                graph["1"]["inputs"]["batch_size"] = 3
            # What is to be converted goes by way of an io worker.
            wanted = {"convert_output": {"format": "webp"}, "webhook": {"url": receiver.url}}
            job_ids = [fleet.submit(graph, **wanted) for graph in graphs]
            jobs = [fleet.wait(job_id, "succeeded", timeout_s=90) for job_id in job_ids]
            until(lambda: len(receiver.received) >= JOBS, what="the webhooks", timeout_s=60)
            ids = Counter(received.headers["webhook-id"] for received in receiver.received)
    finally:
        fleet.processes["first"] = first
    assert [job["attempt"] for job in jobs] == [1] * JOBS
    for job in jobs:
        assert len(job["outputs"]) == 3
        for output in job["outputs"]:
            content = requests.get(output["url"], timeout=10).content
            assert (content[8:12], len(content)) == (b"WEBP", output["size_bytes"])
    assert len(ids) == JOBS
    assert set(ids.values()) == {1}, "each was sent once"
    shares = [(fleet.root / f"{name}.log").read_text().count("fleet.upload success") for name in ("first", "io")]
    assert all(shares), f"both have stored some: {shares}"
    for name in ("first", "io"):
        assert "Traceback" not in (fleet.root / f"{name}.log").read_text()
