"""The combinations of what is varied: each with each, or side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from core.errors import InvalidRequest
from workflows.batches.values import Values, read_values
from workflows.templates.parameters import shown

Mode: TypeAlias = Literal["cross", "zip"]
#: Things that one batch varies, and characters of their names.
MAX_NAMES, MAX_NAME_CHARS = 16, 300
#: Values of each that are kept to be shown.
MAX_SHOWN, MAX_SHOWN_CHARS = 100, 200


def read_over(over: Mapping[str, Any]) -> list[Values]:
    """Return what a body varies, by its names. Raises InvalidRequest: nothing, too much, or no values."""
    if not over:
        raise InvalidRequest("over is empty: name at least one parameter, or node.input, and its values.")
    if len(over) > MAX_NAMES:
        raise InvalidRequest(f"over varies {len(over)} things; at most {MAX_NAMES} are accepted.")
    for name in over:
        if not 0 < len(name) <= MAX_NAME_CHARS:
            raise InvalidRequest(f"over: the name {shown(name)} must have 1 to {MAX_NAME_CHARS} characters.")
        if "\0" in name:
            raise InvalidRequest(f"over: the name {shown(name)} must not contain NUL characters.")
    return [read_values(f"over.{name}", given) for name, given in over.items()]


def combinations(names: list[str], values: list[Values], mode: Mode, *, at_most: int) -> Iterator[dict[str, Any]]:
    """Return the values of each job, by name; crossed, the last name changes fastest.

    Raises:
      InvalidRequest: there are too many, or side by side not as many of each. Nothing was made of them then.
    """
    counts = [each.count for each in values]
    if mode == "zip" and len(set(counts)) > 1:
        told = ", ".join(f"{each.name} has {each.count}" for each in values)
        raise InvalidRequest(f"Side by side (zip) there must be as many values of each: {told}.")
    total = counts[0] if mode == "zip" else math.prod(counts)
    if total > at_most:
        told = " x ".join(f"{each.count} of {each.name}" for each in values)
        raise InvalidRequest(f"over makes {total} jobs ({told}); at most {at_most} are accepted.")
    lists = [each.first(each.count) for each in values]
    rows = zip(*lists, strict=True) if mode == "zip" else itertools.product(*lists)
    return (dict(zip(names, row, strict=True)) for row in rows)


def summary(names: list[str], values: list[Values]) -> list[dict[str, Any]]:
    """Return what is varied as it is kept and shown: of long lists the first values, and of long texts their begin."""
    return [
        {"name": name, "count": each.count, "values": [_short(value) for value in each.first(MAX_SHOWN)]}
        for name, each in zip(names, values, strict=True)
    ]


def _short(value: Any) -> Any:
    return value[:MAX_SHOWN_CHARS] if isinstance(value, str) else value
