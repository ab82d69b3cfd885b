"""The graphs of a batch's jobs: from a template or a graph, with the values of each.

A template is filled as a whole once. For each further job only those nodes are filled again that what is varied, or
drawn, reaches; the others are the same objects in all graphs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.errors import InvalidRequest
from core.records.requirements import Requirements
from workflows.graphs.graph import Graph
from workflows.graphs.places import Place, find_place, with_values
from workflows.templates.fill import Draw, Filled, has_random, open_parts, placeholders
from workflows.templates.parameters import RANDOM_INT, Scalar, shown
from workflows.templates.template import Template


@dataclass(frozen=True, kw_only=True)
class Filling:
    """The graph of one job."""

    graph: Graph
    #: The values of its template's parameters, those drawn included; None for a plain graph.
    parameters: dict[str, Scalar] | None = None
    #: The template's own files that the graph names, by those names.
    files: Mapping[str, Path] = field(default_factory=dict)
    #: What was drawn: names of parameters, and places as `node.input`.
    drawn: tuple[str, ...] = ()


class GraphFillings:
    """The jobs of a plain graph."""

    def __init__(self, graph: Graph, names: list[str]) -> None:
        """Raises: InvalidRequest - no node has one of these, or two are the same place."""
        self._graph = graph
        self._places = _places(graph, names, ())

    def fill(self, varied: Mapping[str, Any]) -> Filling:
        """Return the graph of a job with these values."""
        return Filling(graph=with_values(self._graph, ((self._places[name], varied[name]) for name in varied)))


class TemplateFillings:
    """The jobs of a template."""

    def __init__(self, template: Template, given: Mapping[str, Any], names: list[str], draw: Draw) -> None:
        """Parameters:
          given: values of parameters that are not varied.
          names: of parameters, and places in the graph, that are.
        Raises: InvalidRequest - there is no such parameter or place, or it is given twice.
        """
        self._template = template
        self._given = dict(given)
        self._draw = draw
        lower = {name: name.lower() for name in names if name.lower() in template.parameters}
        self._parameters = lower
        self._refuse_twice(list(lower.values()))
        self._places = _places(template.graph, [name for name in names if name not in lower], template.parameters)
        self._whole: Filled | None = None
        self._narrow: Template | None = None

    def fill(self, varied: Mapping[str, Any]) -> Filling:
        """Return the graph of a job with these values. Raises InvalidRequest: one of them does not fit."""
        values = {**self._given, **{own: varied[name] for name, own in self._parameters.items()}}
        if self._whole is None or self._narrow is None:
            filled = self._whole = self._template.fill(values, draw=self._draw)
            self._narrow = self._narrowed()
            graph = filled.graph
        else:
            filled = self._narrow.fill(values, draw=self._draw)
            graph = {**self._whole.graph, **filled.graph}
        own = [(place, varied[name]) for name, place in self._places.items()]
        files = {**self._whole.files, **filled.files}
        drawn = tuple(name for name in self._whole.drawn if name not in varied)
        return Filling(graph=with_values(graph, own), parameters=filled.values, files=files, drawn=drawn)

    @property
    def requires(self) -> Requirements | None:
        """What the template requires of a GPU."""
        return self._template.requires

    def _refuse_twice(self, names: list[str]) -> None:
        given = {name.lower() for name in self._given}
        for name in names:
            if names.count(name) > 1:
                raise InvalidRequest(f"over varies the parameter {name} twice.")
            if name in given:
                raise InvalidRequest(f"The parameter {name} is both in parameters and in over: leave one out.")

    def _narrowed(self) -> Template:
        """Return the template with those nodes alone in which jobs differ."""
        template = self._template
        given = {name.lower(): value for name, value in self._given.items()}
        varied = set(self._parameters.values())
        for name, parameter in template.parameters.items():
            if parameter.random and given.get(name, RANDOM_INT) == RANDOM_INT:
                varied.add(name)
        reached = varied | {
            inner for name in varied for choice in template.parameters[name].choices for inner in choice.values
        }
        targets = {node_id for name in varied for node_id, _ in template.parameters[name].targets}
        graph = {
            node_id: node
            for node_id, node in template.graph.items()
            if node_id in targets or has_random(node) or reached & set(placeholders(open_parts(node)))
        }
        parameters = {
            name: replace(parameter, targets=tuple(aim for aim in parameter.targets if aim[0] in graph))
            for name, parameter in template.parameters.items()
        }
        return replace(template, graph=graph, parameters=parameters)


def _places(graph: Graph, names: list[str], parameters: Iterable[str]) -> dict[str, Place]:
    places: dict[str, Place] = {}
    for name in names:
        place = find_place(graph, name, field="over", parameters=parameters)
        if place in places.values():
            raise InvalidRequest(f"over.{name[:60]}: this input is varied twice ({shown(name)}).")
        places[name] = place
    return places
