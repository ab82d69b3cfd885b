"""Receivers of webhooks on the loopback interface, which answer as a test tells them."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

#: Status, headers, and pieces of the body: bytes to send, seconds to wait.
Answer = tuple[int, dict[str, str], list[bytes | float]]
OK: Answer = (200, {}, [])


@dataclass(frozen=True, kw_only=True)
class Received:
    """One request that a receiver got."""

    path: str
    #: Names in lower case.
    headers: dict[str, str]
    content: bytes
    at_s: float = field(default_factory=time.monotonic)

    @property
    def body(self) -> Any:
        """The content, read as JSON."""
        return json.loads(self.content)


class Receiver(http.server.ThreadingHTTPServer):
    """Keeps what is posted, and answers as `behave` says."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, behave: Callable[[Received], Answer], port: int = 0, address: str = "127.0.0.1") -> None:
        super().__init__((address, port), _Handler)
        self.behave = behave
        self.port: int = self.server_address[1]
        self.url = f"http://{address}:{self.port}"
        self.received: list[Received] = []

    def handle_error(self, *_arguments: Any) -> None:
        """A sender that hangs up in mid-answer is no error of ours."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        received = Received(path=self.path, headers=headers, content=content)
        self.server.received.append(received)
        status, answer_headers, pieces = self.server.behave(received)
        self.send_response(status)
        for name, value in {"Connection": "close", **answer_headers}.items():
            self.send_header(name, value)
        if not pieces:
            self.send_header("Content-Length", "0")
        self.end_headers()
        self.close_connection = True
        for piece in pieces:
            if isinstance(piece, bytes):
                self.wfile.write(piece)
            else:
                time.sleep(piece)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def receiving(
    behave: Callable[[Received], Answer] = lambda _received: OK, port: int = 0, address: str = "127.0.0.1"
) -> Iterator[Receiver]:
    """A receiver that runs in a thread; on a free port unless one is named."""
    with Receiver(behave, port, address) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


@contextlib.contextmanager
def hanging(backlog: int = 512) -> Iterator[int]:
    """A port, at every address of the loopback network, that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        listener.listen(backlog)
        port: int = listener.getsockname()[1]
        yield port
