"""The official MCP client, as agents use it: over HTTP, with a key, in either era of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult, ImageContent, TextContent

from tests.waiting import PATIENCE

#: How the client may begin: with the newest version, or with a handshake.
ERAS = ("auto", "legacy")
LIMIT_S = 60.0

R = TypeVar("R")


@asynccontextmanager
async def connected(url: str, key: str = "", *, era: str = "auto") -> AsyncIterator[Client]:
    """Connect to a server's `/mcp`."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=LIMIT_S * PATIENCE) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=era) as client,
    ):
        yield client


def with_client(url: str, key: str, work: Callable[[Client], Awaitable[R]], *, era: str = "auto") -> R:
    """Return what work with a client comes to."""

    async def run() -> R:
        async with connected(url, key, era=era) as client:
            return await work(client)

    return asyncio.run(asyncio.wait_for(run(), LIMIT_S * PATIENCE))


def call(url: str, key: str, tool: str, arguments: Mapping[str, Any] | None = None) -> CallToolResult:
    """Call one tool."""

    async def once(client: Client) -> CallToolResult:
        return await client.call_tool(tool, dict(arguments or {}))

    return with_client(url, key, once)


def made(result: CallToolResult) -> dict[str, Any]:
    """Return what a tool made, which it has to have."""
    assert not result.is_error, result.content
    found: dict[str, Any] = result.structured_content
    return found


def said(result: CallToolResult) -> str:
    """Return all that a model reads of a result."""
    return "\n".join(each.text for each in result.content if isinstance(each, TextContent))


def refusal(result: CallToolResult) -> str:
    """Return why a tool did not do its work."""
    assert result.is_error, result.content
    return said(result)


def pictures(result: CallToolResult) -> list[ImageContent]:
    """Return the pictures of a result."""
    return [each for each in result.content if isinstance(each, ImageContent)]
