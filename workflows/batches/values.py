"""The values of one thing that is varied: a list of them, or a range of numbers.

A range says where it begins and ends, both included: `{"from": 1, "to": 100, "step": 1}`, or `"1..100"` as text. Whole
numbers stay whole, to the digit; of others each value is worked out from the first, so that errors do not add up.
Nothing is made before it is known how many there are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from core.errors import InvalidRequest
from workflows.templates.parameters import shown

#: Characters of one text that is varied.
MAX_TEXT_CHARS = 20_000
#: The numbers of a range, and how many digits they may have.
_NUMBER = r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s*\.\.\s*({_NUMBER}))?\s*")
_FIELDS = frozenset({"from", "to", "step"})
_LARGEST = 2**64


@dataclass(frozen=True, kw_only=True)
class Values:
    """As many values as `count`, made one by one."""

    name: str
    count: int
    at: Callable[[int], Any]

    def first(self, limit: int) -> list[Any]:
        """Return the first of them."""
        return [self.at(number) for number in range(min(limit, self.count))]


def read_values(name: str, given: Any) -> Values:
    """Return the values that a body, or a command line, gives for one thing.

    Parameters:
      name: what errors call it, `over.seed`.
    Raises: InvalidRequest - no values, or not what can be one.
    """
    if isinstance(given, str):
        match = _RANGE.fullmatch(given)
        if match is None:
            raise InvalidRequest(f'{name} must be a list, a range such as "1..100", or {{"from", "to", "step"}}.')
        begin, end, step = (None if part is None else _number(part) for part in match.groups())
        return _range(name, begin, end, step)
    if isinstance(given, Mapping):
        if not {"from", "to"} <= given.keys() <= _FIELDS:
            raise InvalidRequest(f"{name} must say from and to, and may say step; nothing else.")
        return _range(name, given["from"], given["to"], given.get("step"))
    if not isinstance(given, Sequence):
        raise InvalidRequest(f'{name} must be a list, a range such as "1..100", or {{"from", "to", "step"}}.')
    return _list(name, given)


def _list(name: str, given: Sequence[Any]) -> Values:
    if not given:
        raise InvalidRequest(f"{name} is empty: give it one value or more, or leave it out.")
    for number, value in enumerate(given):
        _check(f"{name}[{number}]", value)
    return Values(name=name, count=len(given), at=given.__getitem__)


def _check(place: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{place} must be a finite number, not {value}.")
    if not isinstance(value, (str, int, float)):
        raise InvalidRequest(f"{place} must be text, a number, true or false, not {shown(value)}.")
    if isinstance(value, str):
        check_text(place, value)


def check_text(place: str, value: str) -> None:
    """Refuse a text that no job is found by: it is too long, or no database has a form for it."""
    if len(value) > MAX_TEXT_CHARS:
        raise InvalidRequest(f"{place} has {len(value)} characters; at most {MAX_TEXT_CHARS} are accepted.")
    if "\0" in value:
        raise InvalidRequest(f"{place} must not contain NUL characters.")


def _range(name: str, begin: Any, end: Any, step: Any) -> Values:
    for part, value in (("from", begin), ("to", end), ("step", step)):
        if part == "step" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InvalidRequest(f"{name}.{part} must be a finite number, not {shown(value)}.")
        if abs(value) > _LARGEST:
            raise InvalidRequest(f"{name}.{part} is out of range: at most 2^64 either side of zero.")
    pace = step if step is not None else (1 if end >= begin else -1)
    if pace == 0 or (end - begin) * pace < 0:
        raise InvalidRequest(f"{name}.step must lead from {begin} to {end}, not {shown(pace)}.")
    if isinstance(end, float) and end.is_integer():
        # 1e2 is a hundred, and only where a range begins and its step say whether its numbers are whole.
        end = int(end)
    if all(isinstance(value, int) for value in (begin, end, pace)):
        return Values(name=name, count=(end - begin) // pace + 1, at=lambda number: begin + number * pace)
    # As text, because 0.1 is no tenth in binary.
    low, high, each = (Fraction(str(value)) for value in (begin, end, pace))
    count = int((high - low) // each) + 1
    return Values(name=name, count=count, at=lambda number: float(low + number * each))


def _number(text: str) -> int | float:
    return float(text) if "." in text else int(text)
