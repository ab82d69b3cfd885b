"""Machines that share a bucket and no directory: the whole road, the bucket away for a while, machines that die."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from core.clock import now_ms
from core.records.job import DELIVERING
from tests.bucket_fleet import BUCKET, Machines, machines
from tests.faults.test_delivery_kills import Step, die
from tests.fleet import Fleet, work
from tests.ledger_moves import set_columns
from tests.services import Broker, PostgresServer
from tests.waiting import until

#: Longer than uploads are tried elsewhere, and than a machine may be silent; shorter than jobs are kept.
LONG_MS = 3_600_000


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker, postgres: PostgresServer
) -> Iterator[Machines]:
    settings: dict[str, Any] = {"host_lost_s": "30", "allow_networks": "loopback"}
    with machines(tmp_path_factory.mktemp("bucket"), shared_redis, postgres.create(), **settings) as fleet:
        yield fleet


@pytest.fixture
def whole(fleet: Machines) -> Machines:
    """The fleet with all of its processes, also after a test that ended some."""
    for host in (fleet.one, fleet.two):
        for name in ("gpu0", "io"):
            if name not in host.processes:
                host.start(name)
    fleet.gate.open()
    fleet.gate.delay_s = 0.0
    fleet.api.ready(gpus=2, timeout_s=60)
    return fleet


def picture(color: int = 0) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), (color, 0, 0)).save(data, "PNG")
    return data.getvalue()


def showing(name: str) -> dict[str, Any]:
    """A graph that saves what it loads."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "shown"}},
    }


def host_of(whole: Machines, job_id: str) -> Fleet:
    instance = whole.ledger.jobs.get(job_id).instance or ""
    return {"gpu0@one": whole.one, "gpu0@two": whole.two}[instance]


def delivering(whole: Machines, job_id: str) -> None:
    until(lambda: whole.ledger.jobs.get(job_id).status == DELIVERING, what="its files", timeout_s=30)


def test_outputs_go_into_the_bucket_and_no_machine_keeps_any(whole: Machines) -> None:
    job_ids = [whole.api.submit(work(0.3, seed=number)) for number in range(6)]

    jobs = [whole.api.wait(job_id, "succeeded") for job_id in job_ids]

    assert {job["instance"] for job in jobs} == {"gpu0@one", "gpu0@two"}
    for job in jobs:
        [output] = job["outputs"]
        content = whole.api.picture(job)
        assert content.startswith(b"\x89PNG")
        assert whole.objects("outputs")[f"{job['id']}/{output['name']}"] == len(content) == output["size_bytes"]
    for host in (whole.one, whole.two):
        until(lambda host=host: not [*(host.data_dir / "outgoing").glob("[!.]*")], what="the folders to go")  # type: ignore[misc]
        assert not (host.data_dir / "outputs").exists()


def test_an_upload_and_a_url_come_down_to_the_gpu(whole: Machines) -> None:
    files, form = {"file": ("a.png", picture(7))}, {"file_path": "a.png"}
    asset = requests.post(f"{whole.api.base_url}/api/v2/assets", files=files, data=form, timeout=20).json()
    whole.s3.client.put_object(Bucket=BUCKET, Key="elsewhere/b.png", Body=picture(9))
    place = {"Bucket": BUCKET, "Key": "elsewhere/b.png"}
    url = whole.s3.client.generate_presigned_url("get_object", Params=place, ExpiresIn=600)

    by_asset, by_url = whole.api.submit(showing(asset["id"])), whole.api.submit(showing(url))

    job = whole.api.wait(by_asset, "succeeded")
    assert Image.open(io.BytesIO(whole.api.picture(job))).getpixel((0, 0)) == (7, 0, 0)
    job = whole.api.wait(by_url, "succeeded")
    assert Image.open(io.BytesIO(whole.api.picture(job))).getpixel((0, 0)) == (9, 0, 0)


def test_a_bucket_that_is_away_for_a_while_loses_nothing(whole: Machines) -> None:
    job_id = whole.api.submit(work(3.0, seed=11))
    until(lambda: whole.ledger.jobs.get(job_id).status == "running", what="its start")
    whole.gate.shut()
    delivering(whole, job_id)
    host = host_of(whole, job_id)

    def told() -> str | None:
        message = whole.api.job(job_id)["progress"]["message"]
        return str(message) if "wait to be stored" in message else None

    assert until(told, what="the reason on the job", timeout_s=60).endswith("does not take them now.")

    def why_unready() -> str | None:
        ready = requests.get(f"{whole.api.base_url}/ready", timeout=10)
        reason: str | None = ready.json()["storage"]["reason"]
        # The GPUs' machines may have noticed before this one.
        return reason if ready.status_code == 503 else None

    assert "s3://fleet/files" in until(why_unready, what="an API that is not ready", timeout_s=40)
    # However long that takes: it is given up by nobody.
    set_columns(whole.ledger, job_id, generated_at_ms=now_ms() - LONG_MS, updated_at_ms=1)
    until(lambda: host.log("io").count("waits for another turn") > 1, what="another try", timeout_s=60)
    whole.gate.open()
    set_columns(whole.ledger, job_id, updated_at_ms=1)

    job = whole.api.wait(job_id, "succeeded", timeout_s=60)
    assert job["attempt"] == 1
    assert whole.api.picture(job).startswith(b"\x89PNG")


def test_a_machine_that_dies_with_unstored_files_has_its_job_run_again(whole: Machines) -> None:
    for each in (whole.one, whole.two):
        each.kill("io")
    job_id = whole.api.submit(work(0.2, seed=21))
    delivering(whole, job_id)
    dead = host_of(whole, job_id)
    other = whole.two if dead is whole.one else whole.one
    dead.kill("gpu0")
    other.start("io")
    # As if it were silent for long enough already.
    set_columns(whole.ledger, job_id, generated_at_ms=now_ms() - LONG_MS)

    job = whole.api.wait(job_id, "succeeded", timeout_s=90)

    assert job["attempt"] == 2
    assert [loss["code"] for loss in job["losses"]] == ["instance_lost"]
    assert whole.api.picture(job).startswith(b"\x89PNG")
    assert [key for key in whole.objects("outputs") if key.startswith(job_id)] == [
        f"{job_id}/2/{job['outputs'][0]['name']}"
    ]


def test_files_that_went_with_a_disk_are_made_again(whole: Machines) -> None:
    for each in (whole.one, whole.two):
        each.kill("io")
    job_id = whole.api.submit(work(0.2, seed=31))
    delivering(whole, job_id)
    host = host_of(whole, job_id)
    # The machine comes back under its name with an empty disk.
    for place in ("outgoing", f"gpus/gpu0/output/{job_id}"):
        shutil.rmtree(host.data_dir / place)
    for each in (whole.one, whole.two):
        each.start("io")

    job = whole.api.wait(job_id, "succeeded", timeout_s=90)

    assert job["attempt"] == 2
    assert whole.api.picture(job).startswith(b"\x89PNG")


#: In the order in which a job with two files comes to them: just before this call.
STEPS: dict[str, Step] = {
    "before anything": ("tasks/upload.py", "_bring_in", 1),
    "between two files that are made ready": ("tasks/outputs/store.py", "_store_one", 2),
    "before the first file goes up": ("core/storage/sending.py", "send", 1),
    "between two files on their way up": ("core/storage/sending.py", "send", 2),
    "after the last file and before the record": ("core/ledger/outputs.py", "succeed", 1),
    "after the record": ("core/storage/objects.py", "clear_workplace", 1),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_job_ends_once_whose_io_worker_is_killed_at_any_step(whole: Machines, step: str) -> None:
    for each in (whole.one, whole.two):
        each.stop("io")
    graph = work(0.1, seed=100 + list(STEPS).index(step))
    graph["1"]["inputs"]["batch_size"] = 2
    job_id = whole.api.submit(graph)
    delivering(whole, job_id)
    host = host_of(whole, job_id)
    die(host, STEPS[step])
    set_columns(whole.ledger, job_id, updated_at_ms=1)

    host.start("io")

    job = whole.api.wait(job_id, "succeeded", timeout_s=60)
    assert job["attempt"] == 1
    stored = {key: size for key, size in whole.objects("outputs").items() if key.startswith(job_id)}
    assert stored == {f"{job_id}/{output['name']}": output["size_bytes"] for output in job["outputs"]}
    assert len(stored) == 2
    until(lambda: not (host.data_dir / "outgoing" / job_id).exists(), what="the folder to go")


def test_what_is_deleted_leaves_the_bucket(whole: Machines) -> None:
    job_id = whole.api.submit(work(0.1, seed=41))
    whole.api.wait(job_id, "succeeded")
    assert any(key.startswith(job_id) for key in whole.objects("outputs"))

    answer = requests.delete(f"{whole.api.base_url}/api/v2/jobs/{job_id}", timeout=10)

    assert answer.status_code == 204
    assert not any(key.startswith(job_id) for key in whole.objects("outputs"))


def test_an_expired_job_leaves_the_bucket(whole: Machines) -> None:
    job_id = whole.api.submit(work(0.1, seed=42))
    whole.api.wait(job_id, "succeeded")

    set_columns(whole.ledger, job_id, files_expire_at_ms=1, expires_at_ms=1)

    until(lambda: not any(key.startswith(job_id) for key in whole.objects("outputs")), what="its files to go")


def test_a_slow_bucket_keeps_no_gpu_waiting(whole: Machines) -> None:
    whole.gate.delay_s = 2.0
    for host in (whole.one, whole.two):
        # Each has connections of its own from before; those that come now are slow.
        host.stop("io")
        host.start("io")
    job_ids = [whole.api.submit(work(0.2, seed=50 + number)) for number in range(8)]

    until(
        lambda: all(whole.ledger.jobs.get(each).attempt for each in job_ids), what="the GPUs to be done", timeout_s=30
    )
    for job_id in job_ids:
        whole.api.wait(job_id, "succeeded", timeout_s=90)
