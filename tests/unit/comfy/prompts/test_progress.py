"""Progress computed from event sequences that real servers (0.3.64, 0.10.0) sent."""

from __future__ import annotations

from typing import Any

from comfy.prompts.frames import Event
from comfy.prompts.progress import ProgressTracker
from core.records.progress import Progress

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {}},
    "2": {"class_type": "T_Slow", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
}
Step = tuple[str, dict[str, Any]]


def _state(**nodes: tuple[float, float, str]) -> Step:
    """A `progress_state`; keyword `n2=(1, 3, "running")` is node 2 at step 1 of 3."""
    return "progress_state", {
        "nodes": {
            name[1:]: {"value": value, "max": maximum, "state": state, "node_id": name[1:], "display_node_id": name[1:]}
            for name, (value, maximum, state) in nodes.items()
        }
    }


def _run(tracker: ProgressTracker, *steps: Step) -> list[Progress]:
    points = [tracker.apply(Event(kind=kind, data=data)) for kind, data in steps]
    return [point for point in points if point is not None]


def _executing(node: str | None) -> Step:
    return "executing", {"node": node, "display_node": node}


NORMAL: list[Step] = [
    ("execution_start", {}),
    ("execution_cached", {"nodes": []}),
    _state(n1=(0.0, 1.0, "running")),
    _executing("1"),
    _state(n1=(1.0, 1.0, "finished")),
    _state(n1=(1.0, 1.0, "finished"), n2=(0.0, 1.0, "running")),
    _executing("2"),
    _state(n1=(1.0, 1.0, "finished"), n2=(1, 3, "running")),
    ("progress", {"value": 1, "max": 3, "node": "2"}),
    _state(n1=(1.0, 1.0, "finished"), n2=(3, 3, "running")),
    ("progress", {"value": 3, "max": 3, "node": "2"}),
    _state(n1=(1.0, 1.0, "finished"), n2=(3, 3, "finished")),
    _state(n1=(1.0, 1.0, "finished"), n2=(3, 3, "finished"), n3=(0.0, 1.0, "running")),
    _executing("3"),
    ("executed", {"node": "3", "display_node": "3", "output": {}}),
    _state(n1=(1.0, 1.0, "finished"), n2=(3, 3, "finished"), n3=(1.0, 1.0, "finished")),
    ("execution_success", {}),
    _executing(None),
]


def test_a_normal_run_climbs_to_one() -> None:
    points = _run(ProgressTracker(GRAPH), *NORMAL)
    values = [point.value for point in points]
    assert values == sorted(values)
    assert values[-1] == 1.0
    assert points[-1].nodes_done == points[-1].nodes_total == 3


def test_a_step_inside_a_node_counts_as_its_part() -> None:
    tracker = ProgressTracker(GRAPH)
    _run(tracker, *NORMAL[:9])
    assert tracker.latest == Progress(
        value=(1 + 1 / 3) / 3,
        nodes_done=1,
        nodes_total=3,
        current_node="2",
        current_node_class="T_Slow",
        step=1,
        steps=3,
    )


def test_what_current_servers_say_beside_it_changes_nothing() -> None:
    """They tell what a node is busy with, and of files that have become assets."""
    more: list[Step] = []
    for kind, data in NORMAL:
        if kind == "progress_state":
            data = {"nodes": {node: {**state, "activity": "loading"} for node, state in data["nodes"].items()}}
        more += [("assets.added", {"id": "1"}), (kind, data)]
    assert _run(ProgressTracker(GRAPH), *more) == _run(ProgressTracker(GRAPH), *NORMAL)


def test_the_step_is_gone_with_its_node() -> None:
    tracker = ProgressTracker(GRAPH)
    _run(tracker, *NORMAL[:14])
    assert (tracker.latest.current_node, tracker.latest.step, tracker.latest.steps) == ("3", None, None)


def test_cached_nodes_are_done_before_anything_runs() -> None:
    tracker = ProgressTracker(GRAPH)
    assert _run(tracker, ("execution_cached", {"nodes": ["1", "2"]}))[-1].nodes_done == 2
    assert _run(tracker, _executing("3"))[-1].value == 0.0, "what the cache serves is no work"


def test_without_progress_state_the_next_node_finishes_the_one_before() -> None:
    tracker = ProgressTracker(GRAPH)
    _run(tracker, _executing("1"), _executing("2"), ("progress", {"value": 5, "max": 10, "node": "2"}))
    assert (tracker.latest.nodes_done, tracker.latest.value) == (1, 1.5 / 3)


def test_async_nodes_run_side_by_side() -> None:
    tracker = ProgressTracker(GRAPH)
    both = _state(n1=(1, 2, "running"), n2=(1, 4, "running"))
    _run(tracker, _state(n1=(0, 1, "running")), _executing("1"), _executing("2"), both)
    assert (tracker.latest.nodes_done, tracker.latest.value) == (0, 0.75 / 3)


def test_nodes_of_an_expansion_do_not_count_but_show_their_parent() -> None:
    tracker = ProgressTracker(GRAPH)
    child = (
        "progress_state",
        {
            "nodes": {
                "2": {"value": 0, "max": 1, "state": "running", "display_node_id": "2"},
                "2.0.0.1": {"value": 1, "max": 1, "state": "finished", "display_node_id": "2"},
                "2.0.0.2": {"value": 4, "max": 8, "state": "running", "display_node_id": "2"},
            }
        },
    )
    _run(tracker, _executing("2"), ("executing", {"node": "2.0.0.2", "display_node": "2"}), child)
    assert (tracker.latest.nodes_done, tracker.latest.current_node, tracker.latest.step) == (0, "2", 4)


def test_a_lazy_node_that_starts_over_does_not_take_progress_back() -> None:
    tracker = ProgressTracker(GRAPH)
    _run(tracker, _state(n3=(1, 2, "running")), _state(n3=(0, 2, "running")))
    assert tracker.latest.value == 0.5 / 3


def test_a_caller_who_knows_that_only_two_nodes_run_sees_halves() -> None:
    tracker = ProgressTracker(GRAPH, nodes_total=2)
    _run(tracker, _state(n1=(1, 1, "finished")))
    assert tracker.latest.value == 0.5


def test_more_nodes_than_announced_never_pass_one() -> None:
    tracker = ProgressTracker(GRAPH, nodes_total=1)
    _run(tracker, ("execution_cached", {"nodes": ["1", "2", "3"]}))
    assert (tracker.latest.value, tracker.latest.nodes_done) == (1.0, 1)


def test_nothing_new_is_not_reported() -> None:
    tracker = ProgressTracker(GRAPH)
    state = _state(n1=(1, 1, "finished"))
    assert len(_run(tracker, state, state, ("execution_start", {}), ("unheard_of", {"nodes": 3}))) == 1


def test_odd_numbers_are_ignored() -> None:
    tracker = ProgressTracker(GRAPH)
    odd: list[Step] = [
        ("progress", {"value": None, "max": 3, "node": "2"}),
        ("progress", {"value": 1, "max": 0, "node": "2"}),
    ]
    assert _run(tracker, *odd, ("progress_state", {"nodes": {"2": "running"}})) == []
