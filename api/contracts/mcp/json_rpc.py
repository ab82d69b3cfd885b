"""One JSON-RPC message of a client: read, with the protocol version that it is of, and answered.

The protocol has two eras. Up to 2025-11-25 a client shakes hands (`initialize`), and the header `MCP-Protocol-Version`
of its further requests says on what was agreed. From 2026-07-28 on each request says all of that itself, in `_meta`.
Both are served without sessions: any process answers any request.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcp_types import CLIENT_CAPABILITIES_META_KEY, DEFAULT_NEGOTIATED_VERSION, PROTOCOL_VERSION_META_KEY
from mcp_types.jsonrpc import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    UNSUPPORTED_PROTOCOL_VERSION,
    JSONRPCNotification,
    JSONRPCRequest,
)
from mcp_types.methods import validate_client_request
from mcp_types.version import KNOWN_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError
from werkzeug.datastructures import Headers

VERSION_HEADER: Final = "MCP-Protocol-Version"
METHOD_HEADER: Final = "Mcp-Method"
NAME_HEADER: Final = "Mcp-Name"
#: How a header carries text that is not plain ASCII.
_ENCODED = re.compile(r"=\?base64\?(.*)\?=", re.IGNORECASE)
#: Of what a client named and there is not, in an error.
_MOST_SHOWN = 60

RequestId = int | str


class ProtocolError(Exception):
    """A message that cannot be served: a JSON-RPC error. What a tool could not do is no such error.

    Parameters:
      code: of JSON-RPC, or of MCP.
      data: for programs.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(code, message, data)
        self.code = code
        self.message = message
        self.data = data


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message of a client. Without an id nobody waits for an answer."""

    id: RequestId | None
    method: str
    params: Mapping[str, Any]
    version: str

    @property
    def is_modern(self) -> bool:
        """Whether its version has no handshake."""
        return self.version in MODERN_PROTOCOL_VERSIONS

    @property
    def meta(self) -> Mapping[str, Any]:
        """What it says of itself."""
        found = self.params.get("_meta")
        return found if isinstance(found, Mapping) else {}


def read_message(value: Any, headers: Headers) -> Message:
    """Read a message, as far as its form and its version go. Raises ProtocolError."""
    if not isinstance(value, dict):
        raise ProtocolError(INVALID_REQUEST, "The body must be one JSON-RPC message: an object, and no list.")
    if "method" not in value and ("result" in value or "error" in value):
        # An answer to something that we never ask.
        return Message(id=None, method="", params={}, version=DEFAULT_NEGOTIATED_VERSION)
    model = JSONRPCRequest if "id" in value else JSONRPCNotification
    try:
        read = model.model_validate(value)
    except ValidationError as exc:
        raise ProtocolError(INVALID_REQUEST, f"This is no JSON-RPC message: {first_problem(exc)}.") from exc
    return Message(
        id=read.id if isinstance(read, JSONRPCRequest) else None,
        method=read.method,
        params=read.params or {},
        version=_version(headers),
    )


def check_message(message: Message, headers: Headers) -> None:
    """Hold a request against its protocol version. Raises ProtocolError."""
    if message.is_modern:
        _check_envelope(message, headers)
    try:
        validate_client_request(message.method, message.version, message.params or None)
    except KeyError as exc:
        raise ProtocolError(METHOD_NOT_FOUND, f"There is no method {message.method[:_MOST_SHOWN]!a} here.") from exc
    except ValidationError as exc:
        raise ProtocolError(INVALID_PARAMS, f"The params do not fit the method: {first_problem(exc)}.") from exc


def first_problem(exc: ValidationError) -> str:
    """Return what is wrong first, and where, without the values that were sent."""
    problem = exc.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def _version(headers: Headers) -> str:
    named = headers.get(VERSION_HEADER)
    if named is None:
        return DEFAULT_NEGOTIATED_VERSION
    if named not in KNOWN_PROTOCOL_VERSIONS:
        raise ProtocolError(
            UNSUPPORTED_PROTOCOL_VERSION,
            f"{VERSION_HEADER} names a version that is not known here; there are {', '.join(KNOWN_PROTOCOL_VERSIONS)}.",
            {"supported": list(KNOWN_PROTOCOL_VERSIONS), "requested": named[:_MOST_SHOWN]},
        )
    return named


def _check_envelope(message: Message, headers: Headers) -> None:
    """Refuse a request whose headers, which proxies go by, say something else than its body, which we go by."""
    missing = [key for key in (PROTOCOL_VERSION_META_KEY, CLIENT_CAPABILITIES_META_KEY) if key not in message.meta]
    if missing:
        raise ProtocolError(INVALID_PARAMS, f"params._meta lacks {', '.join(missing)}.")
    expected = {VERSION_HEADER: message.meta[PROTOCOL_VERSION_META_KEY], METHOD_HEADER: message.method}
    if message.method == "tools/call":
        expected[NAME_HEADER] = message.params.get("name")
    for name, value in expected.items():
        if _decoded(headers.get(name)) != value:
            raise ProtocolError(HEADER_MISMATCH, f"The header {name} must say the same as the body.")


def _decoded(header: str | None) -> str | None:
    found = None if header is None else _ENCODED.fullmatch(header)
    if found is None:
        return header
    try:
        return base64.b64decode(found[1], validate=True).decode()
    except (binascii.Error, ValueError):
        return None
