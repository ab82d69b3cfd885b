"""Jobs that a GPU worker's main process gives back, and the wait until none is left."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.instances import Instances
from core.ledger.requeue import Requeue
from core.records.job import CANCELED, QUEUED, RUNNING
from core.settings import Settings
from tasks.instance import release as release_module
from tasks.instance.release import LOOK_EVERY_S, JobRelease
from tests.ledger_moves import claimed, submit
from tests.makers import NAME, BrokerlessRuntime, Stopwatch


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[BrokerlessRuntime]:
    """Every runtime that a release makes."""
    runtimes: list[BrokerlessRuntime] = []

    def make(settings: Settings, app: object) -> BrokerlessRuntime:
        runtimes.append(BrokerlessRuntime(settings, app))
        return runtimes[-1]

    monkeypatch.setattr(release_module, "Runtime", make)
    return runtimes


@pytest.fixture
def release(runtime: BrokerlessRuntime, made: list[BrokerlessRuntime]) -> Iterator[JobRelease]:
    yield JobRelease(runtime.settings, NAME)
    assert all(found.is_closed for found in made), "connections of its own are closed"


class Cancel(threading.Event):
    """A wish to call a wait off; waiting for it only lets time pass."""

    def __init__(self, watch: Stopwatch) -> None:
        super().__init__()
        self._watch = watch

    def wait(self, timeout: float | None = None) -> bool:
        self._watch.sleep(timeout or 0.0)
        return self.is_set()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(release_module, "time", watch)
    return watch


def on_deck(ledger: Ledger, **fields: Any) -> Any:
    submit(ledger, **fields)
    return ledger.claims.claim(NAME, ahead=True)


class TestGivingBack:
    def test_what_waits(self, release: JobRelease, ledger: Ledger, made: list[BrokerlessRuntime]) -> None:
        running, waiting = claimed(ledger), on_deck(ledger)
        interrupted: list[str] = []
        release.what_waits(interrupted.append)
        assert interrupted == [waiting.prompt_id]
        assert ledger.jobs.get(running.job_id).status == RUNNING
        assert ledger.jobs.get(waiting.job_id).status == QUEUED
        assert "takes no more jobs" in ledger.jobs.events(waiting.job_id)[-1].data["reason"]
        assert made[0].published.sent == [("turn", waiting.job_id)]

    def test_everything(self, release: JobRelease, ledger: Ledger, made: list[BrokerlessRuntime]) -> None:
        running, canceling, other = claimed(ledger), claimed(ledger), claimed(ledger, "gpu1@here")
        ledger.jobs.cancel(canceling.job_id)
        interrupted: list[str] = []
        release.everything(interrupted.append)
        assert sorted(interrupted) == sorted([running.prompt_id, canceling.prompt_id])
        assert [ledger.jobs.get(claim.job_id).status for claim in (running, canceling, other)] == [
            QUEUED,
            CANCELED,
            RUNNING,
        ]
        assert sorted(made[0].published.sent) == [("notify", canceling.job_id), ("turn", running.job_id)]
        assert "taken out of use" in ledger.jobs.events(running.job_id)[-1].data["reason"]

    def test_of_a_dead_process(self, release: JobRelease, ledger: Ledger, made: list[BrokerlessRuntime]) -> None:
        dead, other = claimed(ledger), claimed(ledger, "gpu1@here")
        release.of_dead_process()
        assert ledger.jobs.get(dead.job_id).status == QUEUED
        assert len(ledger.jobs.get(dead.job_id).losses) == 1
        assert ledger.jobs.get(other.job_id).status == RUNNING
        assert made[0].published.sent == [("turn", dead.job_id)]

    def test_a_ledger_that_is_away_is_said(self, release: JobRelease, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(*_arguments: object, **_options: object) -> None:
            raise LedgerUnavailable("away")

        monkeypatch.setattr(Requeue, "release_all", away)
        with pytest.raises(LedgerUnavailable):
            release.what_waits(lambda _prompt_id: None)


class TestWaiting:
    def test_an_idle_instance_is_not_waited_for(self, release: JobRelease, watch: Stopwatch) -> None:
        assert release.wait_until_idle(5.0, Cancel(watch))
        assert watch.slept_s == []

    def test_a_busy_one_as_long_as_was_said(self, release: JobRelease, ledger: Ledger, watch: Stopwatch) -> None:
        claimed(ledger)
        assert not release.wait_until_idle(2 * LOOK_EVERY_S, Cancel(watch))
        assert watch.slept_s == [LOOK_EVERY_S] * 3

    def test_up_to_the_last_moment(self, release: JobRelease, ledger: Ledger, watch: Stopwatch) -> None:
        claimed(ledger)
        assert not release.wait_until_idle(0.0, Cancel(watch))
        assert watch.slept_s == [LOOK_EVERY_S]

    def test_one_that_becomes_idle(
        self, release: JobRelease, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = [True, True, False]
        monkeypatch.setattr(Instances, "holds_jobs", lambda _self, _name: answers.pop(0))
        assert release.wait_until_idle(5.0, Cancel(watch))
        assert len(watch.slept_s) == 2

    def test_a_ledger_that_is_away_is_not_taken_for_a_busy_instance(
        self,
        release: JobRelease,
        watch: Stopwatch,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        answers: list[bool | None] = [None, None, None, False]

        def holds_jobs(_self: Instances, _name: str) -> bool:
            answer = answers.pop(0)
            if answer is None:
                raise LedgerUnavailable("away")
            return answer

        caplog.set_level(logging.WARNING)
        monkeypatch.setattr(Instances, "holds_jobs", holds_jobs)
        assert release.wait_until_idle(LOOK_EVERY_S, Cancel(watch)), "though it was away for longer than that"
        assert caplog.text.count("is not known") == 3

    def test_it_can_be_called_off(self, release: JobRelease, ledger: Ledger, watch: Stopwatch) -> None:
        claimed(ledger)
        cancel = Cancel(watch)
        cancel.set()
        assert not release.wait_until_idle(3_600.0, cancel)
        assert watch.slept_s == []

    def test_it_looks_three_times_a_second(self) -> None:
        assert LOOK_EVERY_S == 0.3
