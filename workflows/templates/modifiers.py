"""Modifiers: named ways to turn a few values into a graph; most of them are a template."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from core.errors import ConfigurationError, InvalidRequest
from workflows.graphs.graph import parse_graph
from workflows.templates.fill import Draw, Filled
from workflows.templates.library import Library
from workflows.templates.parameters import shown
from workflows.templates.sidecar import MAX_PARAMETERS
from workflows.templates.template import Template, assemble, unwrapped

#: `(modifications, library, name of the default workflow or None, draw)` -> a graph ready to submit.
Modifier = Callable[[Mapping[str, Any], Library, str | None, Draw], Filled]

#: The modification that is a graph itself.
GRAPH_KEY = "workflow_json"


def draw_between(lowest: int, highest: int) -> int:
    """An integer between the two, both included, that nobody can foresee."""
    return lowest + secrets.randbelow(highest - lowest + 1)


def build(
    modifier: str,
    modifications: Mapping[str, Any],
    library: Library,
    default_workflow: str | None,
    *,
    draw: Draw = draw_between,
) -> Filled:
    """The graph that a modifier makes of its modifications.

    Parameters:
      default_workflow: name of the template that `RawWorkflow` fills if it is given no graph; None: there is none.
    Raises:
      InvalidRequest: an unknown modifier or modification, or a value that does not fit.
      InvalidWorkflow: `workflow_json` of `RawWorkflow` is no graph.
      ConfigurationError: the library lacks a template that the modifier needs.
    """
    if modifier not in MODIFIERS:
        raise InvalidRequest(f"Unknown modifier {shown(modifier)}; there are: {', '.join(MODIFIERS)}.")
    return MODIFIERS[modifier](modifications, library, default_workflow, draw)


def template_of(modifier: str, modifications: Mapping[str, Any], default_workflow: str | None) -> str | None:
    """The name of the template that a modifier fills; None: the modifications bring the graph."""
    if modifier in TEMPLATES:
        return TEMPLATES[modifier]
    return None if GRAPH_KEY in modifications else default_workflow


def graph_template(value: Any) -> Template:
    """A graph that comes with a request, as a template: each of its placeholders must be given.

    Raises:
      InvalidWorkflow: it is no graph. What else may be wrong with it, the check against a catalogue tells.
      InvalidRequest: it has too many placeholders.
    """
    template = assemble(GRAPH_KEY, parse_graph(unwrapped(value)), None)
    if len(template.parameters) > MAX_PARAMETERS:
        found = len(template.parameters)
        raise InvalidRequest(f"The workflow has {found} placeholders; at most {MAX_PARAMETERS} are accepted.")
    return template


def _from_template(
    name: str, modifications: Mapping[str, Any], library: Library, _default_workflow: str | None, draw: Draw
) -> Filled:
    return _installed(library, name).fill(modifications, draw=draw)


def _raw_workflow(
    modifications: Mapping[str, Any], library: Library, default_workflow: str | None, draw: Draw
) -> Filled:
    if GRAPH_KEY in modifications:
        values = {key: value for key, value in modifications.items() if key != GRAPH_KEY}
        return graph_template(modifications[GRAPH_KEY]).fill(values, draw=draw)
    if default_workflow is None:
        raise InvalidRequest("RawWorkflow needs modifications.workflow_json: no default workflow is set here.")
    return _installed(library, default_workflow).fill(modifications, draw=draw)


def _installed(library: Library, name: str) -> Template:
    """A template that must be there: that it is not is no fault of the client."""
    try:
        return library.get(name)
    except InvalidRequest as exc:
        raise ConfigurationError(f"A workflow this server needs is missing: {exc.message}") from exc


#: Modifiers that stand for one template.
TEMPLATES: Mapping[str, str] = {"Text2Image": "text2image", "Image2Image": "image2image"}
MODIFIERS: Mapping[str, Modifier] = {
    **{modifier: partial(_from_template, template) for modifier, template in TEMPLATES.items()},
    "RawWorkflow": _raw_workflow,
}
