"""Reading a request body: its declared type, its size, its time, and then its JSON."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import orjson
from flask import request
from gunicorn.http.errors import ParseException
from werkzeug.http import parse_options_header

from api.http.errors import RequestTimeout
from api.http.time_limits import at_most
from core.errors import BodyTooLarge, InvalidBody, UnsupportedMediaType
from core.settings import Settings
from core.texts import strict_json

#: Longest time a body may take to arrive.
BODY_S = 60.0
_PIECE_BYTES = 256 * 1024


def read_json(settings: Settings, *, of_any_type: bool = False) -> Any:
    """Return the request's body as JSON.

    Parameters:
      of_any_type: whatever type it is declared as, as ComfyUI reads it. Only for routes that pages of other sites
        cannot reach with a user's key: see `api.http.auth`.

    Raises:
      UnsupportedMediaType: not declared as JSON, in another character set, or compressed.
      BodyTooLarge: over the limit; a declared length over it is refused unread.
      RequestTimeout: it came too slowly.
      InvalidBody: it broke off, or is not the JSON we accept.
    """
    if of_any_type:
        check_codings()
    else:
        check_media_type()
    return strict_json.loads(_read(settings.max_body_bytes), max_depth=settings.max_json_depth)


def read_body(settings: Settings, *, limit_bytes: int) -> bytes:
    """Return the request's body as it is. Raises BodyTooLarge, RequestTimeout, InvalidBody, UnsupportedMediaType."""
    check_codings()
    return _read(min(limit_bytes, max(settings.max_body_bytes, settings.max_upload_bytes)))


def has_body() -> bool:
    """Return whether the client announced a body."""
    return bool(request.content_length) or "chunked" in request.headers.get("Transfer-Encoding", "").lower()


def check_media_type() -> None:
    """Refuse bodies that are not declared as JSON: what a plain HTML form can send is none of ours."""
    kind, parameters = parse_options_header(request.headers.get("Content-Type"))
    if not kind and not has_body():
        raise InvalidBody("The body is empty; a JSON document is needed.")
    if kind.lower() != "application/json":
        raise UnsupportedMediaType("Send the body as Content-Type: application/json.")
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("JSON is read as UTF-8 only.")
    check_codings()


def check_codings() -> None:
    """Refuse bodies that would have to be unpacked, whichever header says so."""
    content = request.headers.get("Content-Encoding", "identity")
    transfer = request.headers.get("Transfer-Encoding", "chunked")
    words = {word.strip().lower() for word in f"{content},{transfer}".split(",")}
    if words - {"identity", "chunked"}:
        raise UnsupportedMediaType("Compressed bodies are not accepted.")


def body_digest(body: Any) -> bytes:
    """Return the SHA-256 of a body, however its keys are ordered and its text is spaced."""
    try:
        text = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        # Integers beyond 64 bits.
        text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(text).digest()


def _read(limit_bytes: int) -> bytes:
    declared = request.content_length
    if declared is not None and declared > limit_bytes:
        raise _too_large(limit_bytes)
    if not has_body():
        return b""
    pieces: list[bytes] = []
    missing = limit_bytes + 1 if declared is None else declared
    stream = request.environ["wsgi.input"]
    with at_most(BODY_S, RequestTimeout(f"The body did not arrive within {BODY_S:.0f} s.")):
        while missing > 0:
            try:
                piece = stream.read(min(missing, _PIECE_BYTES))
            except (OSError, ParseException) as exc:
                raise InvalidBody("The body broke off, or its chunks are malformed.") from exc
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
    if declared is None and missing <= 0:
        raise _too_large(limit_bytes)
    if declared is not None and missing > 0:
        raise InvalidBody("The body broke off.")
    return b"".join(pieces)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is over the limit of {limit_bytes} bytes.")
