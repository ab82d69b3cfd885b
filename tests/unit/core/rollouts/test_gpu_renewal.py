"""A GPU worker in a rollout: drained at once, renewed when its last job has ended, and at work again if it is not."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from core.ledger import Ledger
from core.ledger.instances import DRAINING, HEALTHY
from core.records.rollout import ANEW, DRAIN
from core.rollouts.gpu_renewal import GpuRenewal
from tests.ledger_moves import claimed
from tests.makers import NAME, WORKER, come_up


class Worker:
    """A renewal, and what it has caused."""

    def __init__(self, ledger: Ledger) -> None:
        come_up(ledger)
        self.ledger = ledger
        self.turned_away = 0
        self.took_again = 0
        self.killed: list[tuple[int, int]] = []
        self.renewal = GpuRenewal(NAME, turn_away=self.turn_away, take_again=self.take_again)

    def turn_away(self) -> None:
        self.tell(DRAINING)
        self.turned_away += 1

    def take_again(self) -> None:
        self.took_again += 1

    def tell(self, state: str) -> None:
        said: dict[str, Any] = {"reason": None, "is_drained": False, "restarts": 0}
        self.ledger.instances.heartbeat(NAME, worker=WORKER, state=state, **said)

    def hear(self, wanted: Any) -> None:
        self.renewal.follow(wanted, self.ledger)


@pytest.fixture
def worker(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Worker:
    found = Worker(ledger)
    monkeypatch.setattr(os, "kill", lambda pid, number: found.killed.append((pid, number)))
    return found


def test_it_takes_no_more_jobs_and_ends_when_the_ledger_knows_and_nothing_runs(worker: Worker) -> None:
    worker.hear(ANEW)
    assert (worker.turned_away, worker.killed) == (1, []), "first the ledger is told"
    worker.hear(ANEW)
    worker.hear(ANEW)
    assert worker.killed == [(os.getpid(), signal.SIGTERM)], "once"
    assert worker.renewal.is_due


def test_not_before_the_ledger_knows(worker: Worker) -> None:
    worker.hear(ANEW)
    worker.tell(HEALTHY)
    worker.hear(ANEW)
    assert worker.killed == []


def test_a_job_runs_to_its_end(worker: Worker) -> None:
    claim = claimed(worker.ledger, NAME)
    for _ in range(3):
        worker.hear(ANEW)
    worker.hear(ANEW)
    assert worker.killed == []
    worker.ledger.requeue.release_all(NAME, reason="")
    assert claim.attempt == 1
    worker.hear(ANEW)
    assert len(worker.killed) == 1


def test_a_drain_alone_renews_nothing_and_an_end_of_it_takes_jobs_again(worker: Worker) -> None:
    worker.hear(DRAIN)
    worker.hear(DRAIN)
    worker.hear(None)
    worker.hear(None)
    assert (worker.killed, worker.turned_away, worker.took_again) == ([], 1, 1)


def test_one_that_is_on_its_way_out_is_not_called_back(worker: Worker) -> None:
    worker.hear(ANEW)
    worker.hear(ANEW)
    worker.hear(None)
    assert worker.took_again == 0
