"""A template: a graph with open parameters, what they must be, and the graph they are filled into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.errors import ConfigurationError, InvalidParameter, InvalidRequest, InvalidWorkflow
from core.records.requirements import Requirements
from core.texts.json_types import JsonObject
from workflows.graphs.graph import Graph, all_sources, is_link, measure_depths, parse_graph
from workflows.templates.fill import (
    Draw,
    Filled,
    drawn_places,
    has_placeholder,
    open_parts,
    placeholders,
    substitute,
)
from workflows.templates.json_schema import json_schema
from workflows.templates.parameters import ANY, MAX_SEED, RANDOM_INT, Parameter, Scalar, shown
from workflows.templates.sidecar import MAX_PARAMETERS, Fault, Sidecar, undescribed

#: Drawn seeds stay below, so that every reader of JSON gets them back to the digit.
_MAX_DRAWN = 2**53 - 1
_MAX_NAMED = 50


@dataclass(frozen=True, kw_only=True)
class Template:
    """A graph with `{{NAME}}` placeholders, and its parameters."""

    name: str
    title: str
    description: str
    #: As it stands in the file; `fill` copies it.
    graph: Graph
    parameters: Mapping[str, Parameter]
    #: Files it brings along, by name. They are read when they are needed, and may be gone by then.
    files: Mapping[str, Path] = field(default_factory=dict)
    #: What its jobs require of a GPU, where they do not say themselves.
    requires: Requirements | None = None

    def fill(self, values: Mapping[str, Any], *, draw: Draw, coerce: bool = False) -> Filled:
        """Check the values, and put them into a copy of the graph.

        Parameters:
          values: by parameter name, in any case of letters.
          draw: for seeds that are not given, and each `__RANDOM_INT__`.
          coerce: the values come from a form: `"12"` is a number.
        Raises:
          InvalidRequest: an unknown name, a value that is missing or does not fit, a placeholder left over.
        """
        given = self._named(values)
        final: dict[str, Scalar] = {}
        for name, parameter in self.parameters.items():
            value = _final_value(parameter, given, draw, coerce)
            if value is not None:
                final[name] = value
        filling: dict[str, Scalar] = {}
        for name, value in final.items():
            filling |= self.parameters[name].filled(value)
        graph = substitute(self.graph, filling, draw=draw)
        for name in final:
            for node_id, input_name in self.parameters[name].targets:
                graph[node_id]["inputs"][input_name] = filling[name]
        drawn = [name for name, parameter in self.parameters.items() if _is_drawn(parameter, given)]
        return Filled(
            graph=graph,
            values=final,
            files=self._files_of(graph, final),
            requires=self.requires,
            drawn=(*drawn, *drawn_places(self.graph)),
        )

    def missing(self, values: Mapping[str, Any]) -> list[str]:
        """The required parameters that are not among the values. Raises as `fill` does for unknown names."""
        given = self._named(values)
        return [name for name, parameter in self.parameters.items() if parameter.required and name not in given]

    def json_schema(self) -> JsonObject:
        """JSON Schema (draft 2020-12) of the values that `fill` takes."""
        return json_schema(self.title or self.name, self.description, self.parameters.values())

    def _files_of(self, graph: Graph, final: Mapping[str, Scalar]) -> dict[str, Path]:
        """The files that a filled graph names, where the template says so and not a client's text."""
        if not self.files:
            return {}
        aimed = {target: name for name in final for target in self.parameters[name].targets}
        found: dict[str, Path] = {}
        for node_id, node in graph.items():
            for input_name, value in node["inputs"].items():
                if isinstance(value, str) and value in self.files:
                    name = aimed.get((node_id, input_name))
                    names = [name] if name else placeholders(self.graph[node_id]["inputs"][input_name])
                    if not any(self._is_free_text(each) for each in names):
                        found[value] = self.files[value]
        return found

    def _is_free_text(self, placeholder: str) -> bool:
        # A placeholder without a parameter is filled by somebody's choice, in the words of the template.
        parameter = self.parameters.get(placeholder)
        return parameter is not None and parameter.type in ("string", ANY)

    def _named(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if len(values) > MAX_PARAMETERS:
            raise InvalidRequest(f"There are {len(values)} parameters; at most {MAX_PARAMETERS} are accepted.")
        given: dict[str, Any] = {}
        for key, value in values.items():
            name = key.lower()
            if name not in self.parameters:
                known = ", ".join(list(self.parameters)[:_MAX_NAMED]) or "none"
                unknown = f"Unknown parameter {shown(key)} for {self.name}; there are: {known}."
                raise InvalidParameter(unknown, key[:100])
            if name in given:
                raise InvalidParameter(f"Parameter {name} is given twice.", name)
            given[name] = value
        return given


def _is_drawn(parameter: Parameter, given: Mapping[str, Any]) -> bool:
    return parameter.random and given.get(parameter.name, RANDOM_INT) == RANDOM_INT


def _final_value(parameter: Parameter, given: Mapping[str, Any], draw: Draw, coerce: bool) -> Scalar | None:
    """None: it is left out, and may be."""
    if _is_drawn(parameter, given):
        low = 0 if parameter.minimum is None else int(parameter.minimum)
        high = MAX_SEED if parameter.maximum is None else int(parameter.maximum)
        return draw(low, max(low, min(high, _MAX_DRAWN)))
    if parameter.name in given:
        return parameter.check(given[parameter.name], coerce=coerce)
    if parameter.default is not None:
        return parameter.check(parameter.default)
    if parameter.required:
        raise InvalidParameter(f"Parameter {parameter.name} is missing.", parameter.name)
    return None


def parse_template(name: str, graph: Any, sidecar: Any = None) -> Template:
    """A template from parsed JSON.

    Parameters:
      graph: an API-format graph, bare or as `{"input": {"workflow_json": graph}}`.
      sidecar: None: each placeholder is a required parameter.
    Raises:
      ConfigurationError: this is no graph, or `template_faults` finds something; it names all that is wrong.
    """
    try:
        parsed = parse_graph(unwrapped(graph))
    except InvalidWorkflow as exc:
        raise ConfigurationError(f"Template {name}: {exc.message}") from exc
    described = None if sidecar is None else Sidecar(sidecar)
    graph_faults, sidecar_faults = template_faults(parsed, described)
    if graph_faults or sidecar_faults:
        reasons = [reason for _, reason in graph_faults + sidecar_faults]
        raise ConfigurationError(f"Template {name}: " + "; ".join(reasons))
    return assemble(name, parsed, described)


def assemble(name: str, graph: Graph, sidecar: Sidecar | None, files: Mapping[str, Path] | None = None) -> Template:
    """The record, of parts that are known to be right."""
    return Template(
        name=name,
        title=sidecar.title if sidecar else "",
        description=sidecar.description if sidecar else "",
        graph=graph,
        parameters=sidecar.parameters if sidecar else undescribed(name for name, _ in _names(graph)),
        files=files or {},
        requires=sidecar.requires if sidecar else None,
    )


def unwrapped(value: Any) -> Any:
    """The graph inside `{"input": {..., "workflow_json": graph}}`, or the value itself."""
    wrapped = value.get("input") if isinstance(value, dict) else None
    if isinstance(wrapped, dict) and "class_type" not in wrapped and "workflow_json" in wrapped:
        return wrapped["workflow_json"]
    return value


def template_faults(graph: Graph, sidecar: Sidecar | None) -> tuple[list[Fault], list[Fault]]:
    """What is wrong with the graph, and what with the sidecar."""
    faults = [*_link_faults(graph), *_place_faults(graph)]
    names = dict(_names(graph))
    if sidecar is None:
        if len(names) > MAX_PARAMETERS:
            faults.append(((), f"it has {len(names)} placeholders; at most {MAX_PARAMETERS}"))
        return faults, []
    if sidecar.faults:
        return faults, sidecar.faults
    parameters = sidecar.parameters.values()
    further = {name for parameter in parameters for choice in parameter.choices for name in choice.values}
    faults += [
        ((node_id, "inputs"), f"node {node_id}: {{{{{name.upper()}}}}} has no parameter in the sidecar")
        for name, node_id in names.items()
        if name not in sidecar.parameters and name not in further
    ]
    return faults, list(_aim_faults(graph, sidecar.parameters, names.keys()))


def _names(graph: Graph) -> Iterator[tuple[str, str]]:
    """Each placeholder with the id of its node, as often as it occurs."""
    for node_id, node in graph.items():
        for name in placeholders(open_parts(node)):
            yield name, node_id


def _link_faults(graph: Graph) -> Iterator[Fault]:
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            if is_link(value) and value[0] not in graph and not has_placeholder(value):
                yield (
                    (node_id, name),
                    f"node {node_id}, input {name}: it links to node {shown(value[0])}, which is missing",
                )
    cycle = measure_depths(all_sources(graph), graph, {})
    if cycle:
        yield (cycle[0],), f"nodes {', '.join(cycle[:_MAX_NAMED])} depend on each other in a circle"


def _place_faults(graph: Graph) -> Iterator[Fault]:
    for node_id, node in graph.items():
        if has_placeholder(node["class_type"]):
            yield (node_id, "class_type"), f"node {node_id}: a class_type takes no placeholder"


def _aim_faults(graph: Graph, parameters: Mapping[str, Parameter], names: Any) -> Iterator[Fault]:
    """Parameters that go nowhere, or to a place that is not there."""
    filled_by: dict[str, str] = {}
    for name, parameter in parameters.items():
        where = ("parameters", name)
        further = {inner for choice in parameter.choices for inner in choice.values}
        if name not in names and not parameter.targets and not further:
            yield (
                where,
                f"parameter {name} goes nowhere: there is no {{{{{name.upper()}}}}} in the graph, and no target",
            )
        for inner in sorted(further):
            if inner not in names:
                yield (*where, "choices"), f"values fill {inner.upper()}, which is no placeholder of the graph"
            elif inner in parameters or inner in filled_by:
                yield (*where, "choices"), f"{inner.upper()} is filled by {filled_by.get(inner, inner)} already"
            filled_by.setdefault(inner, name)
        for node_id, input_name in parameter.targets:
            if node_id not in graph:
                yield (*where, "target"), f"target node {shown(node_id)} is missing"
            elif is_link(graph[node_id]["inputs"].get(input_name)):
                yield (*where, "target"), f"target {input_name} of node {node_id} is linked to another node"
