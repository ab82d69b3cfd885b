"""A server of model files for tests: gives ranges, is slow, breaks off, lies, and counts what it was asked for."""

from __future__ import annotations

import hashlib
import random
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PIECE = 64 * 1024


def content(size: int, seed: int = 0) -> bytes:
    """So many bytes that are like no others."""
    return random.Random(seed).randbytes(size)


@dataclass
class Served:
    """One file, and how it is served."""

    body: bytes
    etag: str | None = '"one"'
    has_ranges: bool = True
    says_size: bool = True
    content_type: str = "application/octet-stream"
    status: int = 200
    #: Bytes a second on each connection, and how many of them at once.
    bytes_s: float | None = None
    piece_bytes: int = PIECE
    #: It takes the request, and answers nothing.
    is_mute: bool = False
    #: Answers break off after so many bytes, for so many answers.
    cut_bytes: int | None = None
    cuts: int = 10**9
    #: Where it is instead, with these headers beside.
    redirect: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    #: Needed in the header Authorization.
    token: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.body).hexdigest()


class ModelServer:
    """Files by their paths."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        #: `(path, range)` of each answer, in order, and how many bytes each has sent.
        self.asked: list[tuple[str, str | None]] = []
        self.sent: dict[str, int] = {}
        self.busy = 0
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.url = ""

    def serve(self, path: str, body: bytes, **how: Any) -> Served:
        """Serve a file; returns it, to be changed."""
        self.files[path] = Served(body, **how)
        return self.files[path]

    def forget(self) -> None:
        """Count anew."""
        with self.lock:
            self.asked.clear()
            self.sent.clear()


@contextmanager
def model_server(address: str = "127.0.0.1") -> Iterator[ModelServer]:
    """Run a server on a free port."""
    state = ModelServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            wanted = self.headers.get("Range")
            with state.lock:
                state.asked.append((path, wanted))
                state.busy += 1
                state.most_at_once = max(state.most_at_once, state.busy)
            try:
                self._answer(path, wanted)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True
            finally:
                with state.lock:
                    state.busy -= 1

        def _answer(self, path: str, wanted: str | None) -> None:
            file = state.files.get(path)
            if file is None or (file.token is not None and self.headers.get("Authorization") != f"Bearer {file.token}"):
                self._head(404 if file is None else 401, {"Content-Length": "0"})
                return
            if file.redirect is not None:
                self._head(302, {"Location": file.redirect, "Content-Length": "0", **file.headers})
                return
            while file.is_mute:
                time.sleep(0.05)
            body = file.body
            start, end, status, headers = 0, len(body), file.status, dict(file.headers)
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted or "")
            if found and file.has_ranges and self.headers.get("If-Range", file.etag) == file.etag:
                start, end, status = int(found[1]), min(int(found[2]) + 1, len(body)), 206
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
            headers["Content-Type"] = file.content_type
            if file.etag is not None:
                headers["ETag"] = file.etag
            if file.says_size:
                headers["Content-Length"] = str(end - start)
            else:
                headers["Connection"] = "close"
            self._head(status, headers)
            self._body(path, file, body[start:end])

        def _body(self, path: str, file: Served, body: bytes) -> None:
            is_cut = file.cut_bytes is not None and file.cuts > 0 and len(body) > file.cut_bytes
            if is_cut:
                file.cuts -= 1
                body = body[: file.cut_bytes]
            for offset in range(0, len(body), file.piece_bytes):
                piece = body[offset : offset + file.piece_bytes]
                self.wfile.write(piece)
                with state.lock:
                    state.sent[path] = state.sent.get(path, 0) + len(piece)
                if file.bytes_s is not None:
                    time.sleep(len(piece) / file.bytes_s)
            if is_cut or not file.says_size:
                self.wfile.flush()
                self.close_connection = True

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    state.url = f"http://{address}:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
