"""Which types of slots the editor lets be connected."""

from __future__ import annotations

from typing import Any

ANY = ("", "*", 0, None)


def is_any(type_: Any) -> bool:
    return type_ in ANY if isinstance(type_, (str, int, type(None))) else False


def fit(one: Any, other: Any) -> bool:
    """Whether an output and an input of these types may be connected; several types are joined by commas."""
    if is_any(one) or is_any(other) or one == other:
        return True
    left, right = str(one).lower().split(","), str(other).lower().split(",")
    if len(left) == 1 and len(right) == 1:
        return left == right
    return any(is_any(each) or each in right for each in left) or any(is_any(each) for each in right)
