"""Checks a submitted graph as ComfyUI does, to the letter of its error replies."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Collection, Iterable
from typing import Any

from comfy.simulator.execution.run_result import NODE_FAILURES, exception_name
from comfy.simulator.machine.machine import Machine
from comfy.simulator.machine.node import NodeClass, NodeClasses

#: Combos longer than this are not repeated in errors.
_MAX_SHOWN_CHOICES = 20

Error = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of a graph."""

    #: The reply's `error`, or None when something is left to run.
    error: Error | None = None
    #: The output nodes that will run.
    outputs: list[str] = dataclasses.field(default_factory=list)
    node_errors: dict[str, Any] = dataclasses.field(default_factory=dict)


def make_error(kind: str, message: str, details: str = "", extra_info: dict[str, Any] | None = None) -> Error:
    """An error as all of ComfyUI's replies spell it."""
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info or {}}


def validate_prompt(prompt: Any, targets: Any, classes: NodeClasses, machine: Machine) -> Verdict:
    """Check a graph, converting literal values in place.

    `targets` limits the output nodes considered (a list of ids), or is None. What is not even shaped like a graph
    raises TypeError, which the server turns into a 500, as ComfyUI does.
    """
    outputs: list[str] = []
    for node_id in prompt:
        error = _class_error(node_id, prompt[node_id], classes, machine)
        if error is not None:
            return Verdict(error=error)
        is_output = classes[prompt[node_id]["class_type"]].output_node
        if is_output and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict(error=make_error("prompt_no_outputs", "Prompt has no outputs"))
    return _Validation(prompt, classes, machine).judge(outputs)


def _class_error(node_id: str, node: Any, classes: NodeClasses, machine: Machine) -> Error | None:
    details = f"Node ID '#{node_id}'"
    newer = machine.options.release.missing_node_type
    title = (node.get("_meta") or {}).get("title") if newer else None
    if "class_type" not in node:
        if newer:
            named = title or f"ID #{node_id}"
            message = f"Node '{named}' has no class_type. The workflow may be corrupted or a custom node is missing."
            extra = {"node_id": node_id, "class_type": None, "node_title": title}
            return make_error("missing_node_type", message, details, extra)
        message = "Cannot execute because a node is missing the class_type property."
        return make_error("invalid_prompt", message, details)
    class_type = node["class_type"]
    if class_type in classes:
        return None
    if newer:
        message = f"Node '{title or class_type}' not found. The custom node may not be installed."
        extra = {"node_id": node_id, "class_type": class_type, "node_title": title or class_type}
        return make_error("missing_node_type", message, details, extra)
    return make_error("invalid_prompt", f"Cannot execute because node {class_type} does not exist.", details)


class _Validation:
    """The checks of one graph; each node is judged once."""

    def __init__(self, prompt: dict[str, Any], classes: NodeClasses, machine: Machine) -> None:
        self._prompt = prompt
        self._classes = classes
        self._machine = machine
        #: Node id -> whether it and all before it are fine, and its own errors.
        self._judged: dict[str, tuple[bool, list[Error]]] = {}
        #: The nodes that are being judged, each before one that it depends on.
        self._open: list[str] = []

    def judge(self, outputs: Iterable[str]) -> Verdict:
        good: list[str] = []
        node_errors: dict[str, Any] = {}
        own_errors: list[Error] = []
        for output in outputs:
            valid, errors = self._judge_output(output)
            if valid:
                good.append(output)
                continue
            own_errors += errors
            for node_id in self._reachable(output):
                if node_id in self._judged and self._judged[node_id][1]:
                    self._report(node_errors, node_id, output)
        if good:
            return Verdict(outputs=good, node_errors=node_errors)
        # Only what is wrong with the output nodes themselves is spelled out here; often that is nothing.
        details = "\n".join(f"{error['message']}: {error['details']}" for error in own_errors)
        error = make_error("prompt_outputs_failed_validation", "Prompt outputs failed validation", details)
        return Verdict(error=error, node_errors=node_errors)

    def _judge_output(self, node_id: str) -> tuple[bool, list[Error]]:
        try:
            return self._judge(node_id)
        except NODE_FAILURES as exc:
            error = make_error(
                "exception_during_validation",
                "Exception when validating node",
                str(exc),
                {"exception_type": exception_name(exc), "traceback": traceback.format_tb(exc.__traceback__)},
            )
            self._judged[node_id] = (False, [error])
            return self._judged[node_id]

    def _judge(self, node_id: str) -> tuple[bool, list[Error]]:
        known = self._judged.get(node_id)
        if known is not None:
            return known
        if node_id in self._open:
            return self._judge_cycle([*self._open[self._open.index(node_id) :], node_id])
        self._open.append(node_id)
        try:
            valid, errors = self._judge_inputs(node_id)
        finally:
            self._open.pop()
        # It may have been judged as part of a cycle meanwhile.
        valid_before, before = self._judged.get(node_id, (True, []))
        self._judged[node_id] = (valid_before and valid, before + [error for error in errors if error not in before])
        return self._judged[node_id]

    def _judge_cycle(self, path: list[str]) -> tuple[bool, list[Error]]:
        """Judge all nodes of a cycle; `path` begins and ends with the same one."""
        if not self._machine.options.release.is_current:
            # ComfyUI recurses until Python gives up, and what is left is a refusal without a reason.
            return False, []
        nodes = list(dict.fromkeys(path))
        details = " -> ".join(f"{node_id} ({self._prompt[node_id]['class_type']})" for node_id in path)
        for node_id in nodes:
            extra = {"node_id": node_id, "cycle_nodes": nodes}
            error = make_error("dependency_cycle", "Dependency cycle detected", details, extra)
            self._judged[node_id] = (False, [error])
        return self._judged[path[0]]

    def _judge_inputs(self, node_id: str) -> tuple[bool, list[Error]]:
        inputs = self._prompt[node_id]["inputs"]
        node = self._classes[self._prompt[node_id]["class_type"]]
        required, optional = node.declared(inputs)
        declared = {**required, **optional}
        errors: list[Error] = []
        parents_valid = True
        for name in declared:
            if name not in inputs:
                if name in required:
                    # Structured inputs show the last part of their name.
                    details = name.split(".")[-1]
                    errors.append(
                        make_error("required_input_missing", "Required input is missing", details, {"input_name": name})
                    )
                continue
            config = node.input_config(name, self._machine, declared)
            if isinstance(inputs[name], list):
                link_errors, parent_valid = self._judge_link(node, name, config, inputs[name])
                errors += link_errors
                parents_valid = parents_valid and parent_valid
            else:
                errors += self._judge_literal(node, name, config, inputs)
        if node.check is not None and not errors:
            for name, complaint in node.check(self._machine, inputs).items():
                details = f"{name} - {complaint}"
                errors.append(
                    make_error(
                        "custom_validation_failed", "Custom validation failed for node", details, {"input_name": name}
                    )
                )
        return parents_valid and not errors, errors

    def _judge_link(
        self, node: NodeClass, name: str, config: tuple[Any, dict[str, Any]], value: list[Any]
    ) -> tuple[list[Error], bool]:
        if len(value) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            extra = {"input_name": name, "input_config": config, "received_value": value}
            return [make_error("bad_linked_input", message, name, extra)], True
        source_id, slot = value
        source = self._classes[self._prompt[source_id]["class_type"]]
        received = source.output_type(slot)
        if not (node.checks_links or _fits(received, config[0], node.secretly_takes.get(name, frozenset()))):
            details = f"{name}, received_type({received}) mismatch input_type({config[0]})"
            extra = {"input_name": name, "input_config": config, "received_type": received, "linked_node": value}
            return [
                make_error("return_type_mismatch", "Return type mismatch between linked nodes", details, extra)
            ], True
        try:
            return [], self._judge(source_id)[0]
        except NODE_FAILURES as exc:
            extra = {
                "input_name": name,
                "input_config": config,
                "exception_message": str(exc),
                "exception_type": exception_name(exc),
                "traceback": traceback.format_tb(exc.__traceback__),
                "linked_node": value,
            }
            kind, message = "exception_during_inner_validation", "Exception when validating inner node"
            self._judged[source_id] = (False, [make_error(kind, message, str(exc), extra)])
            return [], False

    def _judge_literal(
        self, node: NodeClass, name: str, config: tuple[Any, dict[str, Any]], inputs: dict[str, Any]
    ) -> list[Error]:
        value = inputs[name]
        if isinstance(value, dict) and "__value__" in value:
            value = inputs[name] = value["__value__"]
        try:
            value = inputs[name] = _convert(value, config[0])
        except (TypeError, ValueError, OverflowError) as exc:
            extra = {
                "input_name": name,
                "input_config": config,
                "received_value": value,
                "exception_message": str(exc),
            }
            message = f"Failed to convert an input value to a {config[0]} value"
            return [make_error("invalid_input_type", message, f"{name}, {value}, {exc}", extra)]
        if node.checks_everything or name.split(".")[0] in node.checked_inputs:
            return []
        return _range_errors(name, value, config)

    def _reachable(self, node_id: str) -> list[str]:
        found: dict[str, None] = {}
        todo = [node_id]
        while todo:
            current = todo.pop(0)
            if current in found or current not in self._prompt:
                continue
            found[current] = None
            inputs = self._prompt[current].get("inputs")
            values = inputs.values() if isinstance(inputs, dict) else ()
            todo += [value[0] for value in values if isinstance(value, list) and value and isinstance(value[0], str)]
        return list(found)

    def _report(self, node_errors: dict[str, Any], node_id: str, output: str) -> None:
        entry = node_errors.setdefault(
            node_id,
            {
                "errors": self._judged[node_id][1],
                "dependent_outputs": [],
                "class_type": self._prompt[node_id]["class_type"],
            },
        )
        entry["dependent_outputs"].append(output)


def _range_errors(name: str, value: Any, config: tuple[Any, dict[str, Any]]) -> list[Error]:
    kind, options = config
    extra = {"input_name": name, "input_config": config, "received_value": value}
    if "min" in options and value < options["min"]:
        message = f"Value {value} smaller than min of {options['min']}"
        return [make_error("value_smaller_than_min", message, name, extra)]
    if "max" in options and value > options["max"]:
        message = f"Value {value} bigger than max of {options['max']}"
        return [make_error("value_bigger_than_max", message, name, extra)]
    choices = options.get("options", []) if kind == "COMBO" else kind
    if not isinstance(choices, list) or options.get("remote_combo"):
        return []
    several = isinstance(value, list) and options.get("multiselect")
    wrong = [each for each in (value if several else [value]) if each not in choices]
    if wrong:
        shown = str(choices)
        if len(choices) > _MAX_SHOWN_CHOICES:
            shown = f"(list of length {len(choices)})"
            extra["input_config"] = None
        details = f"{name}: {', '.join(map(repr, wrong))} not in {shown}"
        return [make_error("value_not_in_list", "Value not in list", details, extra)]
    return []


def _convert(value: Any, kind: Any) -> Any:
    if kind == "INT":
        return int(value)
    if kind == "FLOAT":
        return float(value)
    if kind == "STRING":
        return str(value)
    return bool(value) if kind == "BOOLEAN" else value


def _fits(received: Any, wanted: Any, secretly: Collection[str]) -> bool:
    if received == wanted or "*" in (received, wanted) or "*" in secretly:
        return True
    if "COMFY_MATCHTYPE_V3" in (received, wanted):
        return True
    if isinstance(received, list) and wanted == "COMBO":
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    if received in secretly:
        return True
    return bool({kind.strip() for kind in received.split(",")} & {kind.strip() for kind in wanted.split(",")})
