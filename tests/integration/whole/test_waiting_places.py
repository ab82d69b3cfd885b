"""What a waiting job hears while a real fleet works: one simulated GPU, and two models that want it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fleet import Fleet
from tests.integration.comfy.simulator.test_models import SD15, SDXL, text_to_image
from tests.waiting import until

#: One run: this many steps of 0.3 s.
STEPS = 10
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root: Path = tmp_path_factory.mktemp("places")
    costs = "--simulate-step-seconds 0.3 --simulate-load-seconds 2"
    with Fleet(root, simulated_gpus="1", reconcile_s="1", simulator_args=costs) as fleet:
        yield fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1)


def submit(fleet: Fleet, checkpoint: str, seed: int) -> str:
    return fleet.submit(text_to_image(checkpoint, seed=seed, steps=STEPS))


def heard(fleet: Fleet, job_id: str) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield each status that the job's stream tells, and when, until the job runs."""
    with requests.get(f"{fleet.base_url}/api/v2/jobs/{job_id}/events", stream=True, timeout=60) as answer:
        name = ""
        for line in answer.iter_lines(decode_unicode=True):
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: ") and name == "status":
                data = json.loads(line.removeprefix("data: "))
                yield time.monotonic(), data
                if data["status"] != "queued":
                    return


def test_a_waiting_stream_sees_its_place_move_and_hears_which_gpu_and_model_it_waits_for(fleet: Fleet) -> None:
    for seed in range(2):
        fleet.wait(submit(fleet, SD15, seed), "succeeded", timeout_s=60)
    ahead = [submit(fleet, SD15, seed) for seed in range(10, 14)]
    waiting = submit(fleet, SDXL, 20)
    with ThreadPoolExecutor(1) as beside:
        hearing = beside.submit(lambda: list(heard(fleet, waiting)))
        listed: list[dict[str, Any]] = until(lambda: queue_of(fleet), what="a list from 1 on")
        shown = fleet.command("status", waiting)

        told = hearing.result()

    places = [data for _, data in told if data["status"] == "queued"]
    positions = [data["queue_position"] for data in places]
    assert positions == sorted(positions, reverse=True), "nobody goes before it who comes later"
    assert positions[-1] == 1
    assert len(set(positions)) >= 3
    last = places[-1]["queue"]
    assert last["reason_code"] == "load"
    assert last["reason"].startswith(f"gpu0@{gpu_host(fleet)} will load {SDXL} for it in ")
    reasons = {each["queue"]["reason_code"]: each["queue"]["reason"] for each in listed}
    assert SD15 in reasons["held"]
    assert SDXL not in reasons["held"]
    assert "because" in shown.stdout
    for job_id in ahead:
        assert fleet.wait(job_id, timeout_s=60)["status"] == "succeeded"
    assert fleet.wait(waiting, timeout_s=60)["status"] == "succeeded"


def queue_of(fleet: Fleet) -> list[dict[str, Any]] | None:
    """All that waits as it is listed; None while a look of a second ago knows another first one."""
    listed: list[dict[str, Any]] = requests.get(f"{fleet.base_url}/api/v2/jobs?status=queued", timeout=10).json()[
        "jobs"
    ]
    positions = sorted(job.get("queue", {}).get("position") or 0 for job in listed)
    return listed if positions == list(range(1, len(positions) + 1)) else None


def gpu_host(fleet: Fleet) -> str:
    """The machine of the only GPU."""
    [instance] = fleet.instances()
    return str(instance["name"]).partition("@")[2]
