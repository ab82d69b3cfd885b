"""A GPU worker's pool process is killed at each step of the short road into storage: its job ends once, and whole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.ledger import Ledger
from core.settings import Settings
from core.storage.placing import digest_of
from tests.dying_workers import start_dying
from tests.fleet import Fleet
from tests.receivers import OK, Receiver, receiving
from tests.waiting import until

#: In the order in which a job with two files comes to them: just before this call. And which attempt it ends with.
STEPS: dict[str, tuple[str, str, int, int]] = {
    "before anything is stored": ("tasks/runner/direct_store.py", "_stored", 1, 2),
    "between two files": ("core/storage/placing.py", "place_new", 2, 2),
    "after the last file and before the record": ("core/ledger/outputs.py", "succeed_at_once", 1, 2),
    "in the transaction": ("core/ledger/webhooks/outbox_writer.py", "announce", 1, 2),
    "after the record": ("tasks/runner/direct_store.py", "leave_sources", 1, 1),
    "before the webhook is published": ("tasks/runner/runner.py", "_end", 1, 1),
}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving(lambda _received: OK) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """All but a GPU worker."""
    with Fleet(tmp_path_factory.mktemp("short"), simulated_gpus="1", reconcile_s="1") as fleet:
        yield fleet.start("broker", "api", "io", "beat")


@pytest.mark.parametrize("step", STEPS)
def test_a_job_ends_once_and_whole_whose_worker_is_killed_at_any_step_of_the_short_road(
    step: str, fleet: Fleet, ledger: Ledger, receiver: Receiver
) -> None:
    mark = fleet.root / f"killed at {step}"
    start_dying(fleet, "gpu0", at=STEPS[step][:3], mark=mark)
    fleet.ready(gpus=1, timeout_s=60)
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 0}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "mine"}},
    }
    job_id = fleet.submit(graph, webhook={"url": receiver.url})

    fleet.wait(job_id, "succeeded", timeout_s=90)
    # The last of these steps comes after the end.
    until(mark.exists, what="its death there")
    until(lambda: ledger.deliveries.open_count(job_id) == 0, what="the webhook")
    fleet.stop("gpu0")

    job = ledger.jobs.get(job_id)
    assert job.attempt == STEPS[step][3]
    folder = Settings(data_dir=fleet.data_dir).outputs_dir / job_id
    assert len({output.name for output in job.outputs}) == len(job.outputs) == 2
    for output in job.outputs:
        path = folder / output.stored_name
        assert (path.stat().st_size, digest_of(path)) == (output.size_bytes, output.hash)
    told = [post.body["data"] for post in receiver.received]
    assert [data["status"] for data in told if data["id"] == job_id] == ["succeeded"]
