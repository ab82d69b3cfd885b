"""A file as a form that is sent while it is read, so that a film of gigabytes needs no memory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

from urllib3.fields import RequestField

PIECE_BYTES = 256 * 1024


class FormFile:
    """The body of one request: some fields, and last of all the file. Read once."""

    def __init__(
        self, file: BinaryIO, name: str, fields: Mapping[str, str], on_bytes: Callable[[int, int | None], None] | None
    ) -> None:
        self._file = file
        self._on_bytes = on_bytes
        self._size_bytes = os.fstat(file.fileno()).st_size
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        parts = [_part(boundary, RequestField(key, value)) + value.encode() for key, value in fields.items()]
        self._head = b"\r\n".join([*parts, _part(boundary, RequestField("file", b"", filename=name))])
        self._tail = f"\r\n--{boundary}--\r\n".encode()

    def __len__(self) -> int:
        return len(self._head) + self._size_bytes + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        sent = 0
        # A file that grows meanwhile must not become longer than was said.
        while sent < self._size_bytes and (piece := self._file.read(min(PIECE_BYTES, self._size_bytes - sent))):
            yield piece
            sent += len(piece)
            if self._on_bytes is not None:
                self._on_bytes(sent, self._size_bytes)
        yield self._tail


def _part(boundary: str, field: RequestField) -> bytes:
    """Return what stands before the content of a part."""
    field.make_multipart()
    return f"--{boundary}\r\n{field.render_headers()}".encode()
