"""Model files on hosts that share no folder: who fetches, when a second one does, and what becomes of one that dies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import requests

from tests.bucket_fleet import Machines, machines
from tests.faults.test_model_files import loading
from tests.fleet import Fleet
from tests.model_server import ModelServer, content, model_server
from tests.services import Broker, PostgresServer
from tests.waiting import until

SIZE = 10_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker, postgres: PostgresServer
) -> Iterator[Machines]:
    settings = {"models_allow_http": "true", "min_free_disk_bytes": "0"}
    settings |= {"simulator_args": "--simulate-test-nodes --simulate-load-seconds 0 --simulate-step-seconds 0"}
    folder = tmp_path_factory.mktemp("hosts")
    with machines(folder, shared_redis, postgres.create(), with_models=True, **settings) as fleet:
        yield fleet


def enter(fleet: Machines, server: ModelServer, name: str, seed: int) -> str:
    file = server.serve(f"/{name}", content(SIZE, seed))
    entry = {"path": f"checkpoints/{name}", "source": f"{server.url}/{name}", "sha256": file.sha256, "size_bytes": SIZE}
    answer = requests.post(f"{fleet.api.base_url}/api/v2/model-files", json={"model_files": [entry]}, timeout=10)
    assert answer.status_code == 200, answer.text
    return name


def has(host: Fleet, name: str) -> bool:
    return (host.root / "models" / "checkpoints" / name).exists()


def copies(fleet: Machines, name: str) -> dict[str, str]:
    """The state of each copy, by host."""
    shown = requests.get(f"{fleet.api.base_url}/api/v2/model-files/checkpoints/{name}", timeout=10).json()
    return {copy["host"]: copy["state"] for copy in shown["copies"]}


def test_a_backlog_brings_a_file_to_the_second_host_and_both_run(fleet: Machines, server: ModelServer) -> None:
    name = enter(fleet, server, "wanted.safetensors", 1)
    server.files[f"/{name}"].bytes_s = 500e3
    first = fleet.api.submit(loading(name))
    told = until(
        lambda: (queue := fleet.api.job(first).get("queue") or {}).get("starts_in_s") and queue, what="its start"
    )
    assert told["reason_code"] == "fetching"
    assert told["position"] == 1
    server.files[f"/{name}"].bytes_s = None
    fleet.api.wait(first, "succeeded", timeout_s=60)
    assert [has(fleet.one, name), has(fleet.two, name)].count(True) == 1, "one job, one host"
    assert server.sent[f"/{name}"] < 2 * SIZE

    jobs = [fleet.api.submit(loading(name, seconds=4, seed=seed)) for seed in range(1, 9)]
    until(lambda: has(fleet.one, name) and has(fleet.two, name), what="the file on the second host", timeout_s=60)
    ran_on = {fleet.api.wait(job, "succeeded", timeout_s=90)["instance"] for job in jobs}
    assert ran_on == {"gpu0@one", "gpu0@two"}


def test_a_host_that_dies_in_mid_fetch_leaves_it_to_the_other_and_goes_on_later(
    fleet: Machines, server: ModelServer
) -> None:
    name = enter(fleet, server, "dies.safetensors", 2)
    file = server.files[f"/{name}"]
    file.bytes_s = 400e3
    job_id = fleet.api.submit(loading(name))
    until(lambda: server.sent.get(f"/{name}", 0) > SIZE // 10, what="some of it")
    [chosen] = copies(fleet, name)
    dying, other = (fleet.one, fleet.two) if chosen == "one" else (fleet.two, fleet.one)

    dying.kill("gpu0")
    file.bytes_s = None

    fleet.api.wait(job_id, "succeeded", timeout_s=90)
    assert (has(other, name), has(dying, name)) == (True, False)
    dying.start("gpu0")
    fleet.api.ready(gpus=2, timeout_s=60)
