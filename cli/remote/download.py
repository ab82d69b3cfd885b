"""One file on its way here: goes on where it broke off, and counts only when its hash is the one it should have."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import requests
from blake3 import blake3
from urllib3.exceptions import HTTPError

from cli.remote.written_files import Draft
from core.errors import TransientError

#: Told of a download: bytes received so far, and bytes in all, None if the server does not say.
OnBytes: TypeAlias = Callable[[int, "int | None"], None]
#: Asks for the file with further headers. Raises what `cli.remote.client.Client` does.
Ask: TypeAlias = Callable[[Mapping[str, str]], requests.Response]

#: What a download is read in.
CHUNK_BYTES = 256 * 1024
#: Tries in a row that may bring nothing new; then it is given up.
TRIES = 5
PAUSE_S = 1.0
#: What our own servers have for an ETag.
_HASH = re.compile(r'"(blake3:[0-9a-f]{64})"')


class DamagedDownload(TransientError):
    """A file arrived whole, and is not the one it should be."""


class Download:
    """One file.

    Parameters:
      ask: asks for it; it is asked again after a break.
      digest: the hash it must have, `blake3:<64 hex digits>`; None leaves that to the server's ETag.
    """

    def __init__(self, ask: Ask, draft: Draft, on_bytes: OnBytes | None = None, *, digest: str | None = None) -> None:
        self._ask = ask
        self._draft = draft
        self._on_bytes = on_bytes
        self._wanted = digest
        self._etag = ""
        self._begin_anew()

    def run(self) -> None:
        """Fetch it, with as many requests as it takes.

        Raises: what `ask` does, at once before the first byte; requests.RequestException - it broke off again and
          again; DamagedDownload.
        """
        furthest = idle = 0
        while True:
            try:
                self._go_on()
                return
            except DamagedDownload:
                raise
            except (requests.RequestException, TransientError):
                idle = 0 if self._received > furthest else idle + 1
                furthest = max(furthest, self._received)
                if furthest == 0 or idle >= TRIES:
                    raise
            time.sleep(PAUSE_S)

    def _go_on(self) -> None:
        headers = {"Accept-Encoding": "identity"}
        if self._received and self._etag:
            # Should the file be another by now, all of it comes.
            headers |= {"Range": f"bytes={self._received}-", "If-Range": self._etag}
        with self._ask(headers) as answer:
            said = answer.headers.get("Content-Range", "")
            if answer.status_code != 206 or not said.startswith(f"bytes {self._received}-"):
                self._begin_anew()
            self._etag = answer.headers.get("ETag", "")
            size = answer.headers.get("Content-Length", "")
            total = self._received + int(size) if size.isdecimal() else None
            for chunk in _pieces(answer):
                self._draft.write(chunk)
                self._hash.update(chunk)
                self._received += len(chunk)
                if self._on_bytes:
                    self._on_bytes(self._received, total)
        self._check()

    def _begin_anew(self) -> None:
        self._draft.empty()
        self._hash = blake3()
        self._received = 0

    def _check(self) -> None:
        found = _HASH.fullmatch(self._etag)
        wanted = self._wanted or (found[1] if found else None)
        if wanted is not None and wanted != f"blake3:{self._hash.hexdigest()}":
            raise DamagedDownload("The file that arrived is damaged: it does not have the hash that the server names.")


def _pieces(answer: requests.Response) -> Iterator[bytes]:
    """Yield an answer's bytes as they come. Raises requests.RequestException: they end too early."""
    try:
        # read1 hands out what has come so far; of a buffer that is never filled the rest would be lost with a break.
        while piece := answer.raw.read1(CHUNK_BYTES):
            yield piece
    except (HTTPError, OSError) as exc:
        raise requests.exceptions.ChunkedEncodingError(exc) from exc
