"""Inputs whose values need not be judged one by one: any number between two that are accepted, any harmless text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from workflows.graphs.boundaries import OPENED
from workflows.graphs.catalogue import NodeSpec

#: What may stand for a value: its type alone, where the least and the largest of its kind are judged; or any text.
Freedom: TypeAlias = Literal["number", "text"]
#: A text with none of these is no path, no address and no id, whatever takes it.
_IS_MORE = re.compile(r"[/\\~\]\0]|\.\.|(?i:https?:|data:)|[0-9a-f]{8}-")


def freedom_of(specs: Iterable[NodeSpec | None], input_name: str, value: Any) -> Freedom | None:
    """Return how far a value of an input stands for others; None: it has to be judged by itself.

    Parameters:
      specs: the class of its node, as each instance has it.
    """
    kind = type(value)
    if kind not in (int, float, str):
        return None
    found = list(specs)
    if not found or (kind is str and _IS_MORE.search(value)):
        return None
    for spec in found:
        declared = None if spec is None or spec.class_type in OPENED else spec.by_name.get(input_name)
        if declared is None:
            return None
        if declared.number_type is not kind if kind is not str else not declared.takes_all_texts:
            return None
    return "text" if kind is str else "number"
