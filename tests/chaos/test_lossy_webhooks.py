"""A receiver that fails at random and is down for a while: every webhook arrives all the same, signed and in number.

The short run is a part of every test run; `make chaos` has the long one.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
import standardwebhooks

from core.ledger import Ledger
from core.settings import Settings
from tests.fleet import Fleet, work
from tests.receivers import OK, Answer, Received, Receiver, receiving
from tests.waiting import until

SECRETS = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw==", "whsec_c2Vjb25kIHNlY3JldCBvZiBhIHJvdGF0aW9u")
EVENTS = ("job.started", "job.completed", "job.failed")
LOST_SHARE = 0.3
SEED = 7


class Flaky:
    """Answers 200, but fails for a share of the posts, in four ways, and refuses all while it is down."""

    def __init__(self) -> None:
        self._random = random.Random(SEED)
        self._lock = threading.Lock()
        self.is_down = threading.Event()
        #: By the id of the event.
        self.arrived: dict[str, list[Received]] = defaultdict(list)

    def __call__(self, received: Received) -> Answer:
        with self._lock:
            if self.is_down.is_set():
                return 502, {}, []
            if self._random.random() < LOST_SHARE:
                return self._random.choice(
                    [(500, {}, []), (503, {"Retry-After": "0"}, []), (404, {}, []), (302, {}, [])]
                )
            self.arrived[received.headers["webhook-id"]].append(received)
            return OK


def run(root: Path, *, jobs: int, down_s: float, timeout_s: float) -> None:
    """So many jobs on a whole fleet; then look at what the receiver has."""
    flaky = Flaky()
    # Tries are left when the receiver is back, enough of them that nothing is lost to its moods.
    pauses = ",".join(["0.2"] * 20 + [str(max(0.2, down_s / 10))] * 30)
    settings = {"simulated_gpus": "1", "reconcile_s": "0.5", "simulator_args": "--simulate-test-nodes"}
    settings |= {"webhook_schedule_s": pauses, "webhook_break_s": "0.5"}
    with receiving(flaky) as receiver, Fleet(root, **settings) as fleet:
        fleet.start("broker", "api", "gpu0", "io", "beat").ready(gpus=1)
        half = jobs // 2
        job_ids = [submit(fleet, receiver, number) for number in range(half)]
        flaky.is_down.set()
        job_ids += [submit(fleet, receiver, number) for number in range(half, jobs)]
        time.sleep(down_s)
        flaky.is_down.clear()
        ledger = Ledger(Settings(data_dir=fleet.data_dir))
        until(lambda: ledger.jobs.count("queued", "running", "delivering") == 0, timeout_s=timeout_s, what="the ends")
        until(lambda: ledger.deliveries.open_count() == 0, timeout_s=timeout_s, what="the last webhook")
        check(ledger, flaky, receiver, job_ids)
        ledger.close()


def submit(fleet: Fleet, receiver: Receiver, number: int) -> str:
    """One job that is quickly done; every tenth fails."""
    graph: dict[str, Any] = work(0, seed=number)
    if number % 10 == 9:
        graph["2"] = {"class_type": "T_Err", "inputs": {"image": ["1", 0], "kind": "runtime"}}
    secret: str | list[str] = list(SECRETS) if number % 2 else SECRETS[0]
    webhook = {"url": f"{receiver.url}/{number}", "events": list(EVENTS), "secret": secret}
    answer = requests.post(f"{fleet.base_url}/api/v2/jobs", json={"workflow": graph, "webhook": webhook}, timeout=30)
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def check(ledger: Ledger, flaky: Flaky, receiver: Receiver, job_ids: Sequence[str]) -> None:
    """All arrived, once each, under one id, with one body, signed every time, and numbered as they happened."""
    lost = [found for found in ledger.deliveries.page(limit=10 * len(job_ids)) if found.state != "delivered"]
    assert not lost, f"{len(lost)} did not arrive; of the first: {lost[0]}"
    bodies: dict[str, set[bytes]] = defaultdict(set)
    for received in list(receiver.received):
        webhook = standardwebhooks.Webhook(SECRETS[0])
        webhook.verify(received.content, received.headers)
        if received.headers["webhook-signature"].count("v1,") == 2:
            standardwebhooks.Webhook(SECRETS[1]).verify(received.content, received.headers)
        bodies[received.headers["webhook-id"]].add(received.content)
    assert len(receiver.received) > len(flaky.arrived) * 1.2, "it did fail at random"
    assert all(len(found) == 1 for found in bodies.values())
    assert all(len(found) == 1 for found in flaky.arrived.values())
    told = defaultdict(list)
    for [received] in flaky.arrived.values():
        told[received.body["data"]["id"]].append((received.body["data"]["sequence"], received.body["type"]))
    assert set(told) == set(job_ids)
    for number, job_id in enumerate(job_ids):
        end = "job.failed" if number % 10 == 9 else "job.completed"
        assert [event for _seq, event in sorted(told[job_id])] == ["job.started", end]
        assert len({seq for seq, _event in told[job_id]}) == 2


def test_every_webhook_arrives(tmp_path: Path) -> None:
    run(tmp_path, jobs=100, down_s=1.0, timeout_s=60)


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_every_webhook_of_a_thousand_jobs_arrives(tmp_path: Path) -> None:
    run(tmp_path, jobs=1000, down_s=60.0, timeout_s=600)
