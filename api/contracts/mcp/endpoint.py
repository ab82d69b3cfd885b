"""MCP over streamable HTTP: one route, which takes one message and answers it, in JSON or as a stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, Final

import mcp_types
from flask import Response, request
from mcp_types import SERVER_INFO_META_KEY
from mcp_types.jsonrpc import INTERNAL_ERROR, METHOD_NOT_FOUND
from mcp_types.methods import serialize_server_result
from mcp_types.version import (
    HANDSHAKE_PROTOCOL_VERSIONS,
    KNOWN_PROTOCOL_VERSIONS,
    LATEST_HANDSHAKE_VERSION,
    MODERN_PROTOCOL_VERSIONS,
)
from pydantic import ConfigDict, Field
from typing_extensions import NotRequired, TypedDict

from api.contracts.comfy_v2.events import KEEPALIVE, event_stream_response, frame
from api.contracts.mcp.json_rpc import (
    METHOD_HEADER,
    NAME_HEADER,
    VERSION_HEADER,
    Message,
    ProtocolError,
    check_message,
    read_message,
)
from api.contracts.mcp.protocol_errors import MCP, RpcErrorBodyView, RpcErrorView, error_body, refused
from api.contracts.mcp.tool import Moved, Steps, ToolResult, failed
from api.contracts.mcp.toolbox import Toolbox
from api.http.auth import Guard
from api.http.caller import caller, hang_up_check
from api.http.error_shapes import ContractBlueprint
from api.http.errors import ForbiddenOrigin, json_response
from api.http.json_body import read_json
from api.http.scopes import ANY_KEY
from api.schema.described import AGENTS, Described, Parameter
from api.schema.validation import Body
from core.errors import ComfylineError
from core.settings import Settings
from core.texts.json_types import JsonObject

log = logging.getLogger(__name__)

INSTRUCTIONS: Final = (
    "A fleet of GPUs that run ComfyUI workflows as jobs. Usually: list_templates, then submit_template (or "
    "submit_workflow with a graph of your own, submit_batch for many), then wait_for_job until has_ended, then "
    "show_outputs. Jobs go on whether or not anybody waits; links to files need no key and end."
)
#: Silence after which a comment is sent: HTTP libraries that nobody told otherwise give up after five seconds.
QUIET_S: Final = 3.0
#: How much of a whole a notification says at least more than the one before it, which the protocol wants.
_LEAST_STEP: Final = 1e-6
HEADERS = (
    Parameter(
        name=VERSION_HEADER,
        place="header",
        description="The version that client and server have agreed on.",
        schema={"type": "string", "enum": list(KNOWN_PROTOCOL_VERSIONS)},
    ),
    Parameter(
        name=METHOD_HEADER,
        place="header",
        description="From 2026-07-28 on: the method, as in the body.",
        schema={"type": "string"},
    ),
    Parameter(
        name=NAME_HEADER,
        place="header",
        description="From 2026-07-28 on: the tool that is called, as in the body.",
        schema={"type": "string"},
    ),
)


class MessageBody(Body):
    """One message of JSON-RPC, as MCP has them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}]})

    jsonrpc: str
    id: int | str | None = Field(None, description="None of a notification, which is answered with 202.")
    method: str
    params: dict[str, Any] | None = None


class MessageView(TypedDict):
    """The answer to a request: its result, or in its place an error."""

    jsonrpc: str
    id: int | str | None
    result: NotRequired[JsonObject]
    error: NotRequired[RpcErrorBodyView]


def mcp_blueprint(settings: Settings, guard: Guard, tools: Toolbox) -> ContractBlueprint:
    """Return the route of `/mcp`. It has no sessions and begins nothing by itself, so GET and DELETE are 405."""
    blueprint = ContractBlueprint("mcp", __name__, errors=MCP)

    @blueprint.post("/mcp")
    @Described(
        summary="A message of the Model Context Protocol",
        tag=AGENTS,
        body=MessageBody,
        scope=ANY_KEY,
        answers={200: (MessageView, "text/event-stream"), 202: None, 404: RpcErrorView},
        errors=(ForbiddenOrigin,),
        parameters=HEADERS,
        text="Streamable HTTP without sessions. Each tool needs the scope of what it does. A tool that waits answers "
        "with a stream, where the client takes one: progress, and its result last.",
    )
    def message() -> Response:
        guard.require_own_origin()
        found = None
        try:
            found = read_message(read_json(settings), request.headers)
            if found.id is None:
                return Response(status=202)
            check_message(found, request.headers)
            if found.method == "tools/call":
                return called(found)
            return json_response(answer(found, result_of(found)))
        except ProtocolError as exc:
            return refused(exc, found)

    def result_of(asked: Message) -> JsonObject:
        if asked.method == "tools/list":
            return _dumped(mcp_types.ListToolsResult(tools=tools.listed(caller().scopes)))
        if asked.method == "initialize":
            return _dumped(_initialized(asked))
        if asked.method == "server/discover":
            return _dumped(
                mcp_types.DiscoverResult(
                    supported_versions=list(MODERN_PROTOCOL_VERSIONS),
                    capabilities=_CAPABILITIES,
                    instructions=INSTRUCTIONS,
                )
            )
        if asked.method == "ping":
            return {}
        raise ProtocolError(METHOD_NOT_FOUND, f"This server has no {asked.method}: it offers tools alone.")

    def called(asked: Message) -> Response:
        name, arguments = asked.params["name"], asked.params.get("arguments") or {}
        try:
            made = tools.find(name, caller().scopes).call(arguments)
            if not isinstance(made, ToolResult) and request.accept_mimetypes["text/event-stream"] > 0:
                stream = ToolStream(asked, made, hang_up_check())
                return event_stream_response(stream.frames())
            result = (made if isinstance(made, ToolResult) else _last(made, hang_up_check())).to_message()
        except ComfylineError as exc:
            result = failed(exc)
        return json_response(answer(asked, result))

    return blueprint


class ToolStream:
    """The answer of a tool that waits, as a stream.

    Parameters:
      is_gone: whether the client has hung up.
    """

    def __init__(self, asked: Message, steps: Steps, is_gone: Callable[[], bool]) -> None:
        self._asked = asked
        self._steps = steps
        self._is_gone = is_gone
        self._token = asked.meta.get("progressToken")
        self._value = 0.0

    def frames(self) -> Iterator[str]:
        """Yield what is told in between, if the client asked for that, and the result last."""
        # At once, so that the client knows that it is heard.
        yield KEEPALIVE
        spoke_at_s = time.monotonic()
        try:
            for step in self._steps:
                if isinstance(step, ToolResult):
                    yield frame("message", answer(self._asked, step.to_message()))
                    return
                if step is not None and self._token is not None:
                    spoke_at_s = time.monotonic()
                    yield frame("message", self._progress(step))
                elif time.monotonic() - spoke_at_s >= QUIET_S:
                    spoke_at_s = time.monotonic()
                    yield KEEPALIVE
                if self._is_gone():
                    return
        except ComfylineError as exc:
            yield frame("message", answer(self._asked, failed(exc)))
        except Exception as exc:
            # The head of the answer is on its way: as an error of ours it ends the stream.
            log.error("unexpected error in %s", self._asked.method, exc_info=exc)
            fault = ProtocolError(INTERNAL_ERROR, "Something went wrong on this server; the reason is in its log.")
            yield frame("message", error_body(self._asked.id, fault))

    def _progress(self, moved: Moved) -> JsonObject:
        # It has to rise each time, also while a job waits, or begins anew.
        self._value = max(moved.value, self._value + _LEAST_STEP)
        params = {"progressToken": self._token, "progress": self._value, "total": 1.0, "message": moved.message}
        return {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}


def answer(asked: Message, result: JsonObject) -> JsonObject:
    """Return a result as a message, with what its version of the protocol knows."""
    shaped = serialize_server_result(asked.method, asked.version, result)
    if asked.is_modern:
        shaped["_meta"] = {**(shaped.get("_meta") or {}), SERVER_INFO_META_KEY: _dumped(_server())}
    return {"jsonrpc": "2.0", "id": asked.id, "result": shaped}


def _initialized(asked: Message) -> mcp_types.InitializeResult:
    wanted = asked.params.get("protocolVersion")
    agreed = wanted if wanted in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION
    return mcp_types.InitializeResult(
        protocol_version=str(agreed), capabilities=_CAPABILITIES, server_info=_server(), instructions=INSTRUCTIONS
    )


_CAPABILITIES: Final = mcp_types.ServerCapabilities(tools=mcp_types.ToolsCapability(list_changed=False))


def _server() -> mcp_types.Implementation:
    return mcp_types.Implementation(name="comfyline", title="Comfyline", version=version("comfyline"))


def _last(steps: Steps, is_gone: Callable[[], bool]) -> ToolResult:
    """Return the result of a tool that waits, for a client that takes no stream; of one that left, what it missed."""
    for step in steps:
        if isinstance(step, ToolResult):
            return step
        if is_gone():
            break
    return ToolResult(view={})


def _dumped(model: Any) -> JsonObject:
    found: JsonObject = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return found
