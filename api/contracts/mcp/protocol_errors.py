"""Errors of MCP over HTTP: JSON-RPC's, also where no message was read yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flask import Response
from mcp_types.jsonrpc import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_PROTOCOL_VERSION,
)
from typing_extensions import NotRequired, TypedDict

from api.contracts.mcp.json_rpc import Message, ProtocolError, RequestId
from api.http.error_shapes import ErrorShape, error_headers, told_error
from api.http.errors import STATUS, json_response
from core.errors import ComfylineError, InvalidBody
from core.texts.json_types import JsonObject

#: The status of an error in the versions without a handshake; in those before it is an answer like any other.
_MODERN_STATUS: Final[Mapping[int, int]] = {
    **dict.fromkeys((PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS, HEADER_MISMATCH), 400),
    **dict.fromkeys((MISSING_REQUIRED_CLIENT_CAPABILITY, UNSUPPORTED_PROTOCOL_VERSION), 400),
    METHOD_NOT_FOUND: 404,
}


class RpcErrorBodyView(TypedDict):
    code: int
    message: str
    data: NotRequired[Any]


class RpcErrorView(TypedDict):
    """An error of JSON-RPC; the id is null where no request was read."""

    jsonrpc: str
    id: int | str | None
    error: RpcErrorBodyView


@dataclass(frozen=True, kw_only=True)
class RpcErrors(ErrorShape):
    """How this contract answers errors of the request itself, such as a wrong key."""

    @property
    def view(self) -> type[Any]:
        """The model of its bodies."""
        return RpcErrorView

    def body(self, error: ComfylineError) -> Any:
        """Return the body of an error: what other contracts say of it is its data."""
        status = self.status(error)
        told = told_error(error, status)["error"]
        code = PARSE_ERROR if isinstance(error, InvalidBody) else INVALID_REQUEST if status < 500 else INTERNAL_ERROR
        data: JsonObject = {"code": told["code"], "details": told["details"]}
        return error_body(None, ProtocolError(code, told["message"], data))

    def response(self, error: ComfylineError) -> Response:
        """Return an error as an answer."""
        return json_response(self.body(error), self.status(error), error_headers(error))


MCP: Final = RpcErrors(statuses=STATUS)


def error_body(request_id: RequestId | None, error: ProtocolError) -> RpcErrorView:
    """Return an error as a message."""
    told: RpcErrorBodyView = {"code": error.code, "message": error.message}
    if error.data is not None:
        told["data"] = error.data
    return {"jsonrpc": "2.0", "id": request_id, "error": told}


def refused(error: ProtocolError, message: Message | None) -> Response:
    """Return a message that cannot be served as an answer. Parameters: message - None where it could not be read."""
    is_answered = message is not None and not message.is_modern
    status = 200 if is_answered else _MODERN_STATUS.get(error.code, 200)
    return json_response(error_body(None if message is None else message.id, error), status)
