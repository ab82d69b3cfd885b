"""Refuse a graph that ComfyUI would refuse, or that must not run here, before a job is accepted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from core.errors import InvalidWorkflow
from workflows.graphs import node_errors as errors
from workflows.graphs.boundaries import OPENED, Paths, boundary_errors
from workflows.graphs.catalogue import CompiledCatalogue, InputSpec, NodeSpec, cacheable_catalogue
from workflows.graphs.graph import Catalogue, Graph, ancestors, is_link, measure_depths, reached_in_order
from workflows.graphs.node_errors import Error
from workflows.graphs.node_facts import GraphFacts
from workflows.graphs.plain_nodes import fits, plain_node
from workflows.graphs.structured import missing_inputs, nested_spec
from workflows.graphs.values import accepts_type, is_risky_literal, literal_error

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

_NO_OUTPUTS = "The workflow has no output node (such as SaveImage), so it would produce nothing."

_Found = dict[str, list[Error]]
#: The class of each node of a graph; None where the instance has no such class.
_Specs = Mapping[str, NodeSpec | None]


def check_graph(
    graph: Graph,
    catalogue: Catalogue,
    *,
    refused_classes: Collection[str] = REFUSED_CLASSES,
    staged_files: Collection[str] = (),
    facts: GraphFacts | None = None,
) -> set[str]:
    """Check a graph against one instance's catalogue: refuse what its server surely refuses, with all reasons at once.

    What only the server can know (see `workflows.graphs.certainty`) is let through; it ends the job at once if it is
    wrong.

    Differences from ComfyUI's `validate_prompt`, all on purpose. One bad output node refuses the whole graph: a job
    runs whole or not at all. Links of undeclared inputs must lead to a node: ComfyUI does not validate them, but runs
    what they name, and its worker thread dies if that does not exist. File inputs must have a safe name.

    Parameters:
      graph: as `parse_graph` returns it.
      catalogue: `/object_info`; give what `cacheable_catalogue` made of it when checking more than one graph.
      refused_classes: classes no job may contain; if it is a mapping, the values are the reasons shown.
      staged_files: names, relative to the input folder, that will be there before the job runs (uploaded assets).
      facts: of the graph, for callers that have them.
    Returns: the ids of the nodes that will run: the output nodes and all they depend on.
    Raises:
      InvalidWorkflow: `node_errors` is `{node_id: {"errors": [...], "dependent_outputs": [...], "class_type"}}` in
        ComfyUI's words; empty only if the graph has no output node.
    """
    compiled = cacheable_catalogue(catalogue)
    specs = {node_id: compiled.node(node["class_type"]) for node_id, node in graph.items()}
    if facts is None:
        facts = GraphFacts(graph)
    found = _class_errors(graph, specs, refused_classes)
    outputs = [node_id for node_id, spec in specs.items() if spec is not None and spec.output_node]
    if not outputs:
        # ComfyUI looks no further; what is wrong beside that helps all the same.
        _add(found, _problems(graph, graph, _undeclaring(graph, graph, specs), specs, facts.paths, staged_files))
        lack = "" if None in specs.values() else _NO_OUTPUTS
        _raise_found(graph, found, outputs=[], lack=lack)
        raise InvalidWorkflow(_NO_OUTPUTS)
    will_run, cycle, too_long = _walked(facts, outputs)
    plain = _plain(graph, will_run, specs, facts, compiled)
    if len(plain) < len(graph):
        undeclaring = _undeclaring(graph, will_run - plain, specs)
        validated = _validated(graph, outputs, specs) if undeclaring else will_run
        followed = undeclaring | (will_run - validated)
        doubtful = {node_id: node for node_id, node in graph.items() if node_id not in plain or node_id in followed}
        _add(found, _problems(doubtful, validated, followed, specs, facts.paths, staged_files))
    _add(found, {node_id: [errors.cycle(node_id, cycle, graph)] for node_id in cycle[:_MAX_REPORTED_NODES]})
    _add(found, too_long)
    _raise_found(graph, found, outputs=outputs)
    return will_run


def _add(found: _Found, more: _Found) -> None:
    for node_id, problems in more.items():
        found.setdefault(node_id, []).extend(problems)


def _class_errors(graph: Graph, specs: _Specs, refused_classes: Collection[str]) -> _Found:
    """Unknown and refused classes, anywhere in the graph: ComfyUI looks at every node here, connected or not."""
    found: _Found = {}
    for node_id, spec in specs.items():
        # A class that the server replaces is what it is replaced by.
        class_type = graph[node_id]["class_type"] if spec is None else spec.runs_as
        if class_type in refused_classes:
            reasons = refused_classes if isinstance(refused_classes, Mapping) else {}
            reason = reasons.get(class_type, "it is switched off")
            found[node_id] = [errors.refused_class(node_id, graph[node_id], reason)]
        elif spec is None:
            found[node_id] = [errors.unknown_class(node_id, graph[node_id])]
    return found


def _walked(facts: GraphFacts, outputs: Sequence[str]) -> tuple[set[str], list[str], _Found]:
    """The nodes that will run, the first cycle among them, and what is wrong with the longest chain of the graph."""
    if len(facts.nodes) <= MAX_CHAIN_NODES:
        in_order = reached_in_order({node_id: node.sources for node_id, node in facts.nodes.items()}, outputs)
        if in_order is not None:
            return in_order, [], {}
    depths: dict[str, int] = {}
    cycle = measure_depths(facts.sources, outputs, depths)
    will_run = set(depths)
    return will_run, cycle, _chain_error(facts.sources, depths) if len(facts.nodes) > MAX_CHAIN_NODES else {}


def _chain_error(sources: Mapping[str, Sequence[str]], depths: dict[str, int]) -> _Found:
    """The longest chain of the graph, if it is too long. Parameters: depths - those of the nodes that will run."""
    measure_depths(sources, sources, depths)
    deepest = max(depths, key=depths.__getitem__)
    if depths[deepest] <= MAX_CHAIN_NODES:
        return {}
    return {deepest: [errors.chain_too_long(deepest, depths[deepest], MAX_CHAIN_NODES)]}


def _plain(
    graph: Graph, node_ids: Iterable[str], specs: _Specs, facts: GraphFacts, catalogue: CompiledCatalogue
) -> set[str]:
    """The nodes in which nothing is wrong if they are validated: in most graphs all of them."""
    nodes, found = facts.nodes, set()
    for node_id in node_ids:
        spec = specs[node_id]
        if spec is None:
            continue
        plain = plain_node(catalogue, spec, graph[node_id], nodes[node_id])
        if plain is not None and fits(plain, specs):
            found.add(node_id)
    return found


def _undeclaring(graph: Graph, node_ids: Iterable[str], specs: _Specs) -> set[str]:
    """The nodes with inputs that their class does not declare by name: undeclared ones, and parts of structured ones.

    Where there are none, ComfyUI validates all that it runs.
    """
    found = set()
    for node_id in node_ids:
        spec = specs[node_id]
        if spec is not None and not graph[node_id]["inputs"].keys() <= spec.by_name.keys():
            found.add(node_id)
    return found


def _validated(graph: Graph, outputs: Iterable[str], specs: _Specs) -> set[str]:
    """The nodes that ComfyUI validates: those that the outputs reach by inputs that their classes declare."""
    found = set(outputs)
    pending = list(found)
    while pending:
        node_id = pending.pop()
        node, spec = graph[node_id], specs[node_id]
        for name, value in node["inputs"].items():
            if type(value) is not list or not is_link(value) or value[0] not in graph or value[0] in found:
                continue
            if spec is None or _declaration(spec, node["inputs"], name) is not None:
                found.add(value[0])
                pending.append(value[0])
    return found


def _problems(
    graph: Graph,
    validated: Collection[str],
    followed: Collection[str],
    specs: _Specs,
    paths: Paths,
    staged_files: Collection[str],
) -> _Found:
    """What is wrong with each node of a known class, as far as it matters for its part in the graph.

    Parameters:
      validated: nodes that ComfyUI validates.
      followed: nodes of which ComfyUI follows links that it does not validate.
    """
    found: _Found = {}
    for node_id, node in graph.items():
        spec = specs[node_id]
        if spec is None:
            continue
        is_validated = node_id in validated
        problems = _node_problems(node, spec, specs, staged_files) if is_validated else _file_problems(node, spec)
        if node_id in paths or spec.class_type in OPENED:
            told = {problem["extra_info"].get("input_name") for problem in problems}
            for problem in boundary_errors(node, spec, staged_files):
                if problem["extra_info"]["input_name"] not in told:
                    problems.append(problem)
        if node_id in followed:
            problems += _undeclared_problems(node, spec, specs, is_validated=is_validated)
        if problems:
            found[node_id] = problems
    return found


def _declaration(spec: NodeSpec, inputs: Mapping[str, Any], name: str) -> InputSpec | None:
    """What declares an input, itself or as a part of a structured one; None if ComfyUI does not look at it."""
    declared = spec.by_name.get(name)
    if declared is None and "." in name:
        declared = nested_spec(spec, inputs, name)
        return None if declared is None or declared.structured else declared
    return declared


def _node_problems(
    node: Mapping[str, Any],
    spec: NodeSpec,
    specs: _Specs,
    staged_files: Collection[str],
) -> list[Error]:
    """Of a node that ComfyUI validates: what is missing, and what is wrong with the inputs that are declared."""
    inputs = node["inputs"]
    problems = [errors.required_input_missing(name) for name in missing_inputs(spec, inputs)]
    declarations = spec.by_name
    for name, value in inputs.items():
        declared = declarations.get(name) or _declaration(spec, inputs, name)
        if declared is None:
            continue
        if type(value) is list:
            problem = _link_error(declared, value, specs, takes_plain_types=spec.is_built_in)
        else:
            problem = literal_error(declared, value, staged_files)
        if problem is not None:
            problems.append(problem)
    return problems


def _link_error(spec: InputSpec, link: list[Any], specs: _Specs, *, takes_plain_types: bool) -> Error | None:
    problem = _link_problem(link, specs)
    if problem is not None:
        return errors.bad_link(spec.name, spec.config, link, problem)
    if spec.file_kind is not None:
        # What a link brings is known only while the graph runs, when nobody checks it any more.
        return errors.bad_link(spec.name, spec.config, link, "a file name must be given here, it cannot be linked")
    source = specs[link[0]]
    if source is None or not (takes_plain_types and source.is_built_in):
        return None
    received_type = source.outputs[link[1]]
    if accepts_type(received_type, spec.type):
        return None
    return errors.type_mismatch(spec.name, spec.config, received_type, spec.type, link)


def _link_problem(link: list[Any], specs: _Specs) -> str | None:
    """What is wrong with a link, whatever it links to; "" if it is no pair at all."""
    if len(link) != 2:
        return ""
    source, index = link
    if not isinstance(source, str):
        return "the node id must be a string"
    if source not in specs:
        return f"node {errors.shown(repr(source))} does not exist"
    if not isinstance(index, int):
        return "the slot index must be an integer"
    spec = specs[source]
    # Python counts from the end, too; the outputs of a pack's class may answer any index.
    if spec is not None and spec.is_built_in and not -len(spec.outputs) <= index < len(spec.outputs):
        return f"node {errors.shown(repr(source))} ({spec.class_type}) has {len(spec.outputs)} outputs, counted from 0"
    return None


def _undeclared_problems(
    node: Mapping[str, Any],
    spec: NodeSpec,
    specs: _Specs,
    *,
    is_validated: bool,
) -> list[Error]:
    """Links that lead nowhere, of inputs that ComfyUI does not validate; it follows them all the same."""
    problems: list[Error] = []
    for name, value in node["inputs"].items():
        if type(value) is not list or not is_link(value):
            continue
        if is_validated and _declaration(spec, node["inputs"], name) is not None:
            continue
        reason = _link_problem(value, specs)
        if reason is not None:
            problems.append(errors.bad_link(name, None, value, reason))
    return problems


def _file_problems(node: Mapping[str, Any], spec: NodeSpec) -> list[Error]:
    """ComfyUI does not validate a node that no output needs; only what could reach a file all the same is refused."""
    problems: list[Error] = []
    for name, value in node["inputs"].items():
        declared = _declaration(spec, node["inputs"], name)
        if declared is not None and is_risky_literal(declared, value):
            problems.append(errors.bad_file(name, declared.file_kind or "", value))
    return problems


def _raise_found(graph: Graph, found: _Found, *, outputs: list[str], lack: str = "") -> None:
    if not found:
        return
    reported = list(found)[:_MAX_REPORTED_NODES]
    dependents = _dependent_outputs(graph, outputs, set(reported))
    node_errors = {
        node_id: errors.entry(errors.received(graph[node_id]["class_type"]), found[node_id], dependents.get(node_id))
        for node_id in reported
    }
    raise InvalidWorkflow(f"{lack} {errors.summary(node_errors)}".strip(), node_errors)


def _dependent_outputs(graph: Graph, outputs: list[str], wanted: set[str]) -> dict[str, list[str]]:
    dependents: dict[str, list[str]] = {}
    # Many outputs times many nodes would cost seconds; beyond the budget the lists are merely shorter.
    for output in outputs[: max(1, _MAX_NODE_VISITS // len(graph))]:
        for node_id in ancestors(graph, [output]) & wanted:
            dependents.setdefault(node_id, []).append(output)
    return dependents
