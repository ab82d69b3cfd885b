"""A front before an S3 server that understands requests: counts what each has sent, and fails those it is told to."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

_PIECE_BYTES = 64 * 1024
#: What concerns one connection alone.
_HOP = frozenset(("connection", "transfer-encoding", "content-length", "date", "server"))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request."""

    method: str
    #: Without the bucket's name.
    key: str
    query: str

    @property
    def writes(self) -> bool:
        return self.method in ("PUT", "POST")

    @property
    def is_part(self) -> bool:
        return self.method == "PUT" and "partNumber=" in self.query


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What a request gets instead of the server's answer."""

    status: int
    #: S3's word for it; empty: no body.
    code: str = ""
    more: str = ""

    @property
    def body(self) -> bytes:
        text = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>no</Message>{self.more}</Error>"
        return text.encode() if self.code else b""


#: Says what goes wrong with a request; None: nothing.
Rule: TypeAlias = Callable[[Asked], Fault | None]


class FaultyBucket:
    """Takes requests, and passes on those that its rule lets through."""

    def __init__(self, port: int) -> None:
        self.rule: Rule = lambda _asked: None
        #: Bytes that each connection may bring in a second; None: as many as come.
        self.bytes_per_s: float | None = None
        #: Everything that came, with as many bytes of its body as came.
        self.seen: list[tuple[Asked, int]] = []
        self._lock = threading.Lock()
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Else the answer to a small request waits for the client's acknowledgement.
            disable_nagle_algorithm = True

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError):
                    super().handle_one_request()
                    return
                self.close_connection = True

            def do_any(self) -> None:
                front._serve(self, port)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_any  # noqa: N815 - names of the base

            def log_message(self, *_said: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def sent_bytes(self, wanted: Callable[[Asked], bool] = lambda _asked: True) -> int:
        """Bytes of bodies that came with the requests that are wanted."""
        with self._lock:
            return sum(size_bytes for asked, size_bytes in self.seen if wanted(asked))

    def close(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        path, _, query = handler.path.partition("?")
        asked = Asked(method=handler.command, key=path.lstrip("/").partition("/")[2], query=query)
        body = self._body(handler, asked)
        if body is None:
            handler.close_connection = True
            return
        fault = self.rule(asked)
        if fault is not None:
            _answer(handler, fault.status, {"ETag": '"0"', "Content-Type": "application/xml"}, fault.body)
            return
        server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(server):
            headers = {name: value for name, value in handler.headers.items() if name.lower() != "connection"}
            server.request(handler.command, handler.path, body=body, headers=headers)
            answer = server.getresponse()
            found = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
            length = answer.getheader("Content-Length") if handler.command == "HEAD" else None
            _answer(handler, answer.status, found, answer.read(), length)

    def _body(self, handler: BaseHTTPRequestHandler, asked: Asked) -> bytes | None:
        """What came with a request; None: its client was gone before all of it had come."""
        length = int(handler.headers.get("Content-Length") or 0)
        with self._lock:
            index = len(self.seen)
            self.seen.append((asked, 0))
        body = bytearray()
        while len(body) < length:
            try:
                piece = handler.rfile.read1(min(_PIECE_BYTES, length - len(body)))
            except OSError:
                piece = b""
            if not piece:
                return None
            body += piece
            with self._lock:
                self.seen[index] = (asked, len(body))
            if self.bytes_per_s is not None:
                time.sleep(len(piece) / self.bytes_per_s)
        return bytes(body)


def _answer(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, length: str | None = None
) -> None:
    with contextlib.suppress(socket.error):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", length or str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


@contextlib.contextmanager
def faulty_bucket(port: int) -> Iterator[FaultyBucket]:
    """A front for the time of a test."""
    front = FaultyBucket(port)
    try:
        yield front
    finally:
        front.close()
