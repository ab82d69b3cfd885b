"""Read a request body as JSON, refusing everything that would mean different things to different readers."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import orjson

from core.errors import InvalidBody
from core.texts.json_types import JsonObject

#: 2^64: ComfyUI's seeds run to 2^64 - 1. Larger integers would lose digits, or crash, somewhere behind us.
MAX_INTEGER = 2**64
#: Digits of `MAX_INTEGER`, plus a sign. Checked before `int()`, whose cost grows with the square of the length.
_MAX_INTEGER_CHARS = len(str(MAX_INTEGER)) + 1
#: Values in one body. The largest workflow we accept has a fifth of that; millions of empty lists would keep the
#: parser, and everybody who waits for this process, busy for seconds.
MAX_VALUES = 200_000
_BOM = b"\xef\xbb\xbf"
#: Few bodies have one of these, mostly within a text.
_CONSTANT = re.compile(rb"NaN|Infinity")
#: Integers of so many digits may be out of range, or beyond the 64 bits of a fast parser. In a body with all its digits
#: made zeros they are found at once.
_MANY_DIGITS = b"0" * 19
_DIGITS_ONLY = bytes(ord("0") if chr(byte).isdecimal() else ord(" ") for byte in range(256))
#: What a node of a ComfyUI graph is made of. The rest are notes, such as the `is_changed` ComfyUI writes into files.
_NODE_FIELDS = frozenset({"class_type", "inputs", "_meta"})
#: A surrogate can only come in through an escape: raw ones are not valid UTF-8. Most bodies have none.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def loads(body: bytes, *, max_depth: int = 64) -> Any:
    """Parse a body, strictly.

    Parameters:
      body: the raw bytes, UTF-8 without a byte order mark.
      max_depth: how many objects and lists may stand inside each other; the outermost counts as 1.
    Returns: plain dicts, lists, strings, floats, bools, None, and exact integers up to 2^64 either side of zero.
    Raises:
      InvalidBody: broken syntax (with line and column), not UTF-8, NaN or an infinity (but in the notes of a graph's
        nodes, which are left out), a number out of range, a key twice in one object (named), half a surrogate pair,
        too much nesting, or too many values.
    """
    # A short body cannot hold so many.
    if len(body) > MAX_VALUES and sum(body.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise InvalidBody(f"The body holds more than {MAX_VALUES} values.")
    value = _parse_plain(body)
    if value is not None:
        _check_depth(value, max_depth)
        return value
    try:
        value = _parse(_decode(body))
    except RecursionError as exc:
        # The parser recurses in C and gives up near 1,000 levels; a body of brackets only must not be a server error.
        raise _too_deep(max_depth) from exc
    _check_depth(value, max_depth)
    if _CONSTANT.search(body):
        _leave_out_not_finite(value)
    if _SURROGATE_ESCAPE.search(body):
        _check_surrogates(value)
    return value


def _decode(body: bytes) -> str:
    if body.startswith(_BOM):
        raise InvalidBody("The body starts with a byte order mark; send UTF-8 without one.")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidBody(f"The body is not UTF-8: bad byte at offset {exc.start}.") from exc


def _parse_plain(body: bytes) -> Any:
    """Parse a body in which nothing but its depth can be wrong, as most are; None for one to be looked at more closely.

    That would take three times as long, for every object and every integer in it.
    """
    # One byte is found ten times as fast as two.
    has_escapes = b"\\" in body and b"\\u" in body
    if has_escapes or _MANY_DIGITS in body.translate(_DIGITS_ONLY):
        return None
    try:
        value = orjson.loads(body)
        # Of a key that stands twice one is gone, with its colon. Without escapes, all others are still there.
        is_whole = orjson.dumps(value).count(b":") == body.count(b":")
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return value if is_whole else None


def _parse(text: str) -> Any:
    if not text.strip():
        raise InvalidBody("The body is empty; a JSON document is needed.")
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_finite,
        )
    except json.JSONDecodeError as exc:
        raise InvalidBody(f"The body is not JSON: {exc.msg} (line {exc.lineno}, column {exc.colno}).") from exc


def _object(pairs: list[tuple[str, Any]]) -> JsonObject:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise InvalidBody(f"The key {_short(key)} stands twice in one object.")
            seen.add(key)
    return value


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _MAX_INTEGER_CHARS else None
    if value is None or not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise InvalidBody(f"The integer {_short(text)} is out of range: at most 2^64 either side of zero.")
    return value


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise InvalidBody(f"The number {_short(text)} is out of range.")
    return value


def _leave_out_not_finite(value: Any) -> None:
    """Drop the notes of graph nodes that hold NaN or an infinity: ComfyUI writes such into its own files.

    Anywhere else it is refused. Recursion is no deeper than the limit that was checked before.
    """
    if isinstance(value, dict):
        if "class_type" in value and isinstance(value.get("inputs"), dict):
            for key in [key for key in value if key not in _NODE_FIELDS and not _is_finite(value[key])]:
                del value[key]
        for part in value.values():
            _leave_out_not_finite(part)
    elif isinstance(value, list):
        for part in value:
            _leave_out_not_finite(part)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidBody(f"{json.dumps(value)} is not JSON: numbers must be finite.")


def _is_finite(value: Any) -> bool:
    """Whether there is nothing else among the numbers of a value."""
    if isinstance(value, float):
        return math.isfinite(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return all(map(_is_finite, parts))


def _check_depth(value: Any, max_depth: int) -> None:
    """Count nesting level by level, without recursion."""
    level = [value] if isinstance(value, (dict, list)) else []
    depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            raise _too_deep(max_depth)
        level = [
            part
            for container in level
            for part in (container.values() if type(container) is dict else container)
            if (kind := type(part)) is dict or kind is list
        ]


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as exc:
        half = f"\\u{ord(exc.object[exc.start]):04x}"
        raise InvalidBody(f"A string holds half of a surrogate pair ({half}), which is no character.") from exc


def _too_deep(max_depth: int) -> InvalidBody:
    return InvalidBody(f"The body is nested too deeply: at most {max_depth} levels.")


def _short(text: str) -> str:
    """Quote a piece of the body, cut, and safe to write into an answer even if it holds half a surrogate pair."""
    shown = text if len(text) <= 60 else f"{text[:40]}... ({len(text)} characters)"
    return ascii(shown)
