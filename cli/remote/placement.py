"""What the flags of `submit` and `run` say of when and where a job is to begin, and what it is to be found by."""

from __future__ import annotations

import math

from core.errors import InvalidRequest
from core.texts.json_types import JsonObject

#: Requirements that are numbers; all others are text.
_NUMBERS = ("vram_gb",)


def placement(
    requires: str | None, start_within_s: float | None, priority: int | None, label: str | None = None
) -> JsonObject:
    """Return the fields of a submission; what is not said is left out.

    Parameters:
      requires: `pool=h100,vram_gb=24`; the server knows what may stand there.
    Raises: InvalidRequest - it is no list of NAME=VALUE.
    """
    said = {
        "priority": priority,
        "requires": _requirements(requires) if requires is not None else None,
        "start_within_s": start_within_s,
        "label": label,
    }
    return {name: value for name, value in said.items() if value is not None}


def _requirements(text: str) -> JsonObject:
    found: JsonObject = {}
    for part in text.split(","):
        name, _, value = (each.strip() for each in part.partition("="))
        if not (name and value):
            raise InvalidRequest(f"--requires {text}: it is NAME=VALUE,..., for instance pool=h100,vram_gb=24.")
        if name in found:
            raise InvalidRequest(f"--requires {text}: {name} is given twice.")
        found[name] = _number(text, value) if name in _NUMBERS else value
    return found


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    # JSON has no NaN and no infinity: a request with one could not be sent.
    if not math.isfinite(number):
        raise InvalidRequest(f"--requires {text}: {value} is no number.")
    return number
