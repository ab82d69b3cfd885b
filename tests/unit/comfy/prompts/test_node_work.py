"""How much of a prompt each node is: guessed, learned, and what the progress makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from comfy.prompts.frames import Event
from comfy.prompts.node_work import ExpectedWork, NodeTimes, steps_of
from comfy.prompts.progress import ProgressTracker


def _graph(steps: object = 18, sampler: str = "KSampler") -> dict[str, dict[str, Any]]:
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {}},
        "2": {"class_type": sampler, "inputs": {"model": ["1", 0], "steps": steps}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
    }


def _apply(tracker: ProgressTracker, kind: str, **data: Any) -> None:
    tracker.apply(Event(kind=kind, data=data))


@pytest.mark.parametrize(
    ("graph", "steps"),
    [
        (_graph(18), 18.0),
        (_graph(["9", 0]), 20.0),
        (_graph(-1), 20.0),
        (_graph(True, "KSamplerAdvanced"), 1.0),
        (_graph(18, "KSamplerSelect"), 1.0),
        (_graph(10**12), 10_000.0),
        ({**_graph(None), "4": {"class_type": "BasicScheduler", "inputs": {"steps": 30}}}, 30.0),
    ],
)
def test_a_sampler_counts_by_its_steps(graph: dict[str, Any], steps: float) -> None:
    assert steps_of(graph)["2"] == steps
    assert steps_of(graph)["1"] == 1.0


def test_the_value_counts_work_and_not_nodes() -> None:
    tracker = ProgressTracker(_graph(18))
    _apply(tracker, "executing", node="1")
    _apply(tracker, "executing", node="2")
    assert tracker.latest.value == pytest.approx(1 / 20)
    assert tracker.latest.nodes_done == 1
    _apply(tracker, "progress", node="2", value=9, max=18)
    assert tracker.latest.value == pytest.approx(10 / 20)
    assert tracker.latest.remaining_s is None, "a guess is no time"


def test_what_a_node_took_is_measured_and_known_the_next_time() -> None:
    now_s = 100.0
    times = NodeTimes()
    tracker = ProgressTracker(_graph(), clock=lambda: now_s)
    for node, took_s in (("1", 6.0), ("2", 3.0), ("3", 1.0)):
        _apply(tracker, "executing", node=node)
        now_s += took_s
    _apply(tracker, "executed", node="3")
    assert tracker.seconds == {"1": 6.0, "2": 3.0, "3": 1.0}
    times.learn(_graph(), "a", tracker.seconds)

    again = ProgressTracker(_graph(), work=times.expect(_graph(), "a"))
    _apply(again, "executing", node="2")
    _apply(again, "progress", node="2", value=9, max=18)
    assert again.latest.remaining_s == pytest.approx(8.5)
    _apply(again, "executed", node="1")
    assert again.latest.value == pytest.approx(0.75)
    assert again.latest.remaining_s == pytest.approx(2.5)


def test_another_graph_is_expected_by_its_classes() -> None:
    times = NodeTimes()
    times.learn(_graph(18), "a", {"1": 6.0, "2": 9.0, "3": 1.0})

    other = {"x": _graph(36)["2"], "y": _graph()["3"]}
    assert times.expect(other, "b") == ExpectedWork(seconds={"x": 18.0, "y": 1.0}, is_learned=True)
    unknown = times.expect({**other, "z": {"class_type": "Unheard", "inputs": {}}}, "b")
    assert not unknown.is_learned


def test_cached_nodes_teach_nothing_and_are_no_work() -> None:
    tracker = ProgressTracker(_graph(18))
    _apply(tracker, "execution_cached", nodes=["1", None, "not there"])
    _apply(tracker, "progress_state", nodes={"2": {"value": 9, "max": 18, "state": "running"}})
    assert tracker.latest.value == pytest.approx(9 / 19)
    assert tracker.seconds == {}


def test_only_so_many_shapes_are_kept() -> None:
    times = NodeTimes()
    for number in range(300):
        times.learn(_graph(), str(number), {"1": float(number + 1)})
    assert times.expect(_graph(), "299").seconds["1"] == 300.0
    assert times.expect(_graph(), "0").seconds["1"] != 1.0, "forgotten: its class is what is known"
