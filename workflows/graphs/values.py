"""Whether one input accepts one value: a literal, or what a linked output gives."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Any

from workflows.graphs import node_errors as errors
from workflows.graphs.catalogue import ANY_TYPE, COMBO, InputSpec, is_structured
from workflows.graphs.certainty import would_be_listed
from workflows.graphs.file_names import (
    is_safe_file_name,
    leads_elsewhere,
    names_a_jobs_file,
    refers_to_more,
    without_annotation,
)
from workflows.graphs.node_errors import Error

#: Python converts no longer text to an integer: the cost grows with the square of the length.
_MAX_NUMBER_CHARS = 4300


def accepts_type(received: Any, wanted: Any) -> bool:
    """Whether an output of one type may be linked to an input of another, by ComfyUI's `validate_node_input`.

    It knows for sure only where both classes are ComfyUI's own: the types of others may compare themselves.

    Types match if any of their comma-separated names do; `*` and V3's match-type sockets take everything. Lists of
    options match only an equal list, or (newer versions) a `COMBO`. Versions before 0.3.68 leave `*` to the node class;
    what its class then refuses, ComfyUI refuses.
    """
    if received == wanted:
        return True
    if isinstance(received, str) and isinstance(wanted, str):
        return _overlap(received, wanted)
    if ANY_TYPE in (received, wanted) or is_structured(received) or is_structured(wanted):
        return True
    return isinstance(received, list) and bool(wanted == COMBO)


@lru_cache(maxsize=4096)
def _overlap(received: str, wanted: str) -> bool:
    if is_structured(received) or is_structured(wanted):
        return True
    received_names = {name.strip() for name in received.split(",")}
    wanted_names = {name.strip() for name in wanted.split(",")}
    return ANY_TYPE in received_names | wanted_names or bool(received_names & wanted_names)


def literal_error(spec: InputSpec, value: Any, staged_files: Collection[str]) -> Error | None:
    """What is surely wrong with a literal value, or None. A list must come wrapped as `{"__value__": [...]}`.

    ComfyUI converts numbers whatever the class; range and options are looked at only where it does that itself. Names
    of files that lead elsewhere are refused by us.
    """
    # Nearly all literals are of the types that they are for, and there are many of them in each submission.
    literal = type(value)
    if literal is str:
        if spec.takes_all_texts or value in spec.sure_choices:
            return None
    elif literal is spec.number_type:
        low, high = spec.limits
        if low <= value <= high:
            return None
    if type(value) is dict and "__value__" in value:
        value = value["__value__"]
    if spec.file_kind is not None:
        return None if _may_load(spec, value, staged_files) else errors.bad_file(spec.name, spec.file_kind, value)
    if not spec.is_plain and _names_forbidden_file(spec, value, staged_files):
        return errors.bad_file(spec.name, "", value)
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
    if not spec.is_plain or (isinstance(value, str) and value in staged_files):
        return None
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


def _may_load(spec: InputSpec, value: Any, staged_files: Collection[str]) -> bool:
    """Whether an input for files takes this name, or may: what lies in folders, the server alone knows."""
    if isinstance(value, list) and value and not spec.lists_files:
        # Several files of one upload, which ComfyUI's own loaders do not take.
        return all(isinstance(each, str) and each and _may_load(spec, each, staged_files) for each in value)
    if not isinstance(value, str) or not value:
        # Some classes list an entry for no file at all.
        return spec.choices is not None and _is_choice(spec, value)
    if not is_safe_file_name(value):
        return False
    name = without_annotation(value)
    if name in staged_files:
        return True
    if names_a_jobs_file(name):
        return False
    if refers_to_more(name):
        return spec.choices is not None and _is_choice(spec, name)
    if spec.lists_files and spec.choices is not None and would_be_listed(spec.file_kind or "", name):
        return _is_choice(spec, name)
    return True


def _names_forbidden_file(spec: InputSpec, value: Any, staged_files: Collection[str]) -> bool:
    """Whether a choice that is none of a list's options is a path to somewhere else, or another job's file.

    Classes that judge for themselves take it for the name of a file, and open it.
    """
    if not _is_unlisted(spec, value) or value in staged_files:
        return False
    return leads_elsewhere(value) or names_a_jobs_file(value)


def _is_unlisted(spec: InputSpec, value: Any) -> bool:
    """Whether a text is none of the options of what may be a list of files.

    A `COMBO` without any is a list that the client makes up, such as CustomCombo's.
    """
    if spec.choices is None or not isinstance(value, str) or (spec.type == COMBO and not spec.choices):
        return False
    return not _is_choice(spec, value)


def is_risky_literal(spec: InputSpec, value: Any) -> bool:
    """Whether a literal on a node that will not run could still reach a file.

    ComfyUI computes cache keys for every node of a prompt, connected or not, and for file inputs that reads the file:
    an unconnected LoadImage of `/dev/zero` would be hashed for ever.
    """
    if type(value) is dict and "__value__" in value:
        value = value["__value__"]
    if spec.file_kind is not None:
        names = value if isinstance(value, list) else [value]
        return any(isinstance(name, str) and name != "" and not is_safe_file_name(name) for name in names)
    return _is_unlisted(spec, value) and leads_elsewhere(value)
