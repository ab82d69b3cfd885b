"""An S3 server that keeps no bytes of large objects: all of these are made of one pattern, and told by their sizes."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

#: What objects are made of, again and again; parts begin where it does.
_PIECE = 1024 * 1024
PATTERN = (bytes(range(251)) * 4178)[:_PIECE]
#: Larger ones are of the pattern.
SMALL_BYTES = 100_000
_WHEN = "Mon, 30 Nov 2026 12:00:00 GMT"


def pattern(first: int, size_bytes: int) -> Iterator[bytes]:
    """Yield so many bytes of an object, from the one with this number on."""
    left = size_bytes
    while left > 0:
        start = first % _PIECE
        piece = PATTERN[start : start + left]
        yield piece
        first, left = first + len(piece), left - len(piece)


class EndlessBucket:
    """One bucket. `wrong` counts pieces that came and were not of the pattern."""

    def __init__(self) -> None:
        #: Size, bytes of small ones, and metadata, by key.
        self.objects: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        #: Sizes of parts by number, and metadata, by the upload's id.
        self.uploads: dict[str, tuple[dict[int, int], dict[str, str]]] = {}
        self.wrong = 0
        self.came_bytes = self.went_bytes = 0
        bucket = self

        class Handler(_Handler):
            held = bucket

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    held: EndlessBucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_said: object) -> None:
        pass

    def _asked(self) -> tuple[str, dict[str, str]]:
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        return unquote(split.path).lstrip("/").partition("/")[2], query

    def _meta(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items() if name.lower().startswith("x-amz-meta-")}

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _xml(self, name: str, inner: str, status: int = 200) -> None:
        self._answer(status, f'<?xml version="1.0"?><{name}>{inner}</{name}>'.encode(), Content_Type="application/xml")

    def _read(self) -> tuple[int, bytes]:
        """The size of the body, and its bytes if it is small."""
        left = size = int(self.headers.get("Content-Length") or 0)
        if size <= SMALL_BYTES:
            return size, self.rfile.read(size)
        for piece in pattern(0, size):
            if self.rfile.read(len(piece)) != piece:
                self.held.wrong += 1
            left -= len(piece)
            self.held.came_bytes += len(piece)
        return size, b""

    def do_PUT(self) -> None:
        key, query = self._asked()
        source = self.headers.get("x-amz-copy-source")
        size, body = self._read()
        if source is not None:
            size, body, _ = self.held.objects[unquote(source).lstrip("/").partition("/")[2]]
            if (ranged := self.headers.get("x-amz-copy-source-range")) is not None:
                first, last = ranged.removeprefix("bytes=").split("-")
                size = int(last) - int(first) + 1
        if "uploadId" in query:
            self.held.uploads[query["uploadId"]][0][int(query["partNumber"])] = size
        else:
            self.held.objects[key] = (size, body, self._meta())
        if source is None:
            self._answer(200, ETag='"e"')
        else:
            result = "CopyPartResult" if "uploadId" in query else "CopyObjectResult"
            self._xml(result, '<ETag>"e"</ETag><LastModified>2026-11-30T12:00:00Z</LastModified>')

    def do_POST(self) -> None:
        key, query = self._asked()
        self._read()
        if "uploads" in query:
            upload_id = uuid.uuid4().hex
            self.held.uploads[upload_id] = ({}, self._meta())
            self._xml("InitiateMultipartUploadResult", f"<UploadId>{upload_id}</UploadId>")
            return
        parts, meta = self.held.uploads.pop(query["uploadId"])
        self.held.objects[key] = (sum(parts.values()), b"", meta)
        self._xml("CompleteMultipartUploadResult", '<ETag>"e"</ETag>')

    def do_DELETE(self) -> None:
        key, query = self._asked()
        if "uploadId" in query:
            self.held.uploads.pop(query["uploadId"], None)
        else:
            self.held.objects.pop(key, None)
        self._answer(204)

    def do_HEAD(self) -> None:
        key, _ = self._asked()
        found = self.held.objects.get(key)
        if found is None:
            self._answer(404)
            return
        self._answer(200, b"", ETag='"e"', Content_Length=str(found[0]), Last_Modified=_WHEN, **_header_names(found[2]))

    def do_GET(self) -> None:
        key, query = self._asked()
        if "uploadId" in query:
            self._list_parts(query["uploadId"])
        elif not key:
            self._xml("ListBucketResult", "<IsTruncated>false</IsTruncated>")
        elif (found := self.held.objects.get(key)) is None:
            self._xml("Error", "<Code>NoSuchKey</Code>", 404)
        else:
            self._give(*found)

    def _list_parts(self, upload_id: str) -> None:
        if upload_id not in self.held.uploads:
            self._xml("Error", "<Code>NoSuchUpload</Code>", 404)
            return
        listed = (
            f'<Part><PartNumber>{number}</PartNumber><ETag>"e"</ETag><Size>{size}</Size>'
            "<LastModified>2026-11-30T12:00:00Z</LastModified></Part>"
            for number, size in sorted(self.held.uploads[upload_id][0].items())
        )
        self._xml("ListPartsResult", f"<IsTruncated>false</IsTruncated>{''.join(listed)}")

    def _give(self, size: int, body: bytes, meta: dict[str, str]) -> None:
        ranged = self.headers.get("Range")
        first, last = 0, size - 1
        if ranged is not None:
            begin, end = ranged.removeprefix("bytes=").split("-")
            first, last = int(begin), min(int(end or size - 1), size - 1)
        length = last - first + 1
        self.send_response(200 if ranged is None else 206)
        told: dict[str, Any] = {"ETag": '"e"', "Content-Length": length, "Last-Modified": _WHEN}
        told |= {} if ranged is None else {"Content-Range": f"bytes {first}-{last}/{size}"}
        for name, value in {**told, **meta}.items():
            self.send_header(name, str(value))
        self.end_headers()
        with contextlib.suppress(OSError):
            for piece in [body[first : last + 1]] if body else pattern(first, length):
                self.wfile.write(piece)
                self.held.went_bytes += len(piece)


def _header_names(meta: dict[str, str]) -> dict[str, str]:
    return {name.replace("-", "_"): value for name, value in meta.items()}


@contextlib.contextmanager
def endless_bucket() -> Iterator[EndlessBucket]:
    """A server for the time of a test."""
    bucket = EndlessBucket()
    try:
        yield bucket
    finally:
        bucket.close()
