"""The websocket of one ComfyUI server: connected in the background, always drained, never reused under an old id."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import socket
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import websocket

from comfy.prompts.frames import Event, Preview, decode_binary, decode_text
from core.background import Loop, failure_of
from core.errors import ComfyUnavailable

log = logging.getLogger(__name__)

#: What websocket-client raises when the peer is gone, refuses, or breaks the protocol.
_SOCKET_ERRORS = (websocket.WebSocketException, OSError)
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
#: How long a new connection may take to say its first words.
_GREETING_S = 2.0
#: Previews name their prompt and node only if this is the very first text frame we send (0.3.45 and newer).
_FEATURE_FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})


def problem_of(base_url: str) -> str | None:
    """Return why the server's websocket cannot be used, None if it can. Tries once, for some seconds at most."""
    events = EventSocket(base_url, on_frame=lambda _frame: None, on_lost=lambda _client_id: None)
    try:
        events.ensure_connected()
    except ComfyUnavailable as exc:
        return exc.message
    finally:
        events.close()
    return None


def _vain(error: Exception) -> str | None:
    """Return why another attempt is in vain; None if it may succeed, as with a server that restarts."""
    if isinstance(error, websocket.WebSocketTimeoutException):
        # One client that does not read stalls the events of all, for as long as it lives.
        return "its websocket accepts connections but sends nothing"
    if isinstance(error, websocket.WebSocketBadStatusException):
        # A proxy in between that does not pass websockets on, or wants to know who asks.
        return f"its websocket is answered with {error.status_code}"
    if isinstance(error, websocket.WebSocketException):
        return "its websocket is closed at once"
    return "its websocket does not answer" if isinstance(error, TimeoutError) else None


class EventSocket:
    """Keeps one connection up and hands its frames to callbacks, which run in the reading thread and must be quick.

    ComfyUI sends to one socket after another without a timeout, so a client that stops reading silences all others:
    the reading thread does nothing else. Each connection gets a new client id, because the server forgets the new
    socket of an id when the old one closes (ComfyUI up to 2026, `server.py websocket_handler`).
    """

    def __init__(
        self,
        base_url: str,
        *,
        on_frame: Callable[[Event | Preview], None],
        on_lost: Callable[[str], None],
        connect_timeout_s: float = 5.0,
    ) -> None:
        """`on_lost` gets the client id of a connection that was live and is gone: its events will never come."""
        self._url = "ws" + base_url.rstrip("/").removeprefix("http") + "/ws"
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._connect_timeout_s = connect_timeout_s
        self._changed = threading.Condition()
        self._client_id: str | None = None
        self._failures = 0
        #: Why the last attempt had no success, if another is most likely no better: prompts do not wait for it.
        self._vain: str | None = None
        self._closing = False
        self._wanted = threading.Event()
        self._connection: websocket.WebSocket | None = None
        self._retry_s = _FIRST_RETRY_S
        self._loop = Loop("comfy-events", self._serve)

    @property
    def client_id(self) -> str | None:
        """The id of the live connection, None while there is none."""
        return self._client_id

    def ensure_connected(self) -> str:
        """Return the id of a live connection, making one if need be.

        Raises:
          ComfyUnavailable: the server does not accept the connection, or accepts it and then says nothing; trying
            goes on in the background.
        """
        if self._client_id is not None:
            return self._client_id
        with self._changed:
            self._start_thread()
            if self._vain is not None:
                raise ComfyUnavailable(self._vain)
            failures = self._failures
            self._wanted.set()
            self._changed.wait_for(
                lambda: self._client_id is not None or self._closing or self._failures > failures,
                timeout=self._connect_timeout_s + _GREETING_S,
            )
            if self._client_id is None:
                raise ComfyUnavailable(self._vain or "there is no connection to ComfyUI's websocket")
            return self._client_id

    def reconnect(self) -> None:
        """Give up a connection that seems deaf; the next one gets a new client id."""
        self._abort()

    def close(self) -> None:
        """End the connection and the thread. Idempotent."""
        with self._changed:
            self._closing = True
        self._loop.end()
        self._wanted.set()
        self._abort()
        self._loop.join()

    def _start_thread(self) -> None:
        if self._closing:
            raise ComfyUnavailable("the session is closed")
        self._loop.start()

    def _serve(self) -> None:
        """Serve one connection to its end."""
        self._wanted.clear()
        client_id = str(uuid.uuid4())
        live = False
        try:
            with self._connect(client_id) as connection:
                self._publish(client_id)
                live = True
                self._retry_s = _FIRST_RETRY_S
                self._read(connection)
        except _SOCKET_ERRORS as exc:
            log.debug("websocket %s ended: %s", self._url, exc)
            self._vain = None if live else _vain(exc)
        finally:
            self._publish(None)
            if live:
                self._on_lost(client_id)
        if not self._closing:
            self._wanted.wait(self._retry_s)
            self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)

    @contextlib.contextmanager
    def _connect(self, client_id: str) -> Iterator[websocket.WebSocket]:
        # No Origin: ComfyUI compares it with the Host and answers 403. UTF-8 is checked by the JSON decoder, in C;
        # websocket-client would do it byte by byte in Python.
        connection = websocket.create_connection(
            f"{self._url}?clientId={client_id}",
            timeout=self._connect_timeout_s,
            socket=self._open_socket(),
            suppress_origin=True,
            redirect_limit=0,
            skip_utf8_validation=True,
        )
        with self._changed:
            self._connection = connection
        try:
            self._greet(connection)
            yield connection
        finally:
            with self._changed:
                self._connection = None
            connection.shutdown()  # type: ignore[no-untyped-call]  # websocket-client leaves it unannotated

    def _open_socket(self) -> socket.socket:
        """Connect by ourselves: websocket-client 1.9 takes the proxy of the environment and cannot be told not to.

        The limit of the connection attempt stays on the socket for the handshake.
        """
        parts = urlsplit(self._url)
        secure = parts.scheme == "wss"
        address = (parts.hostname or "", parts.port or (443 if secure else 80))
        raw = socket.create_connection(address, timeout=self._connect_timeout_s)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if not secure:
            return raw
        try:
            return ssl.create_default_context().wrap_socket(raw, server_hostname=parts.hostname)
        except OSError:
            raw.close()
            raise

    def _greet(self, connection: websocket.WebSocket) -> None:
        """Wait until the server has registered the connection, or events of a prompt posted now would be dropped."""
        connection.settimeout(_GREETING_S)
        connection.send(_FEATURE_FLAGS)
        # The first frame is always `status`; the answer to the feature flags proves that they came in time.
        awaited = {"status", "feature_flags"}
        try:
            while awaited:
                frame = self._receive(connection)
                if isinstance(frame, Event):
                    awaited.discard(frame.kind)
        except websocket.WebSocketTimeoutException:
            if "status" in awaited:
                raise
        connection.settimeout(None)

    def _read(self, connection: websocket.WebSocket) -> None:
        while not self._closing:
            frame = self._receive(connection)
            if frame is not None:
                # One frame that its reader stumbles over must not cost the connection, and with it all later events.
                failure_of(functools.partial(self._on_frame, frame), "comfy-events")

    def _receive(self, connection: websocket.WebSocket) -> Event | Preview | None:
        opcode, payload = connection.recv_data()
        if opcode == websocket.ABNF.OPCODE_TEXT:
            return decode_text(payload)
        if opcode == websocket.ABNF.OPCODE_BINARY:
            return decode_binary(payload)
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            raise websocket.WebSocketConnectionClosedException("closed by the server")
        return None

    def _publish(self, client_id: str | None) -> None:
        with self._changed:
            self._client_id = client_id
            if client_id is None:
                self._failures += 1
            else:
                self._vain = None
            self._changed.notify_all()

    def _abort(self) -> None:
        with self._changed:
            connection = self._connection
        if connection is not None:
            # Wakes the reading thread, which owns the connection and closes it.
            connection.abort()  # type: ignore[no-untyped-call]  # websocket-client leaves it unannotated
