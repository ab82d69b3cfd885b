"""How long a graph takes is learned by its shape, from runs that tell."""

from __future__ import annotations

from typing import Any

import pytest

from comfy.client.history import History
from comfy.prompts.result import PromptResult
from tasks.runner.run_times import KEPT, Durations, gpu_seconds
from tests.fleet import work
from workflows.graphs.shape import shape_of


def ran(**fields: Any) -> PromptResult:
    """A prompt that ComfyUI worked on for 2.5 s."""
    history = History(prompt_id="p", status="success")
    values: dict[str, Any] = {"started_at_ms": 1_000, "finished_at_ms": 3_500, "cached_nodes": ()}
    return PromptResult(**{"prompt_id": "p", "outputs": [], "history": history, **values, **fields})


class TestDurations:
    def test_nothing_is_expected_of_a_shape_never_seen(self) -> None:
        assert Durations().expect("x") is None

    def test_the_newest_run_counts_most(self) -> None:
        durations = Durations()
        for seconds in (4.0, 4.0, 1.0, 1.0, 1.0):
            durations.learn("x", seconds)
        expected = durations.expect("x")
        assert expected is not None
        assert 1.0 < expected < 1.5

    def test_it_forgets_the_shapes_not_used_for_longest(self) -> None:
        durations = Durations()
        for number in range(KEPT + 10):
            durations.learn(str(number), 1.0)
            durations.learn("often", 1.0)
        assert durations.expect("0") is None
        assert durations.expect("often") == 1.0

    @pytest.mark.parametrize(
        ("cached", "seconds"),
        [((), 2.5), (("1",), 2.5), (("1", "2"), None), (("1", "2", "3"), None)],
    )
    def test_what_the_cache_saved_is_not_taken_for_speed(self, cached: tuple[str, ...], seconds: float | None) -> None:
        assert gpu_seconds(ran(cached_nodes=cached), work(2.5)) == seconds

    def test_without_comfyuis_clock_nothing_is_learned(self) -> None:
        assert gpu_seconds(ran(started_at_ms=None), work(2.5)) is None

    def test_seeds_colours_and_texts_do_not_change_the_shape(self) -> None:
        assert shape_of(work(1.0, seed=1, prefix="a")) == shape_of(work(1.0, seed=2, prefix="b"))

    @pytest.mark.parametrize("other", [work(2.0), work(1.0, steps=11)])
    def test_what_makes_it_longer_does(self, other: dict[str, Any]) -> None:
        assert shape_of(other) != shape_of(work(1.0))
