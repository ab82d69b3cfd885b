"""Describes a node class, and what its function is given and gives back."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from PIL import Image

from comfy.simulator.machine.machine import Machine
from comfy.simulator.machine.node_progress import NodeProgress


@dataclasses.dataclass(frozen=True)
class Listing:
    """A combo whose choices are files: a model folder's name, or `input` for uploaded pictures."""

    folder: str


#: `(type or choices, options)` of an input; the type is a name such as INT, a list of choices, or a Listing.
Spec: TypeAlias = tuple[Any, Mapping[str, Any]]
Inputs: TypeAlias = Mapping[str, Spec]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocker:
    """A value that keeps the nodes behind it from running; with a message, the first of them reports it."""

    message: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeResult:
    """What a node function gives back when a plain tuple of values is not enough."""

    values: tuple[Any, ...] = ()
    #: What clients are shown and history keeps, e.g. `{"images": [{"filename", "subfolder", "type"}]}`.
    ui: Mapping[str, Any] | None = None
    #: A graph to run in this node's place; links among `values` then point into it.
    expand: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeCall:
    """The surroundings of one run of one node."""

    machine: Machine
    node_id: str
    prompt_id: str
    #: The whole graph, for files that carry it.
    prompt: Mapping[str, Any]
    extra_data: Mapping[str, Any]
    progress: NodeProgress

    @property
    def previews(self) -> bool:
        """Whether samplers send previews for this prompt."""
        method = self.machine.options.preview_method
        if self.machine.options.release.preview_method_per_prompt:
            asked = self.extra_data.get("preview_method")
            method = asked if asked in ("none", "auto", "latent2rgb", "taesd") else method
        return method != "none"

    def step(self, value: int, total: int, preview: Image.Image | None = None, format_name: str = "JPEG") -> None:
        """Report one step. Raises Interrupted when the prompt is to stop, as ComfyUI's progress hook does."""
        self.machine.interrupt.check()
        self.progress.update(self.node_id, value, total, preview, format_name)

    def hang_if_ordered(self) -> None:
        """Commit the `hang` fault: block, deaf to interrupts."""
        order = self.machine.faults.take("hang")
        if order is not None:
            time.sleep(float(order["seconds"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NodeClass:
    """One kind of node.

    `run(call, **inputs)` returns a tuple with one value per output, or a NodeResult.
    """

    name: str
    run: Callable[..., tuple[Any, ...] | NodeResult]
    category: str
    required: Inputs = dataclasses.field(default_factory=dict)
    optional: Inputs = dataclasses.field(default_factory=dict)
    hidden: Mapping[str, str] = dataclasses.field(default_factory=dict)
    #: A type is a name or, as with combos, a list of choices.
    outputs: tuple[Any, ...] = ()
    output_names: tuple[str, ...] | None = None
    display_name: str | None = None
    description: str = ""
    module: str = "nodes"
    output_node: bool = False
    #: Runs beside other nodes, as ComfyUI's `async def` nodes do.
    background: bool = False
    #: A second node with equal inputs runs again rather than share the first one's result.
    idempotent: bool = True
    #: Own validation, `(machine, inputs) -> {input name: complaint}`; its inputs are not checked against their lists.
    check: Callable[[Machine, Mapping[str, Any]], Mapping[str, str]] | None = None
    checked_inputs: tuple[str, ...] = ()
    #: That validation takes whatever comes (`**kwargs`), so that no range and no list is checked.
    checks_everything: bool = False
    #: It takes the types of the links as well (`input_types`), so that those are not checked.
    checks_links: bool = False
    #: Types that compare themselves: input name -> types it takes beside the one it shows, or `*`. Lost in JSON.
    secretly_takes: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    #: Its outputs answer any index, with the last of them.
    answers_any_slot: bool = False
    #: Literal inputs that it does not declare are given to it as well.
    accepts_all_inputs: bool = False
    #: Something that changes when the node must run again though its inputs are the same.
    fingerprint: Callable[[Machine, Mapping[str, Any]], str] | None = None
    #: `(inputs) -> names`: the lazy inputs it needs, asked again after each answer until none is missing. Those not
    #: known yet are None among `inputs`, and so they are for `run` if it never needs them. ComfyUI's check_lazy_status.
    lazy_needs: Callable[[Mapping[str, Any]], Iterable[str]] | None = None

    @functools.cached_property
    def lazy_inputs(self) -> frozenset[str]:
        """Inputs that the node is started without; what they are linked to runs only when `lazy_needs` names them."""
        return frozenset(
            name for name, (_, options) in {**self.required, **self.optional}.items() if options.get("lazy")
        )

    def declared(self, live: Mapping[str, Any]) -> tuple[Inputs, Inputs]:
        """Its required and optional inputs in a graph that gives it these: structured ones are spelled out."""
        required: dict[str, Spec] = {}
        optional: dict[str, Spec] = {}
        expand(self.required, live, "", required, required, optional)
        expand(self.optional, live, "", optional, required, optional)
        return required, optional

    def output_type(self, slot: Any) -> Any:
        """The type of one output, as Python indexes a tuple. Raises IndexError, TypeError."""
        return self.outputs[-1] if self.answers_any_slot and slot >= len(self.outputs) else self.outputs[slot]

    def input_config(self, name: str, machine: Machine, declared: Inputs | None = None) -> tuple[Any, dict[str, Any]]:
        """One input as ComfyUI shows it: its type or its choices of this moment, and its options."""
        kind, options = (declared or {**self.required, **self.optional})[name]
        return (machine.names(kind.folder) if isinstance(kind, Listing) else kind), dict(options)


def expand(
    inputs: Inputs,
    live: Mapping[str, Any],
    prefix: str,
    group: dict[str, Spec],
    required: dict[str, Spec],
    optional: dict[str, Spec],
) -> None:
    """Spell out structured inputs as ComfyUI 0.10 does: growing lists, and choices with inputs of their own."""
    for name, (kind, options) in inputs.items():
        full = f"{prefix}{name}"
        if kind == "COMFY_AUTOGROW_V3":
            template = options["template"]
            ((_, part),) = template["input"]["required"].items()
            for number in range(template["max"]):
                optional[f"{full}.{template['prefix']}{number}"] = part
        elif kind == "COMFY_DYNAMICCOMBO_V3":
            chosen = [option for option in options["options"] if option["key"] == live.get(full)]
            if chosen:
                group[full] = (kind, options)
                expand(chosen[0]["inputs"].get("required", {}), live, f"{full}.", required, required, optional)
                expand(chosen[0]["inputs"].get("optional", {}), live, f"{full}.", optional, required, optional)
        else:
            group[full] = (kind, options)


NodeClasses: TypeAlias = Mapping[str, NodeClass]


#: What newer releases say of each class beside the rest; here of all the same.
_NEWER_FACTS: Mapping[str, Any] = {"is_input_list": False, "has_intermediate_output": False, "search_aliases": []}


def object_info(node: NodeClass, machine: Machine) -> dict[str, Any]:
    """A node class as `GET /object_info` describes it."""
    groups: dict[str, dict[str, Any]] = {}
    for group, inputs in (("required", node.required), ("optional", node.optional)):
        if inputs or group == "required":
            groups[group] = {name: _shown(node.input_config(name, machine), inputs[name]) for name in inputs}
    if node.hidden:
        groups["hidden"] = dict(node.hidden)
    return {
        "input": groups,
        "input_order": {group: list(inputs) for group, inputs in groups.items()},
        "output": list(node.outputs),
        "output_is_list": [False] * len(node.outputs),
        "output_name": list(node.output_names or node.outputs),
        "name": node.name,
        "display_name": node.display_name or node.name,
        "description": node.description,
        "python_module": node.module,
        "category": node.category,
        "output_node": node.output_node,
        **(_NEWER_FACTS if machine.options.release.describes_nodes_fully else {}),
    }


def _shown(config: tuple[Any, dict[str, Any]], declared: Spec) -> list[Any]:
    # ComfyUI leaves the options out where a class declares none.
    return [config[0], config[1]] if declared[1] else [config[0]]
