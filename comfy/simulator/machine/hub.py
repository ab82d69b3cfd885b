"""Keeps the websockets and sends them everything, in order, from one loop, as ComfyUI does."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp
from aiohttp import web

from comfy.simulator.machine.faults import Faults

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4

#: A message for one client id, or for all (None): a JSON event's name and data, or a finished binary frame.
Message = tuple[str, Any, str | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connection:
    """One open websocket and the request it came from."""

    socket: web.WebSocketResponse
    request: web.Request
    #: What the client said it understands in its first frame.
    features: dict[str, Any] = dataclasses.field(default_factory=dict)


class Hub:
    """All sockets of the server. Only `publish` and the `supports` question may be used from other threads."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._connections: dict[str, Connection] = {}
        self._log_readers: set[str] = set()
        self._outbox: collections.deque[Message] = collections.deque()
        self._wake = asyncio.Event()
        self._wake_ordered = False
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The client whose prompt is running or ran last, and the node shown to it; written by the worker thread.
        self.client_id: str | None = None
        self.last_node_id: str | None = None

    def publish(self, event: str, data: Any, client_id: str | None) -> None:
        """Queue a message from any thread; it goes out when those before it are out. No socket, no message."""
        self._outbox.append((event, data, client_id))
        # One wake-up per burst: a wake-up per message would cost the worker thread a system call each.
        if not self._wake_ordered and self._loop is not None:
            self._wake_ordered = True
            self._loop.call_soon_threadsafe(self._wake.set)

    def publish_frame(self, frame: bytes, client_id: str | None) -> None:
        """Queue a binary frame."""
        self.publish("", frame, client_id)

    def supports(self, client_id: str | None, feature: str) -> bool:
        """Whether that client announced a feature."""
        connection = self._connections.get(client_id) if client_id is not None else None
        return connection is not None and connection.features.get(feature) is True

    def has_listener(self, client_id: str | None) -> bool:
        """Whether a message for this client, or for all, would reach anybody now."""
        return bool(self._connections) if client_id is None else client_id in self._connections

    def connect(self, client_id: str, connection: Connection) -> None:
        """Make this the one socket of its client id; an older one stays open and hears nothing more."""
        self._connections[client_id] = connection

    def disconnect(self, client_id: str, connection: Connection, *, only_itself: bool) -> None:
        """Forget a closed socket. Without `only_itself` the entry goes even if a newer socket holds it by now."""
        if not only_itself or self._connections.get(client_id) is connection:
            self._connections.pop(client_id, None)

    def watch_logs(self, client_id: str, *, enabled: bool) -> None:
        """Send this client the log lines, or stop."""
        if enabled:
            self._log_readers.add(client_id)
        else:
            self._log_readers.discard(client_id)

    def publish_log(self, entry: Mapping[str, str]) -> None:
        """Send one log line to those who asked."""
        for client_id in tuple(self._log_readers):
            self.publish("logs", {"entries": [entry]}, client_id)

    async def run(self) -> None:
        """Send queued messages for ever.

        One socket after another and without a time limit, so that one client that does not read stalls all.
        Raises: TypeError when a message cannot be written as JSON and somebody is there to get it; ComfyUI's
        process ends then, and so does this one.
        """
        self._loop = asyncio.get_running_loop()
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._wake_ordered = False
            while self._outbox:
                await self._send(*self._outbox.popleft())

    async def send_now(self, event: str, data: Any, connection: Connection) -> None:
        """Send to one socket at once, past the queue: only for the greetings of a new connection."""
        await _send_one(connection, json.dumps({"type": event, "data": data}))

    async def _send(self, event: str, data: Any, client_id: str | None) -> None:
        receivers = self._receivers(client_id)
        if not receivers:
            return
        stall = self._faults.take("socket_stall")
        if stall is not None:
            await asyncio.sleep(float(stall["seconds"]))
        if self._faults.take("socket_drop") is not None:
            self.drop_all()
            return
        message = data if isinstance(data, bytes) else json.dumps({"type": event, "data": data})
        for connection in receivers:
            await _send_one(connection, message)

    def _receivers(self, client_id: str | None) -> list[Connection]:
        if client_id is None:
            return list(self._connections.values())
        connection = self._connections.get(client_id)
        return [] if connection is None else [connection]

    def drop_all(self) -> None:
        """Cut every socket without a close frame."""
        for connection in self._all():
            transport = connection.request.transport
            if transport is not None:
                transport.abort()

    def _all(self) -> Iterable[Connection]:
        return tuple(self._connections.values())


def preview_frame(image: bytes, format_name: str, metadata: Mapping[str, Any] | None) -> bytes:
    """A picture as one binary frame: with metadata event 4, else event 1; `format_name` is JPEG or PNG."""
    if metadata is None:
        return struct.pack(">II", PREVIEW_IMAGE, 1 if format_name == "JPEG" else 2) + image
    full = {**metadata, "image_type": "image/jpeg" if format_name == "JPEG" else "image/png"}
    text = json.dumps(full).encode()
    return struct.pack(">II", PREVIEW_IMAGE_WITH_METADATA, len(text)) + text + image


def text_frame(node_id: str, text: str) -> bytes:
    """A progress text of one node as one binary frame."""
    name = node_id.encode()
    return struct.pack(">II", TEXT, len(name)) + name + text.encode()


async def _send_one(connection: Connection, message: str | bytes) -> None:
    try:
        if isinstance(message, bytes):
            await connection.socket.send_bytes(message)
        else:
            await connection.socket.send_str(message)
    except (ConnectionError, aiohttp.ClientError):
        # A client that went away is noticed by its own handler; the others must still get theirs.
        return
