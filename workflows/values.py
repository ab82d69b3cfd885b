"""Whether one input accepts one value: a literal, or what a linked output gives."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from workflows import node_errors as errors
from workflows.catalogue import ANY_TYPE, COMBO, InputSpec, is_structured
from workflows.file_names import is_safe_file_name, without_annotation
from workflows.node_errors import Error

#: Decimal text longer than this is not converted: the cost of `int()` grows with the square of the length.
_MAX_NUMBER_CHARS = 400


def accepts_type(received: Any, wanted: Any) -> bool:
    """Whether an output of one type may be linked to an input of another, by ComfyUI's `validate_node_input`.

    Types match if any of their comma-separated names do; `*` and V3's match-type sockets take everything. Lists of
    options match only an equal list, or (newer versions) a `COMBO`. Versions before 0.3.68 leave `*` to the node class;
    what its class then refuses, ComfyUI refuses.
    """
    if isinstance(received, str) and isinstance(wanted, str):
        return received == wanted or _overlap(received, wanted)
    if ANY_TYPE in (received, wanted) or is_structured(received) or is_structured(wanted):
        return True
    return bool(received == wanted) or (isinstance(received, list) and wanted == COMBO)


@lru_cache(maxsize=4096)
def _overlap(received: str, wanted: str) -> bool:
    if is_structured(received) or is_structured(wanted):
        return True
    received_names = {name.strip() for name in received.split(",")}
    wanted_names = {name.strip() for name in wanted.split(",")}
    return ANY_TYPE in received_names | wanted_names or bool(received_names & wanted_names)


def literal_error(spec: InputSpec, value: Any, staged_files: Collection[str]) -> Error | None:
    """What is wrong with a literal value, or None. A list must come wrapped as `{"__value__": [...]}`."""
    if type(value) is dict and "__value__" in value:
        value = value["__value__"]
    if spec.file_kind is not None:
        return None if _is_known_file(spec, value, staged_files) else errors.bad_file(spec.name, spec.file_kind, value)
    type_ = spec.type
    if type_ in ("INT", "FLOAT"):
        try:
            value = _as_number(type_, value)
        except (ValueError, TypeError, OverflowError) as exc:
            return errors.not_convertible(spec.name, spec.config, type_, value, str(exc))
    elif type_ == "STRING":
        value = value if isinstance(value, str) else str(value)
    elif type_ == "BOOLEAN":
        value = bool(value)
    if "min" in spec.options or "max" in spec.options:
        found = _bounds_error(spec, value)
        if found is not None:
            return found
    return _choice_error(spec, value) if spec.choices is not None else None


def _as_number(type_: str, value: Any) -> int | float:
    """Convert as ComfyUI does, with Python's own `int` and `float`: "5", 5.9, and True are integers."""
    if isinstance(value, str) and len(value) > _MAX_NUMBER_CHARS:
        raise ValueError("too many digits")
    return int(value) if type_ == "INT" else float(value)


def _bounds_error(spec: InputSpec, value: Any) -> Error | None:
    low, high = spec.options.get("min"), spec.options.get("max")
    try:
        if low is not None and value < low:
            return errors.out_of_bounds(spec.name, spec.config, value, low, too_small=True)
        if high is not None and value > high:
            return errors.out_of_bounds(spec.name, spec.config, value, high, too_small=False)
    except TypeError as exc:
        # ComfyUI compares whatever came, and refuses the node when that raises.
        return errors.not_convertible(spec.name, spec.config, str(spec.type), value, str(exc))
    return None


def _choice_error(spec: InputSpec, value: Any) -> Error | None:
    assert spec.choices is not None
    several = isinstance(value, list) and bool(spec.options.get("multiselect"))
    wrong = [each for each in (value if several else [value]) if not _is_choice(spec, each)]
    return errors.not_in_list(spec.name, spec.config, value, wrong, spec.choices) if wrong else None


def _is_choice(spec: InputSpec, value: Any) -> bool:
    assert spec.choices is not None
    if spec.choice_set is None or isinstance(value, (list, dict)):
        return value in spec.choices
    return value in spec.choice_set


def _is_known_file(spec: InputSpec, value: Any, staged_files: Collection[str]) -> bool:
    if not isinstance(value, str) or not is_safe_file_name(value):
        return False
    name = without_annotation(value)
    return name in staged_files or spec.choices is None or _is_choice(spec, name)


def is_risky_literal(spec: InputSpec, value: Any) -> bool:
    """Whether a literal on a node that will not run could still reach a file.

    ComfyUI computes cache keys for every node of a prompt, connected or not, and for file inputs that reads the file:
    an unconnected LoadImage of `/dev/zero` would be hashed for ever.
    """
    if type(value) is dict and "__value__" in value:
        value = value["__value__"]
    if spec.file_kind is None and (spec.choices is None or _choice_error(spec, value) is None):
        return False
    return isinstance(value, str) and not is_safe_file_name(value)
