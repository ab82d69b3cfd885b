"""What the command line varies: `NAME=1..100`, `NAME=a,b,c`, `NAME=[JSON]`, `NAME=@FILE`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from core.errors import InvalidBody, InvalidRequest
from core.texts.strict_json import loads

_NUMBER = r"[+-]?[0-9]{1,20}(?:\.[0-9]{1,20})?"
_RANGE = re.compile(rf"{_NUMBER}\.\.{_NUMBER}(?:\.\.{_NUMBER})?")
_PIECE_BYTES = 1 << 20


def parse_over(texts: Sequence[str]) -> dict[str, Any]:
    """Return what is varied as the body of a batch has it. Raises InvalidRequest: one cannot be read."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not (name and equals and value):
            raise InvalidRequest(f"--over {text}: it is NAME=VALUES, for instance --over seed=1..100.")
        if name in found:
            raise InvalidRequest(f"--over {text}: {name} is given twice.")
        found[name] = _values(text, value)
    return found


def request_key(body: Mapping[str, Any], files: Iterable[tuple[str, str, Path]]) -> str:
    """Return the key by which the same body is the same batch, whenever and wherever it is sent from.

    Parameters:
      files: those of this machine that it names, by node and input: what is in them counts.
    """
    digest = sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    for node_id, name, file in files:
        digest.update(f"\n{node_id}.{name}:".encode())
        with file.open("rb") as content:
            while part := content.read(_PIECE_BYTES):
                digest.update(part)
    return f"comfyline-{digest.hexdigest()}"


def _values(text: str, value: str) -> Any:
    if value.startswith("@"):
        return _lines(text, Path(value[1:]))
    if _RANGE.fullmatch(value):
        return value
    if value.startswith("["):
        return _json(text, value)
    return [_scalar(part) for part in value.split(",")]


def _lines(text: str, file: Path) -> list[str]:
    """Return the lines of a file that are not blank: texts, as they are."""
    try:
        content = file.read_text("utf-8")
    except (OSError, UnicodeError) as exc:
        raise InvalidRequest(f"--over {text}: {file} cannot be read as UTF-8 text.") from exc
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines:
        raise InvalidRequest(f"--over {text}: {file} has no lines.")
    return lines


def _json(text: str, value: str) -> list[Any]:
    try:
        found = loads(value.encode())
    except InvalidBody as exc:
        raise InvalidRequest(f"--over {text}: {exc.message}") from exc
    if not isinstance(found, list):
        raise InvalidRequest(f"--over {text}: what begins with [ is a JSON list.")
    return found


def _scalar(text: str) -> Any:
    """Return a number, true or false where a text reads as one."""
    try:
        value = loads(text.strip().encode())
    except InvalidBody:
        return text
    return value if isinstance(value, (str, int, float)) else text
