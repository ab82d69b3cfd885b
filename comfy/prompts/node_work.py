"""How much of a prompt's work each node is: guessed from the graph, and learned from what ran on this instance."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Shapes and classes remembered, the least recently used forgotten first.
KEPT = 256
#: Weight of the newest time in an average.
NEWEST = 0.5
#: What a sampler is taken for whose graph says nothing about steps; any other node counts as one step.
USUAL_STEPS = 20
MAX_STEPS = 10_000
#: Seconds of a step while nothing at all has run here.
STEP_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ExpectedWork:
    """Seconds that each node of one graph should take, by its id."""

    seconds: Mapping[str, float]
    #: Every one of them is known from a node of its class; otherwise only their relation means something.
    is_learned: bool = False


class NodeTimes:
    """What nodes took on one instance. Not more than an estimate, so it needs no lock: a lost update costs nothing."""

    def __init__(self) -> None:
        #: `{shape of a graph: {node id: seconds}}`.
        self._by_shape: OrderedDict[str, dict[str, float]] = OrderedDict()
        #: `{class: seconds of one step}`.
        self._by_class: OrderedDict[str, float] = OrderedDict()

    def expect(self, graph: Mapping[str, Any], shape: str) -> ExpectedWork:
        """Return what a graph's nodes should take: as in the last graph of its shape, else as others of their class."""
        same = self._by_shape.get(shape, {})
        seconds: dict[str, float] = {}
        is_learned = True
        for node_id, steps in steps_of(graph).items():
            of_class = self._by_class.get(graph[node_id]["class_type"])
            is_learned = is_learned and (node_id in same or of_class is not None)
            seconds[node_id] = same.get(node_id, steps * (STEP_S if of_class is None else of_class))
        return ExpectedWork(seconds=seconds, is_learned=is_learned)

    def learn(self, graph: Mapping[str, Any], shape: str, seconds: Mapping[str, float]) -> None:
        """Learn from a prompt that ran whole how long its nodes took; those that the cache served are missing."""
        known = self._by_shape.pop(shape, {})
        steps = steps_of(graph)
        for node_id, took_s in seconds.items():
            known[node_id] = _average(known.get(node_id), took_s)
            name, each_s = graph[node_id]["class_type"], took_s / steps[node_id]
            self._by_class[name] = _average(self._by_class.pop(name, None), each_s)
        self._by_shape[shape] = known
        for remembered in (self._by_shape, self._by_class):
            while len(remembered) > KEPT:
                remembered.popitem(last=False)


def steps_of(graph: Mapping[str, Any]) -> dict[str, float]:
    """`{node id: steps}`: those of samplers, and one for every other node."""
    told = [steps for node in graph.values() if (steps := _steps(node)) is not None]
    usual = max(told, default=USUAL_STEPS)
    return {node_id: (_steps(node) or usual) if _samples(node) else 1.0 for node_id, node in graph.items()}


def _samples(node: Mapping[str, Any]) -> bool:
    # KSamplerSelect and its like only choose how.
    name = str(node.get("class_type")).lower()
    return "sampler" in name and "select" not in name


def _steps(node: Mapping[str, Any]) -> float | None:
    inputs = node.get("inputs")
    steps = inputs.get("steps") if isinstance(inputs, Mapping) else None
    return float(min(steps, MAX_STEPS)) if isinstance(steps, int) and steps > 0 else None


def _average(known: float | None, newest: float) -> float:
    return newest if known is None else known + NEWEST * (newest - known)
