"""What a GPU takes next, and why."""

from __future__ import annotations

from typing import get_args

import pytest

from core.scheduling.forecast import forecast
from core.scheduling.lines import Gpu, Line
from core.scheduling.next_jobs import TAKES_NONE, Next, NextCode, next_of_each, next_sentence
from core.scheduling.picture import FleetGpu, Picture, WaitingLine

FILES = {"a": ("a.sft",), "b": ("b.sft", "vae.sft")}


def line(line_id: int, models: str = "a", *, waiting: int = 1, run_s: float = 4.0, **more: float) -> WaitingLine:
    since_s = more.pop("since_s", 0.0)
    return WaitingLine(
        line=Line(id=line_id, models=models, waiting=waiting, since_s=since_s, run_s=run_s, **more)  # type: ignore[arg-type]
    )


def gpu(name: str, *holds: str, free_s: float | None = None, can_run: frozenset[int] | None = None) -> FleetGpu:
    held = frozenset(holds)
    of = Gpu(holds=held, at_risk=held, usual_load_s=15.0, free_s=free_s or 0.0)
    return FleetGpu(name=name, gpu=of, busy=free_s is not None, can_run=can_run)


def next_of(lines: list[WaitingLine], gpus: list[FleetGpu], *, steps: int = 500) -> dict[str, Next]:
    picture = Picture(now_s=100.0, lines=tuple(lines), gpus=tuple(gpus), files=FILES)
    return next_of_each(picture, forecast(picture, steps=steps))


def test_an_idle_one_takes_what_it_holds_now() -> None:
    found = next_of([line(1)], [gpu("gpu0@a", "a")])["gpu0@a"]

    assert found == Next(code="warm", line_id=1, index=0, models="a", in_s=0.0, load_s=0.0)
    assert next_sentence(found, FILES) == "It holds a.sft."


def test_one_at_work_takes_the_next_of_the_line_when_it_is_free() -> None:
    found = next_of([line(1, waiting=2)], [gpu("gpu0@a", "a"), gpu("gpu1@a", "a", free_s=3.0)])

    assert (found["gpu0@a"].index, found["gpu0@a"].in_s) == (0, 0.0)
    assert (found["gpu1@a"].index, found["gpu1@a"].in_s) == (1, 3.0)


def test_it_is_the_first_of_what_it_takes() -> None:
    found = next_of([line(1, since_s=2.0), line(2, since_s=1.0)], [gpu("gpu0@a", "a", free_s=3.0)])["gpu0@a"]

    assert (found.line_id, found.in_s) == (2, 3.0)


def test_models_that_nobody_holds_are_loaded() -> None:
    found = next_of([line(1, "b")], [gpu("gpu0@a", "a")])["gpu0@a"]

    assert (found.code, found.load_s) == ("unheld", 15.0)
    assert next_sentence(found, FILES) == "No GPU holds b.sft and vae.sft; loading takes about 15 s."


def test_models_of_which_the_holders_have_too_much_to_do_are_loaded_too() -> None:
    found = next_of([line(1, waiting=50)], [gpu("gpu0@a", "a", free_s=30.0), gpu("gpu1@a")])["gpu1@a"]

    assert found.code == "relief"
    assert next_sentence(found, FILES) == "The GPUs that hold a.sft have too much to do; loading takes about 15 s."


def test_a_job_without_models_needs_none() -> None:
    found = next_of([line(1, "")], [gpu("gpu0@a")])["gpu0@a"]

    assert (found.code, found.models) == ("no_models", "")


def test_a_deadline_comes_first() -> None:
    lines = [line(1, run_s=30.0), line(2, "b", since_s=50.0, start_by_s=110.0)]
    found = next_of(lines, [gpu("gpu0@a", "a")])["gpu0@a"]

    assert (found.code, found.line_id) == ("deadline", 2)
    loading = "The job would begin too late otherwise; loading b.sft and vae.sft takes about 15 s."
    assert next_sentence(found, FILES) == loading
    assert next_sentence(Next(code="deadline"), FILES) == "The job would begin too late otherwise."


@pytest.mark.parametrize(
    ("lines", "others", "can_run", "code"),
    [
        ([], [], None, "nothing_waits"),
        ([line(1, waiting=0)], [], None, "nothing_waits"),
        ([line(1)], [gpu("gpu0@a", "a")], frozenset(), "cannot_run"),
        ([line(1)], [gpu("gpu0@a", "a", free_s=3.0)], None, "left_to_others"),
    ],
)
def test_it_takes_nothing(
    lines: list[WaitingLine], others: list[FleetGpu], can_run: frozenset[int] | None, code: NextCode
) -> None:
    found = next_of(lines, [*others, gpu("gpu1@a", can_run=can_run)])["gpu1@a"]

    assert found == Next(code=code)


def test_a_forecast_that_was_cut_short_does_not_tell() -> None:
    gpus = [gpu("gpu0@a", "a", free_s=1.0), gpu("gpu1@a", "a", free_s=500.0)]
    found = next_of([line(1, waiting=1000)], gpus, steps=10)

    assert found["gpu0@a"].code == "warm"
    assert found["gpu1@a"] == Next(code="far", before=10)
    assert next_sentence(found["gpu1@a"], FILES) == "More than 10 jobs begin on other GPUs first."


@pytest.mark.parametrize("code", get_args(NextCode))
def test_each_reason_has_its_sentence(code: NextCode) -> None:
    words = next_sentence(Next(code=code), FILES)

    assert words[0].isupper()
    assert words.endswith(".")
    assert TAKES_NONE.code in get_args(NextCode)
