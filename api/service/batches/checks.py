"""Whether all jobs of a batch can run: judged once for those that are alike, and so are kept.

Jobs are *alike* if their graphs differ only in numbers and harmless texts. Of these one is judged as any job is, and
each that has the least or the largest number of an input. Whatever else is varied, files above all, is judged by
itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from api.service.batches.naming import in_job
from api.service.job_check import JobCheck, JudgedJob
from core.graph_differences import differences
from core.records.job import new_job_id
from core.records.job_request import AcceptedJob, JobRequest
from core.texts.stored_json import json_text
from workflows.graphs.graph import Graph
from workflows.graphs.node_facts import GraphFacts
from workflows.graphs.references import put_all

#: Jobs that are looked at before other requests of this process are let in.
TOGETHER = 50

_Input: TypeAlias = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class CheckedJobs:
    """Jobs that can run, in the order of their requests, and the graphs that they are different from."""

    jobs: tuple[AcceptedJob, ...]
    #: By id, JSON text.
    graphs: dict[str, str]
    #: How many jobs of their tenant may wait, with these; None: nothing is to be held against that.
    max_waiting: int | None = None


@dataclass(kw_only=True)
class _Alike:
    """Jobs of which one stands for all: their places among the requests."""

    places: list[int] = field(default_factory=list)
    #: Of each input with free numbers: the least and the largest, and whose they are.
    extremes: dict[_Input, tuple[float, int, float, int]] = field(default_factory=dict)

    def add(self, place: int, numbers: Iterable[tuple[_Input, float]]) -> None:
        """Add a job with these free numbers."""
        self.places.append(place)
        for where, number in numbers:
            low, low_at, high, high_at = self.extremes.get(where, (number, place, number, place))
            if number < low:
                low, low_at = number, place
            if number > high:
                high, high_at = number, place
            self.extremes[where] = (low, low_at, high, high_at)

    @property
    def outermost(self) -> list[int]:
        """The places of all jobs with a least or a largest number."""
        return sorted({place for _, low_at, _, high_at in self.extremes.values() for place in (low_at, high_at)})


class BatchCheck:
    """Checks the jobs of batches."""

    def __init__(self, check: JobCheck) -> None:
        self._check = check

    def accept(self, requests: Sequence[JobRequest]) -> CheckedJobs:
        """Check all jobs, and have their files in storage. Raises as `JobCheck.accept`, and names the job."""
        return _Run(self._check, requests).checked()


class _Run:
    """One check of the jobs of a request."""

    def __init__(self, check: JobCheck, requests: Sequence[JobRequest]) -> None:
        self._check = check
        self._requests = requests
        # Jobs that come at the same time are run in the order of their ids.
        self._ids = sorted(new_job_id() for _ in requests)
        #: By place: what its graph has different from that of the first job with its nodes.
        self._differences: dict[int, list[Any]] = {}

    def checked(self) -> CheckedJobs:
        accepted: dict[int, AcceptedJob] = {}
        graphs: dict[str, str] = {}
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, request in enumerate(self._requests):
            _let_others_in(place)
            groups.setdefault(_skeleton(request.graph), []).append(place)
        for places in groups.values():
            shared_id, shared = str(uuid.uuid4()), _Shared(self._requests[places[0]].graph)
            for alike in self._alike(places):
                for place, job in self._accepted(alike, shared):
                    accepted[place] = replace(job, shared_graph=shared_id)
            graphs[shared_id] = json_text(shared.graph)
        return CheckedJobs(jobs=tuple(accepted[place] for place in range(len(self._requests))), graphs=graphs)

    def _alike(self, places: Sequence[int]) -> Iterable[_Alike]:
        """Part jobs with the same nodes into those that are alike."""
        base = self._requests[places[0]].graph
        varied: dict[_Input, None] = {}
        nodes: dict[int, Any] = {}
        for number, place in enumerate(places):
            _let_others_in(number)
            self._differences[place] = differences(base, self._requests[place].graph)
            inputs, *whole = self._differences[place]
            varied |= {(node_id, name): None for node_id, changed in inputs.items() for name in changed}
            if whole:
                nodes[place] = whole
        found: dict[str, _Alike] = {}
        for number, place in enumerate(places):
            _let_others_in(number)
            request, numbers, key = self._requests[place], [], []
            for node_id, name in varied:
                node = request.graph[node_id]
                value = node["inputs"].get(name)
                freedom = self._check.catalogues.freedom(node["class_type"], name, value)
                key.append(freedom or [value])
                if freedom == "number":
                    numbers.append(((node_id, name), value))
            told = json_text([request.template, sorted(request.files), key, nodes.get(place)])
            found.setdefault(told, _Alike()).add(place, numbers)
        return found.values()

    def _accepted(self, alike: _Alike, shared: _Shared) -> Iterable[tuple[int, AcceptedJob]]:
        first = alike.places[0]
        judged = self._judged(first)
        if all(self._judged(place).verdict == judged.verdict for place in alike.outermost if place != first):
            yield from self._made(judged, alike.places, shared)
            return
        # Some instances take only a part of these numbers: which ones, only each number tells.
        for place in alike.places:
            yield from self._made(self._judged(place), [place], shared)

    def _judged(self, place: int) -> JudgedJob:
        with in_job(place, self._requests[place].varied):
            return self._check.judge(self._requests[place], self._ids[place])

    def _made(self, judged: JudgedJob, places: Sequence[int], shared: _Shared) -> Iterable[tuple[int, AcceptedJob]]:
        """Make the jobs at these places, for all of which the first one was judged."""
        with in_job(places[0], self._requests[places[0]].varied):
            files = self._check.bring(judged)
        accepted, references = self._check.finished(judged, files), judged.draft.references
        for number, place in enumerate(places):
            _let_others_in(number)
            # Names hold the id of the job that they are for.
            own = [replace(file, name=file.name.replace(judged.id, self._ids[place])) for file in files]
            graph, changed = self._requests[place].graph, self._differences[place]
            if references:
                graph = put_all(graph, references, [file.name for file in own])
                changed = differences(shared.graph, graph)
            shape, models = shared.traits(graph, changed)
            yield (
                place,
                replace(
                    accepted,
                    request=self._requests[place],
                    id=self._ids[place],
                    graph_text=json_text(changed),
                    shape=shape,
                    models=models,
                    inputs=tuple(dict.fromkeys(own)),
                ),
            )


class _Shared:
    """The graph that several jobs share."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._facts = GraphFacts(graph)
        self._traits: dict[tuple[Any, ...], tuple[str, tuple[str, ...]]] = {}

    def traits(self, graph: Graph, changed: Sequence[Any]) -> tuple[str, tuple[str, ...]]:
        """Return the shape and the model files of a graph, most of which is shared. Parameters: its `differences`."""
        facts = self._facts.with_nodes(graph, [node_id for part in changed for node_id in part])
        own = tuple((node_id, facts.nodes[node_id].shape) for part in changed for node_id in part)
        models = tuple(facts.nodes[node_id].models for part in changed for node_id in part)
        found = self._traits.get((own, models))
        if found is None:
            found = self._traits[own, models] = facts.shape, facts.models
        return found


def _skeleton(graph: Graph) -> tuple[Any, ...]:
    """What graphs have in common that share one: their nodes, in order, with their classes."""
    return tuple((node_id, node["class_type"]) for node_id, node in graph.items())


def _let_others_in(number: int) -> None:
    if number % TOGETHER == 0:
        time.sleep(0)
