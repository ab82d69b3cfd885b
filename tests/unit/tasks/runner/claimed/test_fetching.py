"""Input files brought beside what an instance does."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from comfy.prompts.session import ComfySession
from core.errors import ComfyUnavailable, InputGone, StorageUnavailable
from tasks.runner.claimed import fetching as fetching_module
from tasks.runner.claimed.fetching import REST_S, Fetching
from tasks.runner.claimed.run import Run
from tests.ledger_moves import claimed
from tests.makers import BrokerlessRuntime, Stopwatch, come_up


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(fetching_module, "time", watch)
    return watch


@pytest.fixture
def run(runtime: BrokerlessRuntime) -> Run:
    run = Run(claim=claimed(runtime.ledger), instance=come_up(runtime.ledger), claimed_s=7.0)
    run.session = ComfySession("http://127.0.0.1:1")
    return run


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(fetching_module, "stage_inputs", fail)


def test_so_many_at_once(runtime: BrokerlessRuntime, run: Run) -> None:
    runtime.settings = runtime.settings.model_copy(update={"input_fetches": 3})
    fetching, begun, may_end = Fetching(runtime), threading.Semaphore(0), threading.Event()
    seen: list[Any] = []

    def fetch(given: Run) -> None:
        seen.append(given)
        begun.release()
        assert may_end.wait(20)

    for _ in range(4):
        fetching.begin(run, fetch)
    for _ in range(3):
        assert begun.acquire(timeout=20)
    assert len(seen) == 3
    may_end.set()
    assert begun.acquire(timeout=20)
    assert seen == [run] * 4
    assert run.fetched_since_s == 7.0, "since it was claimed"


@pytest.mark.parametrize("error", [InputGone("gone"), ComfyUnavailable("full"), StorageUnavailable("refuses")])
def test_where_storage_is_there_the_file_is_at_fault(
    runtime: BrokerlessRuntime, run: Run, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    failing(monkeypatch, error)
    fetching = Fetching(runtime)
    with pytest.raises(type(error), match=str(error)):
        fetching.bring(run)
    assert fetching.rests is isinstance(error, StorageUnavailable)
    watch.now_s += REST_S
    assert not fetching.rests


def test_nothing_is_gone_while_storage_is_away(
    runtime: BrokerlessRuntime, run: Run, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runtime.storage.problem() is None
    monkeypatch.setattr(runtime.storage, "_what_is_wrong", lambda: "It is not mounted.")
    failing(monkeypatch, InputGone("gone"))
    with pytest.raises(StorageUnavailable):
        Fetching(runtime).bring(run)
