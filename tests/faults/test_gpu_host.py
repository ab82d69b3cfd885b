"""What keeps a GPU from taking jobs: a warm-up, a quarantine, a full disk. Jobs wait, and run when it is over."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.ledger import Ledger
from core.ledger.instances import DISK_FULL, HEALTHY, QUARANTINED, UNHEALTHY
from core.records.instance import InstanceRecord
from tests.fleet import ROOT, Fleet, work
from tests.waiting import until

WARM_UP = ROOT / "workflows" / "demo.json"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"simulated_gpus": "1", "lease_renew_s": "0.5", "reconcile_s": "1", "host": "here"}
    settings |= {"quarantine_after": "2", "quarantine_s": "3600", "warmup_workflow": str(WARM_UP)}
    settings |= {"simulator_args": "--simulate-test-nodes --simulate-speed 10"}
    with Fleet(tmp_path_factory.mktemp("host"), **settings) as fleet:
        yield fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1)


def instance(ledger: Ledger) -> InstanceRecord:
    [record] = ledger.instances.all()
    return record


def wait_for(ledger: Ledger, state: str) -> InstanceRecord:
    until(lambda: instance(ledger).state == state, timeout_s=20, what=f"the state {state}")
    return instance(ledger)


def restart_worker(fleet: Fleet, **settings: str) -> None:
    """The worker again, with other settings."""
    assert fleet.stop("gpu0") == 0
    fleet.reconfigure(**settings)
    fleet.start("gpu0")


def test_a_warm_up_comes_first_and_its_time_is_kept(fleet: Fleet, ledger: Ledger) -> None:
    record = instance(ledger)

    assert record.warmup_s is not None
    assert record.warmup_s > 0
    # The model is in memory: the first job that needs it does not load it.
    job_id = fleet.submit(json.loads(WARM_UP.read_text()))
    fleet.wait(job_id, "succeeded")
    held = [file.name for file in instance(ledger).held]
    assert held
    assert all(name.endswith(".safetensors") for name in held)
    job = ledger.jobs.get(job_id)
    assert job.outputs_reused, "the loader's output was in the cache"


def test_an_instance_that_fails_too_often_rests_until_it_is_resumed(fleet: Fleet, ledger: Ledger) -> None:
    for _ in range(2):
        wait_for(ledger, HEALTHY)
        pid = until(lambda: fleet.living_instance_pid("gpu0"), what="the process")
        os.kill(pid, signal.SIGKILL)
        until(lambda: instance(ledger).state != HEALTHY, what="the loss")

    record = wait_for(ledger, QUARANTINED)
    assert record.reason is not None
    assert "SIGKILL" in record.reason
    assert record.quarantined_until_ms is not None
    job_id = fleet.submit(work(0.1, seed=1))
    shown = fleet.command("resume", "gpu0")

    assert "gpu0@here" in shown.stdout
    fleet.wait(job_id, "succeeded")
    assert instance(ledger).quarantined_until_ms is None


def test_how_long_a_busy_instance_may_be_mute_is_a_setting(fleet: Fleet, ledger: Ledger) -> None:
    restart_worker(fleet, mute_s="1")
    wait_for(ledger, HEALTHY)
    graph = work(0.1, seed=2)
    graph["4"] = {"class_type": "T_Mute", "inputs": {"image": ["2", 0], "seconds": 60.0, "works": True}}
    graph["3"]["inputs"]["images"] = ["4", 0]
    job_id = fleet.submit(graph)

    until(lambda: "has answered nothing for 1 s" in fleet.log("gpu0"), what="the end of its limit")

    fleet.cancel(job_id)
    fleet.wait(job_id, "canceled")
    restart_worker(fleet, mute_s="1800")
    wait_for(ledger, HEALTHY)


def test_a_full_disk_takes_no_jobs_and_those_that_wait_too_long_expire(fleet: Fleet, ledger: Ledger) -> None:
    restart_worker(fleet, min_free_disk_bytes=str(2**60))
    record = wait_for(ledger, DISK_FULL)
    assert record.reason is not None
    assert "COMFYLINE_MIN_FREE_DISK_BYTES" in record.reason
    fleet.reconfigure(queue_timeout_s="2")
    assert fleet.stop("io") == 0
    fleet.start("io")
    job_id = fleet.submit(work(0.1, seed=2))

    assert fleet.wait(job_id, "expired")["status"] == "expired"

    assert ledger.jobs.get(job_id).attempt == 0
    restart_worker(fleet, min_free_disk_bytes="0")
    wait_for(ledger, HEALTHY)
    fleet.wait(fleet.submit(work(0.1, seed=3)), "succeeded")


def test_a_warm_up_that_fails_is_a_start_that_failed(fleet: Fleet, ledger: Ledger, tmp_path: Path) -> None:
    graph = work(0.0)
    graph["2"] = {"class_type": "T_Err", "inputs": {"image": ["1", 0], "kind": "runtime"}}
    (tmp_path / "warmup.json").write_text(json.dumps(graph))
    restart_worker(fleet, warmup_workflow=str(tmp_path / "warmup.json"), quarantine_after="100")

    record = wait_for(ledger, UNHEALTHY)

    assert record.reason is not None
    assert "warm-up" in record.reason
    assert "boom" in record.reason
    until(lambda: instance(ledger).restarts >= 1, what="another start")


def test_files_of_a_job_that_failed_do_not_stay(fleet: Fleet, ledger: Ledger) -> None:
    restart_worker(fleet, warmup_workflow="")
    wait_for(ledger, HEALTHY)
    graph = work(0.0, seed=5)
    graph["4"] = {"class_type": "T_Err", "inputs": {"image": ["3x", 0], "kind": "runtime"}}
    graph["3x"] = {"class_type": "ImageInvert", "inputs": {"image": ["2", 0]}}
    graph["5"] = {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "never"}}
    job_id = fleet.submit(graph)

    fleet.wait(job_id, "failed")

    until(lambda: not (fleet.data_dir / "gpus" / "gpu0" / "output" / job_id).exists(), what="the files to go")
