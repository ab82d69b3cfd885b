"""One websocket of one client, over the connection that its request came by. wsproto speaks the protocol.

Two greenlets share it: one reads, the other tells. Whatever either sends goes out whole before the next does, within a
time limit: a client that does not read is cut off and holds up nobody else.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from flask import Response, request
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from api.http.errors import BadParameter
from api.http.time_limits import interrupt_after

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_PIECE_BYTES = 16 * 1024
#: Clients send feature flags, and nothing else that is heard.
MAX_MESSAGE_CHARS = 64 * 1024
#: Longest time for what is sent to go out.
SEND_S = 20.0
#: After this much silence a client is asked whether it is there; after twice as much it is not.
SILENCE_S = 25.0


class _Slow(Exception):
    """The client does not read what it is sent."""


class WebSocket:
    """An open connection.

    Parameters:
      connection: the socket of the request that asked for it, whose head has been read and not answered.
    """

    def __init__(self, connection: Any, headers: Iterable[tuple[str, str]], target: str) -> None:
        self._socket = connection
        self._sending = threading.Lock()
        self._protocol = WSConnection(ConnectionType.SERVER)
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
        try:
            self._protocol.initiate_upgrade_connection(raw, target)
            asked = next(self._protocol.events())
        except (RemoteProtocolError, StopIteration) as exc:
            raise BadParameter("The request for a websocket is not as it has to be.") from exc
        assert isinstance(asked, Request)
        self.is_open = True

    def accept(self) -> None:
        """Answer that the websocket is open."""
        self._send(AcceptConnection())

    def send(self, data: str | bytes) -> None:
        """Send one message; to one that is closed, nothing."""
        self._send(BytesMessage(data=data) if isinstance(data, bytes) else TextMessage(data=data))

    def texts(self) -> Iterable[str]:
        """Yield what the client says, until the connection is closed."""
        text = ""
        while self.is_open and (data := self._received()):
            try:
                self._protocol.receive_data(data)
                for event in self._protocol.events():
                    if isinstance(event, TextMessage):
                        text += event.data
                        if event.message_finished:
                            yield text
                            text = ""
                    else:
                        self._answer(event)
            except (RemoteProtocolError, LocalProtocolError):
                self.close(CloseReason.PROTOCOL_ERROR)
            if len(text) > MAX_MESSAGE_CHARS:
                self.close(CloseReason.MESSAGE_TOO_BIG)
        self.is_open = False

    def _received(self) -> bytes:
        """Wait for bytes; none: the client is gone."""
        self._socket.settimeout(SILENCE_S)
        for _ in range(2):
            try:
                return bytes(self._socket.recv(_PIECE_BYTES))
            except TimeoutError:
                self._send(Ping())
            except OSError:
                break
        return b""

    def close(self, code: CloseReason = CloseReason.NORMAL_CLOSURE) -> None:
        """Say that it is over."""
        with suppress(LocalProtocolError):
            self._send(CloseConnection(code=code))
        self._hang_up()

    def _hang_up(self) -> None:
        self.is_open = False
        with suppress(OSError):
            # Wakes the one who reads.
            self._socket.shutdown(socket.SHUT_RDWR)

    def _answer(self, event: Event) -> None:
        if isinstance(event, Ping):
            self._send(event.response())
        elif isinstance(event, CloseConnection):
            with suppress(LocalProtocolError):
                self._send(event.response())
            self.is_open = False

    def _send(self, event: Event) -> None:
        if not self.is_open:
            return
        try:
            with self._sending, interrupt_after(SEND_S, _Slow()):
                self._socket.sendall(self._protocol.send(event))
        except (OSError, _Slow):
            # Nobody waits for the rest of it.
            self._hang_up()


class Upgraded(Response):
    """An answer that keeps the connection for itself until it is over. Only as gunicorn serves us.

    Parameters:
      serve: what to do with the websocket.
    """

    def __init__(self, serve: Callable[[WebSocket], None]) -> None:
        super().__init__(status=101)
        connection = request.environ.get("gunicorn.socket")
        if connection is None:
            raise BadParameter("Websockets are served by gunicorn alone.")
        self._serve = serve
        self._web_socket = WebSocket(connection, list(request.headers.items()), request.full_path)

    def __call__(self, _environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        # Never sent: it is for the log. What the client gets wsproto writes.
        start_response("101 Switching Protocols", [("Upgrade", "websocket")])
        self._web_socket.accept()
        self._serve(self._web_socket)
        # How gunicorn is told that there is nothing left to answer on this connection.
        raise StopIteration
