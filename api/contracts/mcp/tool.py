"""A tool of MCP: what it takes, needs and makes, and how it is listed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeAlias, TypeVar

import mcp_types
from pydantic import TypeAdapter

from api.http.error_shapes import told_error
from api.http.errors import status_of
from api.schema.validation import Body, Schema, read
from core.errors import ComfylineError, TransientError
from core.records.access import Scope
from core.texts.json_types import JsonObject

A = TypeVar("A", bound=Body)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture for an agent to look at."""

    #: In base64.
    data: str
    content_type: str


@dataclass(frozen=True, kw_only=True)
class ToolResult:
    """What a tool made."""

    #: By the schema of its tool.
    view: Mapping[str, Any]
    pictures: tuple[Picture, ...] = ()
    #: What to do next; empty where that is plain.
    advice: str = ""

    def to_message(self) -> JsonObject:
        """Return it as MCP has it: for programs, and the same as text for models."""
        content: list[mcp_types.ContentBlock] = [mcp_types.TextContent(text=json.dumps(self.view))]
        content += [mcp_types.ImageContent(data=each.data, mime_type=each.content_type) for each in self.pictures]
        if self.advice:
            content.append(mcp_types.TextContent(text=self.advice))
        return _dumped(mcp_types.CallToolResult(content=content, structured_content=dict(self.view)))


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What a tool that waits has to tell in between."""

    #: The part that is done, from 0 to 1.
    value: float
    message: str


#: Of a tool that waits: None where it goes on without news, at least once a second, and the result last.
Steps: TypeAlias = Iterator[Moved | ToolResult | None]


@dataclass(frozen=True, kw_only=True)
class Tool(Generic[A]):
    """What agents may call."""

    name: str
    title: str
    description: str
    #: What a key needs for it.
    scope: Scope
    arguments: type[A]
    #: The `TypedDict` of what it makes.
    view: type[Any]
    #: Begins while the request is known; the steps of a tool that waits do without it.
    run: Callable[[A], ToolResult | Steps]
    #: Nothing is other for it.
    only_reads: bool = False
    #: It ends what goes on.
    is_destructive: bool = False

    def call(self, arguments: Mapping[str, Any]) -> ToolResult | Steps:
        """Run it. Raises InvalidRequest where the arguments do not fit, and what the tool raises."""
        return self.run(read(self.arguments, dict(arguments)))

    @cached_property
    def listed(self) -> mcp_types.Tool:
        """How the tool is listed."""
        return mcp_types.Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=_input_schema(self.arguments),
            output_schema=_output_schema(self.view),
            annotations=mcp_types.ToolAnnotations(
                read_only_hint=self.only_reads,
                destructive_hint=self.is_destructive,
                idempotent_hint=self.only_reads or self.is_destructive,
                open_world_hint=False,
            ),
        )


def failed(error: ComfylineError) -> JsonObject:
    """Return why a tool could not do its work, with what to do about it: models read it and try otherwise."""
    told = told_error(error, status_of(error))["error"]
    text = f"{told['code']}: {told['message']}"
    if isinstance(error, TransientError):
        when = "later" if error.retry_after_s is None else f"in {error.retry_after_s} s"
        text += f" Nothing was begun: try again {when}."
    if told["details"]:
        text += f" {json.dumps(told['details'])}"
    return _dumped(mcp_types.CallToolResult(content=[mcp_types.TextContent(text=text)], is_error=True))


def _dumped(result: mcp_types.CallToolResult) -> JsonObject:
    return result.model_dump(by_alias=True, mode="json", exclude_none=True)


def _input_schema(arguments: type[Body]) -> JsonObject:
    return {key: value for key, value in arguments.model_json_schema(schema_generator=Schema).items() if key != "title"}


def _output_schema(view: type[Any]) -> JsonObject:
    return TypeAdapter(view).json_schema(mode="serialization", schema_generator=Schema)
