"""What a graph lacks on one kind of instance, thing by thing, and where else these things are."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from core.errors import NodeErrors
from workflows.graphs.catalogue import CompiledCatalogue
from workflows.graphs.fetchable import MAX_LOOKED_AT, MAX_NEAREST, Folders, has_folder_for, nearest_files
from workflows.graphs.graph import Graph
from workflows.graphs.node_errors import said
from workflows.graphs.temporary_files import is_missing_file

Kind: TypeAlias = Literal["node", "model", "input"]
#: From 0 to 1, as difflib counts it: classes of one pack have much of their names in common.
LIKENESS = 0.7


@dataclass(frozen=True, kw_only=True)
class Lack:
    """A class of nodes, a model file or an input file that is not there. The same where a graph needs it twice."""

    kind: Kind
    #: The class, or the file as the graph calls it.
    name: str
    #: Of a file: the class and the input that take it.
    class_type: str = ""
    input_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Lacking:
    """All that keeps a graph from running on one kind of instance."""

    #: What is not there, and the nodes that need it.
    lacks: Mapping[Lack, tuple[str, ...]] = field(default_factory=dict)
    #: What else is wrong, in sentences.
    others: tuple[str, ...] = ()


def lacking(graph: Graph, node_errors: NodeErrors, catalogue: CompiledCatalogue) -> Lacking:
    """Return what errors that `check_graph` raised by a catalogue are about."""
    lacks: dict[Lack, list[str]] = {}
    others = []
    for node_id, entry in node_errors.items():
        for error in entry["errors"]:
            lack = _lack(graph, node_id, error, catalogue)
            if lack is None:
                others.append(f"Node {node_id} ({entry['class_type']}): {said(error)}")
            else:
                lacks.setdefault(lack, []).append(node_id)
    return Lacking(lacks={lack: tuple(nodes) for lack, nodes in lacks.items()}, others=tuple(others))


def is_there(lack: Lack, catalogue: CompiledCatalogue) -> bool:
    """Return whether instances with a catalogue have what others lack."""
    if lack.kind == "node":
        return lack.name in catalogue
    return lack.name in _listed(lack, catalogue)


def nearest(lack: Lack, catalogues: Iterable[CompiledCatalogue], manifest: Folders) -> list[str]:
    """Return the names most like one that is not there, of all that instances have or could fetch."""
    found = list(catalogues)
    if lack.kind == "node":
        classes = dict.fromkeys(name for catalogue in found for name in catalogue)
        return difflib.get_close_matches(lack.name, list(classes)[:MAX_LOOKED_AT], n=MAX_NEAREST, cutoff=LIKENESS)
    listed = [name for catalogue in found for name in _listed(lack, catalogue)]
    # What clients upload is in no manifest.
    return nearest_files(
        lack.name, (lack.class_type, lack.input_name), listed, manifest if lack.kind == "model" else {}
    )


def is_fetchable(lack: Lack, manifest: Folders) -> bool:
    """Return whether a manifest has the file that is not there, in a folder that its loader looks into."""
    return lack.kind == "model" and has_folder_for((lack.class_type, lack.input_name), manifest.get(lack.name, ()))


def _lack(graph: Graph, node_id: str, error: Mapping[str, Any], catalogue: CompiledCatalogue) -> Lack | None:
    node = graph.get(node_id)
    if node is None:
        return None
    class_type = node["class_type"]
    if error["type"] == "missing_node_type":
        return Lack(kind="node", name=class_type)
    if not is_missing_file(node, error):
        return None
    input_name = error["extra_info"]["input_name"]
    value = node["inputs"].get(input_name)
    if not isinstance(value, str):
        return None
    spec = catalogue.node(class_type)
    declared = spec.by_name.get(input_name) if spec else None
    kind: Kind = "model" if declared is None or declared.file_kind is None else "input"
    return Lack(kind=kind, name=value, class_type=class_type, input_name=input_name)


def _listed(lack: Lack, catalogue: CompiledCatalogue) -> Collection[str]:
    spec = catalogue.node(lack.class_type)
    declared = spec.by_name.get(lack.input_name) if spec else None
    return [each for each in (declared.choices if declared else None) or () if isinstance(each, str)]
