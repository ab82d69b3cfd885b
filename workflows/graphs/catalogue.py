"""One instance's `/object_info` in a form that graphs can be checked against quickly."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf
from typing import Any

from workflows.graphs.certainty import has_plain_values, is_built_in, lists_files
from workflows.graphs.file_names import may_list_files
from workflows.graphs.graph import Catalogue
from workflows.graphs.node_errors import MAX_SHOWN_OPTIONS

#: The structured input types of ComfyUI's V3 schema are called `COMFY_<NAME>_V3`.
_STRUCTURED_PREFIX, _STRUCTURED_SUFFIX = "COMFY_", "_V3"
#: The one of them that is a plain socket: it takes what the template's other sockets take; only the editor checks that.
MATCH_TYPE = "COMFY_MATCHTYPE_V3"
#: One of them that is a choice whose options have inputs of their own.
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
ANY_TYPE = "*"
COMBO = "COMBO"
#: What a literal of these types is, if nothing has to be converted.
_PLAIN_LITERALS: Mapping[str, type] = {"INT": int, "FLOAT": float, "BOOLEAN": bool}


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """One declared input of a node class."""

    name: str
    required: bool
    #: A type name, several joined by commas, or (older combos) the list of options.
    type: Any
    options: Mapping[str, Any]
    #: What a combo accepts; None if this is no combo, or one whose values the server does not check.
    choices: list[Any] | None
    #: `choices` for quick membership; None where there are none, or some cannot be hashed.
    choice_set: frozenset[Any] | None
    #: For a name of an uploaded file: image, video, audio or "" (any file); None for all other inputs.
    file_kind: str | None
    #: For `input_config` in errors: `[type, options]` as ComfyUI shows it, or None where that would list files.
    config: list[Any] | None
    #: Whether ComfyUI itself checks range and options; otherwise the class may do so, and only the server knows how.
    is_plain: bool = False
    #: Whether `choices` may be names of input files, though there is no upload button.
    may_list_files: bool = False
    #: Whether `choices` are all files of the usual kinds that lie directly in the input folder.
    lists_files: bool = False

    @cached_property
    def structured(self) -> bool:
        """Whether the input stands for a family of inputs `name.…`, so that itself it need not be given."""
        return is_structured(self.type) and self.type != MATCH_TYPE

    # What follows is for most literals all there is to know; each is found once for all graphs.

    @cached_property
    def number_type(self) -> type | None:
        """The type of literals of which only `limits` are asked; None where there is more to it."""
        known = _PLAIN_LITERALS.get(self.type) if isinstance(self.type, str) else None
        return known if all(type(limit) in (int, float) for limit in self.limits) else None

    @cached_property
    def limits(self) -> tuple[Any, Any]:
        """The least and the largest number that are accepted; infinite where ComfyUI does not compare."""
        low, high = (self.options.get(name) if self.is_plain else None for name in ("min", "max"))
        return -inf if low is None else low, inf if high is None else high

    @cached_property
    def takes_all_texts(self) -> bool:
        """Whether any text is accepted as it is."""
        return self.choices is None and self.file_kind is None and not self._asks_more_of_texts

    @cached_property
    def sure_choices(self) -> frozenset[Any]:
        """Those of the options that are accepted without a further look."""
        asks_more = self.choice_set is None or self.file_kind is not None or self._asks_more_of_texts
        return frozenset() if asks_more else self.choice_set or frozenset()

    @property
    def _asks_more_of_texts(self) -> bool:
        has_limits = "min" in self.options or "max" in self.options
        return self.type in ("INT", "FLOAT") or (self.is_plain and has_limits)


@dataclass(frozen=True, kw_only=True)
class NodeSpec:
    """One node class."""

    class_type: str
    #: Whether it is ComfyUI's own, so that its types and outputs are what they look like; see `certainty`.
    is_built_in: bool
    output_node: bool
    #: In declared order, required first.
    inputs: tuple[InputSpec, ...]
    by_name: Mapping[str, InputSpec] = field(repr=False)
    #: The type of each output, in slot order; a type may be a list of options.
    outputs: tuple[Any, ...]
    #: The class that the server puts in its place; mostly itself.
    runs_as: str

    @cached_property
    def needed(self) -> frozenset[str]:
        """Names of the inputs that must be given."""
        return frozenset(spec.name for spec in self.inputs if spec.required and not spec.structured)

    @cached_property
    def dynamic_choices(self) -> tuple[InputSpec, ...]:
        """The inputs whose options have inputs of their own."""
        return tuple(spec for spec in self.inputs if spec.type == DYNAMIC_COMBO)


@dataclass(frozen=True, kw_only=True, eq=False)
class PlainNode:
    """A node that the server accepts if what it links to is there and fits; see `plain_nodes`."""

    #: Node, output, and the type that is wanted; any type will do where the class judges for itself.
    links: tuple[tuple[str, int, Any], ...]


class CompiledCatalogue(Mapping[str, Mapping[str, Any]]):
    """An `/object_info` that reads as before, and remembers the classes it has compiled."""

    def __init__(self, object_info: Catalogue) -> None:
        self._raw = object_info
        self._specs: dict[str, NodeSpec] = {}
        #: Of nodes that came before, by their `NodeFacts`; None for those in which more is to be looked at.
        self.plain_nodes: dict[Hashable, PlainNode | None] = {}

    def __getitem__(self, class_type: str) -> Mapping[str, Any]:
        return self._raw[class_type]

    def __iter__(self) -> Iterator[str]:
        return iter(self._raw)

    def __len__(self) -> int:
        return len(self._raw)

    def node(self, class_type: str) -> NodeSpec | None:
        """The compiled class; None if the instance has no such class. Compiled on first use: a catalogue has ~1,000."""
        spec = self._specs.get(class_type)
        if spec is None and class_type in self._raw:
            spec = self._specs[class_type] = _node_spec(class_type, self._raw[class_type])
        return spec


def cacheable_catalogue(object_info: Catalogue) -> CompiledCatalogue:
    """The same catalogue, faster for every check after the first; keep it as long as the instance's answer is the same.

    The mapping given must not be changed afterwards.
    """
    return object_info if isinstance(object_info, CompiledCatalogue) else CompiledCatalogue(object_info)


def is_structured(type_: Any) -> bool:
    return isinstance(type_, str) and type_.startswith(_STRUCTURED_PREFIX) and type_.endswith(_STRUCTURED_SUFFIX)


def _node_spec(class_type: str, info: Mapping[str, Any]) -> NodeSpec:
    module = info.get("python_module")
    inputs = tuple(
        replace(
            spec,
            is_plain=has_plain_values(module, class_type, spec.name),
            lists_files=lists_files(module, class_type),
        )
        for spec in input_specs(info.get("input"))
    )
    outputs = info.get("output")
    return NodeSpec(
        class_type=class_type,
        is_built_in=is_built_in(module),
        output_node=info.get("output_node") is True,
        inputs=inputs,
        by_name={spec.name: spec for spec in inputs},
        outputs=tuple(outputs) if isinstance(outputs, (list, tuple)) else (),
        runs_as=info.get("replaced_by", class_type),
    )


def input_specs(declared: Any) -> list[InputSpec]:
    """Compile `{"required": {name: [type, options]}, "optional": {...}}`; `hidden` inputs are filled by the server."""
    found: dict[str, InputSpec] = {}
    for category in ("required", "optional"):
        inputs = declared.get(category) if isinstance(declared, Mapping) else None
        for name, info in (inputs if isinstance(inputs, Mapping) else {}).items():
            if name not in found:
                found[name] = input_spec(name, info, required=category == "required")
    return list(found.values())


def input_spec(name: str, info: Any, *, required: bool) -> InputSpec:
    """Compile one `[type, options]`; a custom node's odd declaration counts as a type that accepts any value."""
    parts = list(info) if isinstance(info, (list, tuple)) and info else [ANY_TYPE]
    type_ = parts[0]
    options = parts[1] if len(parts) > 1 and isinstance(parts[1], Mapping) else {}
    choices = _choices(type_, options)
    file_kind = _file_kind(options) if choices is not None or type_ == COMBO else None
    shows_options = file_kind is None and len(choices or ()) <= MAX_SHOWN_OPTIONS
    return InputSpec(
        name=name,
        required=required,
        type=type_,
        options=options,
        choices=choices,
        choice_set=_as_set(choices),
        file_kind=file_kind,
        config=[type_, dict(options)] if shows_options else None,
        may_list_files=choices is not None and (bool(choices) or type_ != COMBO) and may_list_files(choices),
    )


def _choices(type_: Any, options: Mapping[str, Any]) -> list[Any] | None:
    if isinstance(type_, list):
        return type_
    # ComfyUI itself takes any value for a combo that the editor fills from elsewhere.
    if type_ != COMBO or options.get("remote_combo"):
        return None
    choices = options.get("options")
    # A combo without options accepts nothing, unless its class judges for itself.
    return list(choices) if isinstance(choices, (list, tuple)) else []


def _file_kind(options: Mapping[str, Any]) -> str | None:
    """From `image_upload`, `video_upload`, `audio_upload` or `file_upload`."""
    for option, value in options.items():
        if value and option.endswith("_upload"):
            kind = option.removesuffix("_upload")
            return kind if kind in ("image", "video", "audio") else ""
    return None


def _as_set(choices: list[Any] | None) -> frozenset[Any] | None:
    try:
        return None if choices is None else frozenset(choices)
    except TypeError:
        return None
