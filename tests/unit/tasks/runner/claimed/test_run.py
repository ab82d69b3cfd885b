"""How long an attempt has had its GPU, as its worker sees it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from comfy.prompts.session import PromptResult
from core.errors import ComfyUnavailable
from core.ledger import Ledger
from core.records.usage import NO_TIME, GpuTime
from tasks.runner.claimed import run as run_module
from tasks.runner.claimed.run import Run
from tests.ledger_moves import claimed
from tests.makers import NAME, Stopwatch, come_up, result_of

GRAPH: dict[str, Any] = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
    "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0]}},
}


class Handle:
    """Stands where a prompt is followed."""

    def __init__(self, watch: Stopwatch, *, took_s: float, result: PromptResult | None) -> None:
        self.started = threading.Event()
        self.node_seconds: dict[str, float] = {"1": 0.25}
        self._watch, self._took_s, self._result = watch, took_s, result

    def wait(self, *, timeout_s: float) -> PromptResult:
        self._watch.now_s += self._took_s
        if self._result is None:
            raise ComfyUnavailable("gone")
        return self._result


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(run_module, "time", watch)
    return watch


@pytest.fixture
def run(ledger: Ledger) -> Run:
    instance = come_up(ledger)
    return Run(claim=claimed(ledger, NAME), instance=instance, graph=GRAPH)


def begin(run: Run, watch: Stopwatch, *, took_s: float = 4.0, result: PromptResult | None = None) -> None:
    handle = Handle(watch, took_s=took_s, result=result)
    handle.started.set()
    run.handle = handle  # type: ignore[assignment]
    run.started_s = run.started_s or watch.now_s


def test_nothing_before_its_prompt_began(run: Run, watch: Stopwatch) -> None:
    assert run.gpu_time() == NO_TIME
    run.handle = Handle(watch, took_s=1.0, result=None)  # type: ignore[assignment]
    watch.now_s += 5
    assert run.gpu_time() == NO_TIME


def test_while_it_runs_until_now(run: Run, watch: Stopwatch) -> None:
    begin(run, watch)
    watch.now_s += 2
    assert run.gpu_time() == GpuTime(run_ms=1750, load_ms=250)


def test_of_one_that_ran_whole_what_comfyui_says(run: Run, watch: Stopwatch) -> None:
    begin(run, watch, took_s=4.0, result=result_of("p", started_at_ms=1000, finished_at_ms=3500))
    run.wait(60.0)
    watch.now_s += 9
    assert run.gpu_time() == GpuTime(run_ms=2250, load_ms=250)


@pytest.mark.parametrize("result", [None, result_of("p", started_at_ms=None)])
def test_else_until_it_ended(run: Run, watch: Stopwatch, result: PromptResult | None) -> None:
    begin(run, watch, result=result)
    if result is None:
        with pytest.raises(ComfyUnavailable):
            run.wait(60.0)
    else:
        run.wait(60.0)
    watch.now_s += 9
    assert run.gpu_time() == GpuTime(run_ms=3750, load_ms=250)


def test_a_second_prompt_counts_with_the_first(run: Run, watch: Stopwatch) -> None:
    for _ in range(2):
        begin(run, watch, took_s=4.0, result=result_of("p"))
        run.wait(60.0)
    assert run.gpu_time() == GpuTime(run_ms=7750, load_ms=250)


def test_that_it_began_and_nobody_saw_when_is_left_to_the_ledger(run: Run, watch: Stopwatch) -> None:
    begin(run, watch)
    run.started_s = None
    assert run.gpu_time() is None


def test_loads_are_never_longer_than_all_of_it(run: Run, watch: Stopwatch) -> None:
    begin(run, watch)
    watch.now_s += 0.125
    assert run.gpu_time() == GpuTime(run_ms=0, load_ms=125)
