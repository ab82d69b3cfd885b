"""The io worker is killed at each step of a delivery: its job comes to an end all the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests
from sqlalchemy import update

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.database.tables import deliveries
from core.ledger.outputs import DELIVERING_MS
from core.records.bucket_target import BucketTarget
from core.settings import Settings
from tests.fleet import ROOT, Fleet
from tests.ledger_moves import set_columns
from tests.receivers import OK, Received, Receiver, receiving
from tests.s3_server import CREDENTIALS, S3Server
from tests.waiting import until

#: An io worker that kills itself with SIGKILL when it calls a function for the n-th time.
DYING = """
import os, signal, sys, threading

path, function, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

def watch(frame, event, _argument):
    global left
    if event == "call" and frame.f_code.co_name == function and frame.f_code.co_filename.endswith(path):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

threading.setprofile(watch)
from cli.main import run

sys.exit(run(["io"]))
"""
Step = tuple[str, str, int]
#: In the order in which a job with two files, a bucket and a webhook comes to them: just before this call.
STEPS: dict[str, Step] = {
    "before anything": ("tasks/upload.py", "_bring_in", 1),
    "between two files on their way into storage": ("tasks/outputs/store.py", "_store_one", 2),
    "before the upload": ("tasks/outputs/bucket_upload.py", "_try", 1),
    "between two files on their way into the bucket": ("tasks/outputs/bucket_upload.py", "_try", 2),
    "after the last file and before the record": ("core/ledger/outputs.py", "succeed", 1),
    "before the webhook": ("tasks/webhooks/posting.py", "send", 1),
    "in the webhook, which has arrived": ("tasks/webhooks/posting.py", "_drain", 1),
}


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving(lambda _received: OK) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """All but an io worker."""
    with Fleet(tmp_path_factory.mktemp("kills"), simulated_gpus="1", reconcile_s="1") as fleet:
        yield fleet.start("broker", "api", "gpu0", "beat").ready(gpus=1)


def submit(fleet: Fleet, target: BucketTarget, receiver: Receiver) -> str:
    """A job of two pictures, whose files wait for an io worker when this returns."""
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}},
    }
    keys = {"access_key_id": CREDENTIALS.access_key_id, "secret_access_key": CREDENTIALS.secret_access_key}
    bucket = {"endpoint_url": target.endpoint_url, "bucket_name": target.bucket_name, **keys}
    body = {"input": {"workflow_json": graph, "s3": bucket, "webhook": {"url": receiver.url}}}
    answer = requests.post(f"{fleet.base_url}/generate", json=body, timeout=10)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def die(fleet: Fleet, step: Step) -> None:
    """Run an io worker until it has killed itself."""
    path, function, count = step
    with (fleet.root / "io.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-c", DYING, path, function, str(count)],
            cwd=ROOT,
            env=dict(fleet.environment()),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    fleet.processes["io"] = worker
    assert worker.wait(40) == -signal.SIGKILL, fleet.log("io")[-3000:]


def forget(ledger: Ledger, job_id: str) -> None:
    """As if the time had passed after which a delivery, or a webhook, counts as forgotten."""
    set_columns(ledger, job_id, updated_at_ms=1, generated_at_ms=now_ms() - DELIVERING_MS - 1000)
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(deliveries).where(deliveries.c.job_id == job_id).values(next_try_at_ms=1))


def webhooks_of(receiver: Receiver, job_id: str) -> list[Received]:
    return [received for received in receiver.received if received.body["id"] == job_id]


@pytest.mark.parametrize("step", STEPS)
def test_a_job_ends_whose_io_worker_is_killed_at_any_step_of_its_delivery(
    fleet: Fleet, ledger: Ledger, s3: S3Server, receiver: Receiver, step: str
) -> None:
    target = s3.new_target()
    job_id = submit(fleet, target, receiver)
    die(fleet, STEPS[step])
    forget(ledger, job_id)

    fleet.start("io")

    fleet.wait(job_id, "succeeded")
    until(lambda: ledger.deliveries.open_count(job_id) == 0, what="the webhook")
    fleet.kill("io")
    folder = Settings(data_dir=fleet.data_dir).outputs_dir / job_id
    assert [output.name for output in ledger.jobs.get(job_id).outputs] == ["mine_00001_.png", "mine_00002_.png"]
    stored = {output.name: (folder / output.name).read_bytes() for output in ledger.jobs.get(job_id).outputs}
    assert {key.rpartition("/")[2]: data for key, data in s3.content(target).items()} == stored
    posts = webhooks_of(receiver, job_id)
    # What had arrived is sent again under the same id: nobody else can know that it did.
    assert len(posts) == (2 if step == "in the webhook, which has arrived" else 1)
    assert len({post.headers["webhook-id"] for post in posts}) == 1
    assert {post.body["status"] for post in posts} == {"completed"}


def test_a_job_that_kills_each_io_worker_fails(fleet: Fleet, ledger: Ledger, s3: S3Server, receiver: Receiver) -> None:
    job_id = submit(fleet, s3.new_target(), receiver)
    until(lambda: ledger.jobs.get(job_id).status == "delivering", what="its files")

    for _ in range(Settings().max_attempts):
        forget(ledger, job_id)
        die(fleet, STEPS["between two files on their way into the bucket"])
    forget(ledger, job_id)
    fleet.start("io")

    assert fleet.wait(job_id, "failed")["error"]["code"] == "delivery_failed"
    until(lambda: webhooks_of(receiver, job_id), what="the webhook")
    fleet.kill("io")
