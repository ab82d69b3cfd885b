"""An object of a bucket, read from any place like an open file, in requests that each bring a bounded part of it."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from typing import Any, TypeAlias

from botocore.exceptions import BotoCoreError, HTTPClientError, IncompleteReadError, ReadTimeoutError

from core.settings import Settings
from core.storage.folders import BucketFault
from core.storage.object_client import place_of, storage_client, translated
from core.storage.patience import limited

#: One request brings so much at most: a client that stops reading wastes no more than this, and holds no connection.
WINDOW_BYTES = 8 * 1024 * 1024
#: A connection that breaks is made anew where it was, so often in a row.
TRIES = 4

#: Gives the body of the part `(first byte, last byte)`. Raises OSError.
PartOf: TypeAlias = Callable[[int, int], Any]


class ObjectReader(io.RawIOBase):
    """Reads an object. Not for several threads at once.

    Parameters:
      size_bytes: of the whole object.
      body: all of it, on its way already.
    """

    def __init__(self, part_of: PartOf, size_bytes: int, body: Any = None) -> None:
        super().__init__()
        self._part_of = part_of
        self._size_bytes = size_bytes
        self._at = 0
        self._body = body
        #: How much of the part that is being read is still to come.
        self._left = size_bytes if body is not None else 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence]
        if base + offset != self._at:
            self._drop()
            self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        wanted = min(len(buffer), self._size_bytes - self._at)
        if wanted <= 0:
            return 0
        data = self._some(wanted)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._drop()
        super().close()

    def _some(self, wanted: int) -> bytes:
        broken: Exception | None = None
        for _ in range(TRIES):
            if self._body is None:
                self._left = min(WINDOW_BYTES, self._size_bytes - self._at)
                self._body = self._part_of(self._at, self._at + self._left - 1)
            try:
                with limited():
                    data: bytes = self._body.read(min(wanted, self._left))
            except BucketFault:
                self._drop()
                raise
            except (BotoCoreError, HTTPClientError, IncompleteReadError, ReadTimeoutError, OSError) as exc:
                broken, data = exc, b""
            if data:
                self._at += len(data)
                self._left -= len(data)
                if not self._left:
                    self._drop()
                return data
            self._drop()
        raise BucketFault(errno.EIO, "the S3 server breaks off in the middle of an object") from broken

    def _drop(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.close()


def object_reader(settings: Settings, name: str, etag: str) -> PartOf:
    """Return what reads parts of one object of the bucket, as long as it is the same."""
    bucket, _ = place_of(settings)

    def part_of(first: int, last: int) -> Any:
        with translated(settings.storage_url):
            answer = storage_client(settings).get_object(
                Bucket=bucket, Key=name, Range=f"bytes={first}-{last}", IfMatch=etag
            )
        return answer["Body"]

    return part_of
