"""Files that come to an instance's folders, or go, while it runs, in a whole fleet: none of them needs a restart."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image

from api.service.catalogues import MAX_AGE_S
from core.ledger import Ledger
from tests.fleet import ALL, Fleet, work
from tests.waiting import until

#: From the moment a file is there to that in which a job that needs it is recorded.
SOON_S = 5.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two GPUs; only the first of them has a folder of models."""
    root = tmp_path_factory.mktemp("added")
    (root / "models" / "diffusion_models").mkdir(parents=True)
    with Fleet(root, reconcile_s="0.5", simulator_args="--simulate-load-seconds 0") as fleet:
        fleet.start(*(name for name in ALL if name != "gpu0"))
        fleet.reconfigure(simulator_args=f"--simulate-load-seconds 0 --models-directory {root / 'models'}")
        yield fleet.start("gpu0").ready()


def model(fleet: Fleet, name: str) -> Path:
    path = fleet.root / "models" / "diffusion_models" / name
    path.write_bytes(b"weights")
    return path


def loading(name: str, seconds: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """A graph that needs this model, and keeps its GPU busy for so long."""
    loader = {"class_type": "UNETLoader", "inputs": {"unet_name": name, "weight_dtype": "default"}}
    shown = {"class_type": "PreviewAny", "inputs": {"source": ["load", 0]}}
    return {**work(seconds, seed=seed, prefix=name), "load": loader, "shown": shown}


def post(fleet: Fleet, graph: dict[str, Any]) -> requests.Response:
    return requests.post(f"{fleet.base_url}/api/v2/jobs", json={"workflow": graph}, timeout=30)


def test_a_model_is_accepted_as_soon_as_it_is_there(fleet: Fleet, ledger: Ledger) -> None:
    graph = loading("added-while-running.safetensors")
    answer = post(fleet, graph)
    assert answer.status_code == 422
    [error] = answer.json()["error"]["details"]["node_errors"]["load"]["errors"]
    assert error["type"] == "value_not_in_list"

    added = model(fleet, "added-while-running.safetensors")
    answer = post(fleet, graph)

    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]
    assert ledger.jobs.get(job_id).created_at_ms / 1000 - added.stat().st_mtime < SOON_S
    fleet.wait(job_id, "succeeded")


def test_a_picture_is_seen_without_anybody_asking_and_forgotten_when_it_goes(fleet: Fleet, ledger: Ledger) -> None:
    names = [fleet.data_dir / "gpus" / gpu / "input" / "added.png" for gpu in ("gpu0", "gpu1")]
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "added.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}},
    }

    def offered() -> set[bool]:
        catalogues = [ledger.instances.catalogue(digest) for digest in ledger.instances.catalogues()]
        return {"added.png" in json.dumps(catalogue) for catalogue in catalogues}

    # Before anybody names it: a request that lacks a file has all instances look at once.
    for name in names:
        Image.new("RGB", (8, 8)).save(name)
    until(lambda: offered() == {True}, what="the picture in each catalogue")
    fleet.wait(fleet.submit(graph), "succeeded")

    for name in names:
        name.unlink()
    until(lambda: offered() == {False}, what="catalogues without the picture")
    until(lambda: post(fleet, graph).status_code == 422, what="the refusal")


def test_a_job_that_meets_an_instance_without_its_model_goes_to_one_that_has_it(fleet: Fleet) -> None:
    model(fleet, "rare.safetensors")
    fleet.stop("gpu1")
    until(lambda: [each["state"] for each in fleet.instances()].count("healthy") == 1, what="one GPU")
    until(lambda: post(fleet, loading("rare.safetensors")).status_code == 201, what="the model")
    busy = fleet.submit(work(60, seed=7))
    try:
        fleet.wait(busy, "running")
        # The API must have seen that there is one instance only: then all can run the job, and it has no pins.
        time.sleep(2 * MAX_AGE_S)
        job_id = fleet.submit(loading("rare.safetensors", seed=8))

        fleet.reconfigure(simulator_args="--simulate-load-seconds 0")
        fleet.start("gpu1").ready()
        until(lambda: fleet.log("gpu1").count("goes to another kind of instance"), what="the other GPU's refusal")
        # It says so first, and gives the job back then.
        until(lambda: fleet.job(job_id)["status"] == "queued", what="the job in its line again")
    finally:
        fleet.cancel(busy)

    fleet.wait(job_id, "succeeded")


def test_waiting_jobs_outlive_another_file_and_a_restart(fleet: Fleet) -> None:
    model(fleet, "kept.safetensors")
    gone = model(fleet, "gone.safetensors")
    until(lambda: post(fleet, loading("kept.safetensors")).status_code == 201, what="the models")
    running = fleet.submit(loading("kept.safetensors", seconds=60, seed=1))
    fleet.wait(running, "running")
    waits = fleet.submit(loading("kept.safetensors", seed=2))
    fails = fleet.submit(loading("gone.safetensors", seed=3))

    model(fleet, "another.safetensors")
    gone.unlink()
    pid = fleet.instance_pid("gpu0")
    os.kill(pid, signal.SIGKILL)
    until(lambda: fleet.living_instance_pid("gpu0") not in (None, pid), what="another gpu0")

    failed = fleet.wait(fails, "failed")
    assert failed["error"]["code"] == "invalid_workflow"
    assert "gone.safetensors" in failed["error"]["message"]
    fleet.cancel(running)
    fleet.wait(waits, "succeeded", timeout_s=60)
    shutil.rmtree(fleet.root / "models" / "diffusion_models")
