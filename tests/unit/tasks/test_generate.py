"""A turn at a GPU: what follows from how it went."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from core.errors import ComfylineError, ComfyUnavailable, LedgerUnavailable, PromptFailed
from tasks import generate as generate_module
from tasks.generate import REST_S, generate
from tasks.runner.attempt_end import AttemptEnd, Dropped, Failed, Finished, Requeued, Stored
from tasks.runner.runner import JobRunner
from tests.makers import NAME, BrokerlessRuntime, Stopwatch
from tests.unit.tasks.task_calls import Called, call

#: Which attempt it was.
WHICH: dict[str, Any] = {"job_id": "j2", "attempt": 3, "has_webhook": True}


class Runner:
    """Ends each turn as a test says, after 1.23456 s."""

    name = NAME

    def __init__(self, watch: Stopwatch) -> None:
        self.end: AttemptEnd | Exception | None = None
        self.worked: list[str] = []
        self.was_spared = False
        self._watch = watch

    def work(self, job_id: str) -> AttemptEnd | None:
        self.worked.append(job_id)
        self._watch.now_s += 1.23456
        self.was_spared = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(generate_module, "time", watch)
    return watch


@pytest.fixture
def runner(watch: Stopwatch) -> Runner:
    return Runner(watch)


def turn(runtime: BrokerlessRuntime, runner: Runner) -> Called:
    return call(runtime, generate, "j1", role="gpu", held={JobRunner: runner})


def test_what_ran_whole_goes_on_to_be_stored(runtime: BrokerlessRuntime, runner: Runner) -> None:
    runner.end = Finished(**WHICH)
    called = turn(runtime, runner)
    assert runner.worked == ["j1"]
    assert runner.was_spared
    assert called.result == ["j2", 3, NAME, 1.235]
    assert called.goes_on
    assert called.reported == f"job j2 attempt 3 on {NAME}"
    assert runtime.published.sent == []


@pytest.mark.parametrize(("has_webhook", "sent"), [(True, [("notify", "j2")]), (False, [])])
def test_what_is_stored_already_ends_its_chain_and_is_told(
    runtime: BrokerlessRuntime, runner: Runner, has_webhook: bool, sent: list[Any]
) -> None:
    runner.end = Stored(**{**WHICH, "has_webhook": has_webhook})
    called = turn(runtime, runner)
    assert called.result == ["j2", 3, NAME, 1.235]
    assert not called.goes_on
    assert called.reported == f"job j2 attempt 3 on {NAME}"
    assert runtime.published.sent == sent


@pytest.mark.parametrize(
    ("end", "words", "sent"),
    [
        (Failed(error=PromptFailed("a secret", "7"), **WHICH), "failed (node_execution_error)", [("notify", "j2")]),
        (Requeued(**WHICH), "queued again", [("turn", "j2")]),
        (Dropped(**WHICH), "canceled, or another attempt's", [("notify", "j2")]),
        (Dropped(**{**WHICH, "has_webhook": False}), "canceled, or another attempt's", []),
    ],
)
def test_what_has_no_files_ends_its_chain_and_is_moved_on(
    runtime: BrokerlessRuntime, runner: Runner, end: AttemptEnd, words: str, sent: list[Any]
) -> None:
    runner.end = end
    called = turn(runtime, runner)
    assert not called.goes_on
    assert called.result == called.reported == f"job j2 attempt 3 on {NAME}: {words}"
    assert runtime.published.sent == sent


def test_a_turn_for_nothing_says_so(runtime: BrokerlessRuntime, runner: Runner) -> None:
    called = turn(runtime, runner)
    assert (called.result, called.goes_on, called.reported) == ("nothing to do", False, None)


def test_without_its_instance_the_turn_is_passed_on_after_a_rest(
    runtime: BrokerlessRuntime, runner: Runner, watch: Stopwatch
) -> None:
    runner.end = ComfyUnavailable("away")
    called = turn(runtime, runner)
    assert (called.result, called.goes_on) == (f"passed on: {NAME} takes no jobs", False)
    assert runtime.published.sent == [("turn", "j1")]
    assert watch.slept_s == [REST_S] == [1.0]


def test_without_the_ledger_it_is_dropped(runtime: BrokerlessRuntime, runner: Runner, watch: Stopwatch) -> None:
    runner.end = LedgerUnavailable("away")
    called = turn(runtime, runner)
    assert (called.result, called.goes_on) == ("dropped: the ledger does not answer", False)
    assert (runtime.published.sent, watch.slept_s) == ([], [])


def test_the_words_of_a_fault_stay_in_the_log(
    runtime: BrokerlessRuntime, runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    runner.end = KeyError("a lighthouse")
    with pytest.raises(ComfylineError, match=r"A fault of ours \(KeyError\)") as caught:
        turn(runtime, runner)
    assert "lighthouse" not in str(caught.value)
    assert caught.value.__suppress_context__
    assert "lighthouse" in caplog.text
