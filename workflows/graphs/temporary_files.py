"""Files that come and go while a server runs: those that a catalogue does not list yet, and those of single jobs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from core.errors import NodeErrors
from workflows.graphs.file_names import leads_elsewhere, names_a_jobs_file
from workflows.graphs.graph import Catalogue, Graph

#: Nobody adds a sampler while a server runs: what is to be a file has an ending, or its class loads something.
_FILE = re.compile(r".+\.[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*")


def lacks_only_files(graph: Graph, node_errors: NodeErrors) -> bool:
    """Whether every one of these errors is about the name of a file that is not there.

    Parameters:
      graph: the graph they are about.
      node_errors: as `check_graph` raises them.
    """
    return bool(node_errors) and all(
        is_missing_file(graph[node_id], error) for node_id, entry in node_errors.items() for error in entry["errors"]
    )


def is_missing_file(node: Mapping[str, Any], error: Mapping[str, Any]) -> bool:
    """Return whether an error of a node is about the name of a file that is not there."""
    if error["type"] not in ("value_not_in_list", "custom_validation_failed"):
        return False
    value = node["inputs"].get(error["extra_info"]["input_name"])
    if type(value) is dict:
        value = value.get("__value__")
    if not isinstance(value, str) or leads_elsewhere(value):
        return False
    return _FILE.fullmatch(value) is not None or "Load" in node["class_type"]


def without_jobs_files(object_info: Catalogue) -> dict[str, Any]:
    """A catalogue without what was staged for single jobs, which comes and goes with them, and no other job may name.

    A graph is judged by the names of its own files beside the catalogue.
    """
    return {class_type: _without_jobs_files(info) for class_type, info in object_info.items()}


def _without_jobs_files(info: Any) -> Any:
    declared = info.get("input") if isinstance(info, Mapping) else None
    if not isinstance(declared, Mapping):
        return info
    changed: dict[str, Any] = {}
    for category in ("required", "optional"):
        inputs = declared.get(category)
        if not isinstance(inputs, Mapping):
            continue
        for name, spec in inputs.items():
            shorter = _shorter(spec)
            if shorter is not None:
                changed.setdefault(category, dict(inputs))[name] = shorter
    return {**info, "input": {**declared, **changed}} if changed else info


def _shorter(spec: Any) -> list[Any] | None:
    """The declaration of one input without the files of jobs among its options; None if there are none."""
    if not isinstance(spec, (list, tuple)) or not spec:
        return None
    if isinstance(spec[0], list):
        kept = _kept(spec[0])
        return None if kept is None else [kept, *spec[1:]]
    options = spec[1].get("options") if len(spec) > 1 and isinstance(spec[1], Mapping) else None
    kept = _kept(options) if isinstance(options, list) else None
    return None if kept is None else [spec[0], {**spec[1], "options": kept}, *spec[2:]]


def _kept(options: list[Any]) -> list[Any] | None:
    # Ids are long, and most names are not: a catalogue holds a hundred thousand of them.
    kept = [each for each in options if not (isinstance(each, str) and len(each) > 35 and names_a_jobs_file(each))]
    return kept if len(kept) < len(options) else None
