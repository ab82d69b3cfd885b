"""Read the description of a template's parameters: the file beside its graph."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from core.errors import InvalidRequest
from core.records.requirements import MAX_VRAM_GB, POOL, Requirements
from workflows.templates.fill import NAME
from workflows.templates.parameters import ANY, DEFAULT_MAX_CHARS, MAX_SEED, TYPES, Choice, Parameter, Scalar, shown

MAX_PARAMETERS = 200
_MAX_CHOICES = 1000
#: Types of the placeholders that most templates have, where no sidecar says otherwise.
WELL_KNOWN: Mapping[str, Mapping[str, Any]] = {
    "prompt": {"type": "string"},
    "width": {"type": "integer", "minimum": 1},
    "height": {"type": "integer", "minimum": 1},
    "steps": {"type": "integer", "minimum": 1},
    "seed": {"type": "integer", "minimum": 0, "maximum": MAX_SEED},
}
_NUMERIC = ("integer", "number")
_TEXTS = ("string", "image")
_KEYS = ("title", "description", "requires", "parameters")
_CHOICE_KEYS = ("aliases", "value", "values")

#: What is wrong: the keys that lead there, and why it is wrong.
Fault = tuple[tuple[str, ...], str]


class Sidecar:
    """A sidecar, read as far as it can be: `faults` says what is wrong with it."""

    def __init__(self, value: Any) -> None:
        self.faults: list[Fault] = []
        self.title = ""
        self.description = ""
        self.requires: Requirements | None = None
        self.parameters: dict[str, Parameter] = {}
        if not isinstance(value, dict):
            self.faults.append(((), f"it must be an object: {', '.join(_KEYS)}"))
            return
        for key in sorted(value.keys() - set(_KEYS)):
            self.faults.append(((key,), f"{shown(key)} is no field; there are: {', '.join(_KEYS)}"))
        self.title = self._text(value, "title")
        self.description = self._text(value, "description")
        self._read_requires(value.get("requires", {}))
        self._read_parameters(value.get("parameters", {}))

    def _text(self, value: Mapping[str, Any], key: str) -> str:
        text = value.get(key, "")
        if isinstance(text, str):
            return text
        self.faults.append(((key,), f"{key} must be text"))
        return ""

    def _read_requires(self, value: Any) -> None:
        if not isinstance(value, dict):
            self.faults.append((("requires",), "requires must be an object: pool, vram_gb"))
            return
        faults = [(("requires", key), reason) for key, reason in _requirement_faults(value)]
        self.faults += faults
        if value and not faults:
            numbers = {"vram_gb": float(value["vram_gb"])} if "vram_gb" in value else {}
            self.requires = Requirements(**{**value, **numbers})

    def _read_parameters(self, value: Any) -> None:
        if not isinstance(value, dict):
            self.faults.append((("parameters",), "parameters must be an object: name -> parameter"))
            return
        if len(value) > MAX_PARAMETERS:
            self.faults.append((("parameters",), f"there are {len(value)} parameters; at most {MAX_PARAMETERS}"))
            return
        for name, described in value.items():
            where = ("parameters", name)
            if not re.fullmatch(NAME, name) or name != name.lower():
                self.faults.append(
                    (where, "a name is small letters, digits and _, at most 64, and begins with a letter")
                )
            elif not isinstance(described, dict):
                self.faults.append((where, "a parameter must be an object"))
            else:
                faults = list(_parameter_faults(described))
                self.faults += [((*where, key), reason) for key, reason in faults]
                if not faults:
                    self._add(name, described)

    def _add(self, name: str, described: Mapping[str, Any]) -> None:
        parameter = _parameter(name, described)
        if parameter.type == "choice":
            for reason in _ambiguities(parameter):
                self.faults.append((("parameters", name, "choices"), reason))
        if "default" in described:
            try:
                parameter.check(described["default"])
            except InvalidRequest as exc:
                self.faults.append(
                    (("parameters", name, "default"), f"the default breaks its own rules: {exc.message}")
                )
        self.parameters[name] = parameter


def undescribed(names: Iterator[str]) -> dict[str, Parameter]:
    """The parameters of a graph without a sidecar: each of its placeholders, required."""
    return {name: _parameter(name, WELL_KNOWN.get(name, {"type": ANY})) for name in dict.fromkeys(names)}


def _parameter(name: str, described: Mapping[str, Any]) -> Parameter:
    default, random = described.get("default"), described.get("random", False)
    return Parameter(
        name=name,
        type=described["type"],
        description=described.get("description", ""),
        required=described.get("required", default is None and not random),
        minimum=described.get("minimum"),
        maximum=described.get("maximum"),
        multiple_of=described.get("multiple_of"),
        max_chars=described.get("max_length", DEFAULT_MAX_CHARS),
        choices=tuple(_choices(described.get("choices", []))),
        default=default,
        random=random,
        targets=tuple((node_id, input_name) for node_id, input_name in described.get("target", [])),
    )


def _choices(value: list[Scalar] | dict[str, Any]) -> Iterator[Choice]:
    if isinstance(value, list):
        for scalar in value:
            yield Choice(key=scalar, value=scalar)
        return
    for key, choice in value.items():
        if not isinstance(choice, dict):
            yield Choice(key=key, value=choice)
            continue
        values = {name.lower(): inner for name, inner in choice.get("values", {}).items()}
        aliases = tuple(choice.get("aliases", []))
        yield Choice(key=key, value=choice.get("value", key), aliases=aliases, values=values)


def _ambiguities(parameter: Parameter) -> Iterator[str]:
    for choice in parameter.choices:
        for name in (choice.key, *choice.aliases):
            if parameter.choice(name) is not choice:
                yield f"{shown(name)} stands for two choices"
        if parameter.name in choice.values:
            yield f"values of {shown(choice.key)} fill {parameter.name} itself; that is what value is for"


def _parameter_faults(described: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """`(field, reason)` for what is wrong with one parameter, its default apart."""
    for key in sorted(described.keys() - FIELDS.keys()):
        yield key, f"{shown(key)} is no field of a parameter; there are: {', '.join(FIELDS)}"
    type_ = described.get("type")
    if type_ not in TYPES:
        yield "type", f"type must be one of {', '.join(TYPES)}"
        return
    for key, (fits, wanted, types) in FIELDS.items():
        if key not in described:
            continue
        if type_ not in types:
            yield key, f"{key} is for {' and '.join(types)} only"
        elif not fits(described[key]):
            yield key, f"{key} must be {wanted}"
    if type_ == "choice" and not described.get("choices"):
        yield "choices", "a choice needs choices"
    low: Any = described.get("minimum")
    high: Any = described.get("maximum")
    if _is_number(low) and _is_number(high) and float(low) > float(high):
        yield "minimum", f"minimum is above maximum: {low} > {high}"
    if described.get("random") and (described.keys() & {"default", "multiple_of"} or described.get("required")):
        yield "random", "what is drawn can have no default and no multiple_of, and is never required"
    if described.get("random") and any(type(bound) is float for bound in (low, high)):
        yield "random", "the range of what is drawn must have integers as its ends"


def _requirement_faults(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key in sorted(value.keys() - {"pool", "vram_gb"}):
        yield key, f"{shown(key)} is no field of requires; there are: pool, vram_gb"
    pool, vram_gb = value.get("pool", "any"), value.get("vram_gb", 0)
    if not isinstance(pool, str) or not re.fullmatch(POOL, pool):
        yield "pool", "pool must be 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit"
    if not _is_number(vram_gb) or not 0 <= vram_gb <= MAX_VRAM_GB:
        yield "vram_gb", f"vram_gb must be a number from 0 to {MAX_VRAM_GB:.0f}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (str, bool)) or _is_number(value)


def _are_targets(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) and part for part in pair)
        for pair in value
    )


def _are_choices(value: Any) -> bool:
    if not isinstance(value, (list, dict)) or len(value) > _MAX_CHOICES:
        return False
    if isinstance(value, list):
        return all(_is_scalar(choice) for choice in value)
    return all(_is_scalar(choice) or _is_choice(choice) for choice in value.values())


def _is_choice(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() - set(_CHOICE_KEYS):
        return False
    aliases, values = value.get("aliases", []), value.get("values", {})
    return (
        isinstance(aliases, list)
        and isinstance(values, dict)
        and all(_is_scalar(inner) for inner in [*aliases, *values.values(), value.get("value", "")])
        and all(re.fullmatch(NAME, name) for name in values)
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


#: field -> whether a value fits, what it must be, and which types have the field.
FIELDS: Mapping[str, tuple[Callable[[Any], bool], str, tuple[str, ...]]] = {
    "type": (_is_text, "text", TYPES),
    "description": (_is_text, "text", TYPES),
    "default": (_is_scalar, "text, a number, true or false", TYPES),
    "required": (_is_bool, "true or false", TYPES),
    "minimum": (_is_number, "a number", _NUMERIC),
    "maximum": (_is_number, "a number", _NUMERIC),
    "multiple_of": (lambda value: _is_number(value) and value > 0, "a number above 0", _NUMERIC),
    "max_length": (lambda value: type(value) is int and value > 0, "an integer above 0", _TEXTS),
    "choices": (_are_choices, "a list of values, or an object: key -> value, or {value, aliases, values}", ("choice",)),
    "random": (_is_bool, "true or false", ("integer",)),
    "target": (_are_targets, 'a list of pairs ["node id", "input name"]', TYPES),
}
