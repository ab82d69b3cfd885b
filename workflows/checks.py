"""Refuse a graph that ComfyUI would refuse, or that must not run here, before a job is accepted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from core.errors import InvalidWorkflow
from workflows import node_errors as errors
from workflows.catalogue import CompiledCatalogue, InputSpec, NodeSpec, cacheable_catalogue
from workflows.graph import Catalogue, Graph, ancestors, is_link, measure_depths, output_nodes
from workflows.node_errors import Error
from workflows.structured import nested_spec
from workflows.values import accepts_type, is_risky_literal, literal_error

__all__ = ["REFUSED_CLASSES", "cacheable_catalogue", "check_graph"]

_WRITES_MODEL = "it writes model files to the GPU machine's disk"
_TRAINS = "it trains for hours and writes model files"
_OPENS_URI = "it opens addresses and files from within ComfyUI, where outbound requests are not guarded"

#: Node classes that no job may contain, and why. Pass another collection to `check_graph` to allow or refuse others.
REFUSED_CLASSES: Mapping[str, str] = {
    "LoadTrainingDataset": "it unpickles uploaded files, which runs code (CVE-2026-68771)",
    "SaveTrainingDataset": "it writes pickles that a later job would load",
    "CheckpointSave": _WRITES_MODEL,
    "CLIPSave": _WRITES_MODEL,
    "VAESave": _WRITES_MODEL,
    "ModelSave": _WRITES_MODEL,
    "SaveLoRA": _WRITES_MODEL,
    "SaveLoRANode": _WRITES_MODEL,
    "LoraSave": _WRITES_MODEL,
    "ImageOnlyCheckpointSave": _WRITES_MODEL,
    "TrainLoraNode": _TRAINS,
    "LoadImageFromURL": _OPENS_URI,
    "ImageRequestParameter": _OPENS_URI,
    "SaveImagesResponse": _OPENS_URI,
}

#: ComfyUI validates a graph, and computes its cache keys, by recursion, a Python frame a node, of Python's 1,000. Past
#: that it refuses the graph; but if only nodes that no output needs are too many, its worker thread ends.
MAX_CHAIN_NODES = 900

#: Nodes named in one answer; a graph of 2,000 broken nodes needs no 2,000 explanations.
_MAX_REPORTED_NODES = 100
#: Nodes looked at to find which outputs depend on the broken ones.
_MAX_NODE_VISITS = 50_000

_Found = dict[str, list[Error]]


def check_graph(
    graph: Graph,
    catalogue: Catalogue,
    *,
    refused_classes: Collection[str] = REFUSED_CLASSES,
    staged_files: Collection[str] = (),
) -> set[str]:
    """Check a graph against one instance's catalogue, by the rules of ComfyUI's `validate_prompt`, and some of ours.

    Differences, all on purpose. One bad output node refuses the whole graph: a job runs whole or not at all. Links of
    undeclared inputs are followed and checked too: ComfyUI does not validate them, but runs what they name, and its
    worker thread dies if that does not exist. File inputs must name a listed or staged file by a safe name.

    Parameters:
      graph: as `parse_graph` returns it.
      catalogue: `/object_info`; give what `cacheable_catalogue` made of it when checking more than one graph.
      refused_classes: classes no job may contain; if it is a mapping, the values are the reasons shown.
      staged_files: names, relative to the input folder, that will be there before the job runs (uploaded assets).
    Returns: the ids of the nodes that will run: the output nodes and all they depend on.
    Raises:
      InvalidWorkflow: `node_errors` is `{node_id: {"errors": [...], "dependent_outputs": [...], "class_type"}}` in
        ComfyUI's words; empty only if the graph has no output node.
    """
    compiled = cacheable_catalogue(catalogue)
    _raise_found(graph, _class_errors(graph, compiled, refused_classes), outputs=[])
    outputs = output_nodes(graph, compiled)
    if not outputs:
        # ComfyUI looks no further; what is wrong beside that helps all the same.
        _raise_found(graph, _problems(graph, graph, compiled, staged_files), outputs=[])
        raise InvalidWorkflow("The workflow has no output node (such as SaveImage), so it would produce nothing.")
    depths: dict[str, int] = {}
    cycle = measure_depths(graph, outputs, depths)
    will_run = set(depths)
    measure_depths(graph, graph, depths)
    found = _problems(graph, will_run, compiled, staged_files)
    for node_id in cycle[:_MAX_REPORTED_NODES]:
        found.setdefault(node_id, []).append(errors.cycle(node_id, cycle, graph))
    deepest = max(depths, key=depths.__getitem__)
    if depths[deepest] > MAX_CHAIN_NODES:
        found.setdefault(deepest, []).append(errors.chain_too_long(deepest, depths[deepest], MAX_CHAIN_NODES))
    _raise_found(graph, found, outputs=outputs)
    return will_run


def _class_errors(graph: Graph, compiled: CompiledCatalogue, refused_classes: Collection[str]) -> _Found:
    """Unknown and refused classes, anywhere in the graph: ComfyUI looks at every node here, connected or not."""
    found: _Found = {}
    for node_id, node in graph.items():
        class_type = node["class_type"]
        if class_type in refused_classes:
            reasons = refused_classes if isinstance(refused_classes, Mapping) else {}
            found[node_id] = [errors.refused_class(node_id, node, reasons.get(class_type, "it is switched off"))]
        elif class_type not in compiled:
            found[node_id] = [errors.unknown_class(node_id, node)]
    return found


def _problems(
    graph: Graph, will_run: Collection[str], compiled: CompiledCatalogue, staged_files: Collection[str]
) -> _Found:
    """What is wrong with each node, as far as it matters for one that will run, or for one that will not."""
    found: _Found = {}
    for node_id, node in graph.items():
        spec = compiled.node(node["class_type"])
        assert spec is not None
        if node_id in will_run:
            problems = _node_problems(node, spec, graph, compiled, staged_files)
        else:
            problems = _idle_node_problems(node, spec)
        if problems:
            found[node_id] = problems
    return found


def _node_problems(
    node: Mapping[str, Any],
    spec: NodeSpec,
    graph: Graph,
    compiled: CompiledCatalogue,
    staged_files: Collection[str],
) -> list[Error]:
    inputs = node["inputs"]
    problems: list[Error] = []
    seen = 0
    for wanted in spec.inputs:
        if wanted.name not in inputs:
            if wanted.required and not wanted.structured:
                problems.append(errors.required_input_missing(wanted.name))
            continue
        seen += 1
        value = inputs[wanted.name]
        if type(value) is list:
            problem = _link_error(wanted, value, graph, compiled)
        else:
            problem = literal_error(wanted, value, staged_files)
        if problem is not None:
            problems.append(problem)
    if seen < len(inputs):
        problems += _undeclared_problems(inputs, spec, graph, compiled, staged_files)
    return problems


def _link_error(spec: InputSpec, link: list[Any], graph: Graph, compiled: CompiledCatalogue) -> Error | None:
    problem = _link_problem(link, graph, compiled)
    if problem is not None:
        return errors.bad_link(spec.name, spec.config, link, problem)
    if spec.file_kind is not None:
        # What a link brings is known only while the graph runs, when nobody checks it any more.
        return errors.bad_link(spec.name, spec.config, link, "a file name must be given here, it cannot be linked")
    output = compiled.node(graph[link[0]]["class_type"])
    assert output is not None
    received_type = output.outputs[link[1]]
    if accepts_type(received_type, spec.type):
        return None
    return errors.type_mismatch(spec.name, spec.config, received_type, spec.type, link)


def _link_problem(link: list[Any], graph: Graph, compiled: CompiledCatalogue) -> str | None:
    """What is wrong with a link, whatever it links to; "" if it is no pair at all."""
    if len(link) != 2:
        return ""
    source, index = link
    if not isinstance(source, str):
        return "the node id must be a string"
    if source not in graph:
        return f"node {errors.shown(repr(source))} does not exist"
    if type(index) is not int:
        return "the slot index must be an integer"
    spec = compiled.node(graph[source]["class_type"])
    assert spec is not None
    if not 0 <= index < len(spec.outputs):
        return f"node {errors.shown(repr(source))} ({spec.class_type}) has {len(spec.outputs)} outputs, counted from 0"
    return None


def _undeclared_problems(
    inputs: Mapping[str, Any],
    spec: NodeSpec,
    graph: Graph,
    compiled: CompiledCatalogue,
    staged_files: Collection[str],
) -> list[Error]:
    """Parts of structured inputs are checked by what their template says, the rest only for links that lead nowhere."""
    problems: list[Error] = []
    for name, value in inputs.items():
        if name in spec.by_name:
            continue
        part = nested_spec(spec, inputs, name) if "." in name else None
        problem: Error | None = None
        if type(value) is list:
            if part is not None and not part.structured:
                problem = _link_error(part, value, graph, compiled)
            elif is_link(value) and (reason := _link_problem(value, graph, compiled)) is not None:
                problem = errors.bad_link(name, None, value, reason)
        elif part is not None and not part.structured:
            problem = literal_error(part, value, staged_files)
        if problem is not None:
            problems.append(problem)
    return problems


def _idle_node_problems(node: Mapping[str, Any], spec: NodeSpec) -> list[Error]:
    """ComfyUI does not validate a node that no output needs; only what could reach a file all the same is refused."""
    problems: list[Error] = []
    for name, value in node["inputs"].items():
        declared = spec.by_name.get(name)
        if declared is None and "." in name:
            declared = nested_spec(spec, node["inputs"], name)
        if declared is not None and is_risky_literal(declared, value):
            problems.append(errors.bad_file(name, declared.file_kind or "", value))
    return problems


def _raise_found(graph: Graph, found: _Found, *, outputs: list[str]) -> None:
    if not found:
        return
    reported = list(found)[:_MAX_REPORTED_NODES]
    dependents = _dependent_outputs(graph, outputs, set(reported))
    node_errors = {
        node_id: errors.entry(errors.received(graph[node_id]["class_type"]), found[node_id], dependents.get(node_id))
        for node_id in reported
    }
    raise InvalidWorkflow(_summary(graph, found), node_errors)


def _dependent_outputs(graph: Graph, outputs: list[str], wanted: set[str]) -> dict[str, list[str]]:
    dependents: dict[str, list[str]] = {}
    # Many outputs times many nodes would cost seconds; beyond the budget the lists are merely shorter.
    for output in outputs[: max(1, _MAX_NODE_VISITS // len(graph))]:
        for node_id in ancestors(graph, [output]) & wanted:
            dependents.setdefault(node_id, []).append(output)
    return dependents


def _summary(graph: Graph, found: _Found) -> str:
    node_id, problems = next(iter(found.items()))
    first = problems[0]
    class_type = errors.shown(graph[node_id]["class_type"])
    more = sum(map(len, found.values())) - 1
    text = f"Node {errors.shown(node_id)} ({class_type}): {first['message']}: {first['details']}"
    return f"{text} (and {more} more)" if more else text
