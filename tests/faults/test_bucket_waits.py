"""What is told, and how soon, of jobs that wait for a bucket: for their input files, or with their outputs."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from PIL import Image

from core.records.job import CANCELED, DELIVERING, RUNNING
from tests.bucket_fleet import Machines, machines
from tests.fleet import work
from tests.services import Broker, PostgresServer
from tests.waiting import until

#: A lease is renewed so seldom that a cancel which waited for that would be late.
RENEW_S = 12.0
GET_INPUT = b"GET /fleet/files/inputs/"


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker, postgres: PostgresServer
) -> Iterator[Machines]:
    settings: dict[str, Any] = {"lease_renew_s": str(RENEW_S), "lease_s": "60"}
    with machines(tmp_path_factory.mktemp("waits"), shared_redis, postgres.create(), **settings) as fleet:
        yield fleet


@pytest.fixture
def whole(fleet: Machines) -> Iterator[Machines]:
    """A bucket that answers, and bytes that come as fast as they can."""
    fleet.gate.delay_s = 0.0
    yield fleet
    fleet.gate.delay_s = 0.0


def uploaded(fleet: Machines) -> str:
    """A picture that nobody has seen before."""
    data = io.BytesIO()
    Image.frombytes("RGB", (32, 32), os.urandom(32 * 32 * 3)).save(data, "PNG")
    files, form = {"file": ("a.png", data.getvalue())}, {"file_path": "a.png"}
    answer = requests.post(f"{fleet.api.base_url}/api/v2/assets", files=files, data=form, timeout=30)
    return str(answer.json()["id"])


def showing(name: str) -> dict[str, Any]:
    """A graph that saves what it loads."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": name}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "shown"}},
    }


def message(fleet: Machines, job_id: str) -> str:
    return str((fleet.api.job(job_id).get("progress") or {}).get("message") or "")


def test_a_job_says_that_its_input_files_are_fetched_wherever_it_is_asked(whole: Machines) -> None:
    asset = uploaded(whole)
    hold = whole.gate.hold(GET_INPUT)
    try:
        job_id = whole.api.submit(showing(asset))
        said = until(lambda: "Fetching" in (said := message(whole, job_id)) and said, what="a word", timeout_s=30)
        assert said == "Fetching its input file."
        job = whole.api.job(job_id)
        assert (job["status"], job["progress"]["note"]) == ("running", said)
        result = requests.get(f"{whole.api.base_url}/result/{job_id}", timeout=10).json()
        assert (result["status"], result["message"]) == ("generating", said)
        stream = requests.get(f"{whole.api.base_url}/api/v2/jobs/{job_id}/events", stream=True, timeout=30)
        with stream:
            lines = (line.decode() for line in stream.iter_lines())
            data = next(json.loads(line[6:]) for line in lines if line.startswith("data: ") and "message" in line)
        assert data["message"] == said
        assert said in whole.api.command("status", job_id).stdout
        assert said in whole.api.command("list").stdout
    finally:
        hold.let_go()
    job = whole.api.wait(job_id, "succeeded", timeout_s=60)
    assert "note" not in job["progress"]


def test_a_cancel_of_a_job_whose_files_do_not_come_acts_at_once(whole: Machines) -> None:
    asset = uploaded(whole)
    hold = whole.gate.hold(GET_INPUT)
    try:
        job_id = whole.api.submit(showing(asset))
        assert hold.has_come.wait(30)
        until(lambda: whole.ledger.jobs.get(job_id).status == RUNNING, what="its claim")
        began_s = time.monotonic()
        whole.api.cancel(job_id)
        until(lambda: whole.ledger.jobs.get(job_id).status == CANCELED, what="its end", timeout_s=30)
        assert time.monotonic() - began_s < RENEW_S / 3
    finally:
        hold.let_go()
    # The GPU is free for others.
    whole.api.wait(whole.api.submit(work(0.1, seed=1)), "succeeded", timeout_s=60)


def test_a_job_says_soon_that_its_bucket_is_silent(whole: Machines) -> None:
    job_id = whole.api.submit(work(2.0, seed=2))
    until(lambda: whole.ledger.jobs.get(job_id).status == RUNNING, what="its start", timeout_s=30)
    # Neither refused nor answered, for longer than anybody waits.
    whole.gate.delay_s = 120.0
    until(lambda: whole.ledger.jobs.get(job_id).status == DELIVERING, what="its files", timeout_s=30)
    began_s = time.monotonic()
    said = until(lambda: "wait to be stored" in (said := message(whole, job_id)) and said, what="why", timeout_s=60)
    # 2 s until it is suspected, and 5 s for a look that is not answered. The first request is given up after 60 s.
    assert time.monotonic() - began_s < 15
    assert said.endswith("does not take them now.")
    whole.gate.delay_s = 0.0
    # What is under way is held up for as long as that was to last.
    whole.gate.shut()
    whole.gate.open()
    whole.api.wait(job_id, "succeeded", timeout_s=90)
