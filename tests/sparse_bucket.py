"""A front before an S3 server that has huge objects of its own: they are all zeros, and nobody keeps them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

from tests.faulty_bucket import FaultyBucket

_ZEROS = bytes(1024 * 1024)
_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
_HEADERS = {"ETag": '"sparse"', "Last-Modified": "Mon, 30 Nov 2026 12:00:00 GMT", "Content-Type": "image/png"}


class SparseBucket(FaultyBucket):
    """Answers for the objects in `sizes` itself; all else goes to the server on a port of this machine."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        #: In bytes, by the end of the object's key.
        self.sizes: dict[str, int] = {}
        #: What was sent of them.
        self.zeros_sent = 0

    def _serve(self, handler: BaseHTTPRequestHandler, port: int) -> None:
        key = handler.path.partition("?")[0]
        size = next((size for end, size in self.sizes.items() if key.endswith(end)), None)
        if size is None or handler.command not in ("GET", "HEAD"):
            super()._serve(handler, port)
            return
        wanted = _RANGE.fullmatch(handler.headers.get("Range", ""))
        first, last = (int(wanted[1]), int(wanted[2])) if wanted else (0, size - 1)
        with contextlib.suppress(OSError):
            handler.send_response(206 if wanted else 200)
            for name, value in _HEADERS.items():
                handler.send_header(name, value)
            if wanted:
                handler.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            left = last - first + 1
            handler.send_header("Content-Length", str(left))
            handler.end_headers()
            while handler.command == "GET" and left > 0:
                piece = _ZEROS[: min(left, len(_ZEROS))]
                handler.wfile.write(piece)
                left -= len(piece)
                self.zeros_sent += len(piece)


@contextlib.contextmanager
def sparse_bucket(port: int) -> Iterator[SparseBucket]:
    """A front for the time of a test."""
    front = SparseBucket(port)
    try:
        yield front
    finally:
        front.close()
