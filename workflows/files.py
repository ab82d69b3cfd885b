"""Whether a refused graph only lacks files: those may have come after the catalogue was read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from core.errors import NodeErrors
from workflows.file_names import leads_elsewhere
from workflows.graph import Graph

#: Nobody adds a sampler while a server runs: what is to be a file has an ending, or its class loads something.
_FILE = re.compile(r".+\.[A-Za-z0-9]*[A-Za-z][A-Za-z0-9]*")


def lacks_only_files(graph: Graph, node_errors: NodeErrors) -> bool:
    """Whether every one of these errors is about the name of a file that is not there.

    Parameters:
      graph: the graph they are about.
      node_errors: as `check_graph` raises them.
    """
    return bool(node_errors) and all(
        _is_missing_file(graph[node_id], error) for node_id, entry in node_errors.items() for error in entry["errors"]
    )


def _is_missing_file(node: Mapping[str, Any], error: Mapping[str, Any]) -> bool:
    if error["type"] not in ("value_not_in_list", "custom_validation_failed"):
        return False
    value = node["inputs"].get(error["extra_info"]["input_name"])
    if type(value) is dict:
        value = value.get("__value__")
    if not isinstance(value, str) or leads_elsewhere(value):
        return False
    return _FILE.fullmatch(value) is not None or "Load" in node["class_type"]
