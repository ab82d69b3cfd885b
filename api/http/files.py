"""The bytes of stored files over HTTP: whole, one range of them, or that they have not changed."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterator
from io import RawIOBase
from urllib.parse import quote

from flask import Response, request
from werkzeug.exceptions import RequestedRangeNotSatisfiable

from api.http.errors import PreconditionFailed
from core.errors import OutputUnavailable, RangeNotSatisfiable
from core.ledger.input_files import InputFile
from core.records.output import Output
from core.storage.backend import StorageBackend
from core.storage.folders import BucketFault

EXPIRED = "This file has expired: it was kept for its time, and then removed."
_PIECE_BYTES = 128 * 1024
#: Shown by a browser in its place; everything else is offered as a download, since it could hold scripts.
_INLINE = re.compile(r"(audio|video)/[a-z0-9.+-]+|image/(png|jpeg|webp|gif|avif|bmp|tiff)|text/plain")
#: A link to the bucket is made anew for each request; a download that has begun may last longer.
BUCKET_LINK_S = 3600
_ANSWERED_HERE = ("Authorization", "X-API-Key", "If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since")
#: A file may be deleted before its time, so whoever kept a copy asks whether it is still there; the answer is short.
ASK_FIRST = "private, no-cache"


def content_response(
    output: Output | InputFile, storage: StorageBackend, *, cache_control: str | None = None
) -> Response:
    """Return the bytes of a stored file: all of them, the one range that was asked for, or 304 without any.

    Its hash is its ETag, so a download that broke off goes on where it was, and what is known is not sent again.

    Raises:
      OutputUnavailable: the file is gone, or is not the file that was stored.
      RangeNotSatisfiable: several ranges, or one that lies outside.
      PreconditionFailed: another file was wanted.
    """
    pieces = Pieces(open_output(output, storage), output.size_bytes)
    response = Response(pieces, content_type=output.content_type, direct_passthrough=True)
    response.content_length = output.size_bytes
    response.headers["Content-Disposition"] = content_disposition(output)
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = cache_control or ASK_FIRST
    if output.hash:
        response.set_etag(output.hash)
    try:
        return _conditional(response, output.size_bytes)
    except (RangeNotSatisfiable, PreconditionFailed):
        pieces.close()
        raise


def link_to_bucket(output: Output | InputFile, storage: StorageBackend) -> str | None:
    """Return where in a bucket the file of this request can be fetched; None where we have to send its bytes.

    A client that sends a key with every request may send it there as well, and S3 refuses one that is signed twice.
    What the client knows already is told here. Ranges are the bucket's to answer, but for those of another file than
    this one: the bucket knows its own ETags only.
    """
    of_which = request.headers.get("If-Range", "").strip()
    is_asked_more = any(name in request.headers for name in _ANSWERED_HERE) or of_which not in ("", f'"{output.hash}"')
    if request.method != "GET" or is_asked_more or (isinstance(output, Output) and output.is_expired):
        return None
    disposition, content_type = content_disposition(output), output.content_type
    key = output.storage_key or ""
    return storage.link(key, content_type=content_type, disposition=disposition, expires_s=BUCKET_LINK_S)


def _conditional(response: Response, size_bytes: int) -> Response:
    environ = dict(request.environ)
    if environ.get("HTTP_IF_MATCH", "").strip() == "*":
        # Any file will do, which Werkzeug takes for the tag of none.
        del environ["HTTP_IF_MATCH"]
    # First without ranges: a precondition that fails, or a copy that is still good, decides before any range does.
    response.make_conditional(environ)
    if response.status_code == 412:
        raise PreconditionFailed("The file is another than the one whose ETag was given with If-Match.")
    response.accept_ranges = "bytes"
    wanted = request.headers.get("Range", "")
    # Such a tag promises no equal bytes, so that parts must not be joined by it; Werkzeug takes it for one that does.
    if request.headers.get("If-Range", "").strip().startswith("W/"):
        wanted = ""
    # A range means nothing to HEAD, and nobody has to know units other than bytes.
    if response.status_code == 200 and request.method == "GET" and wanted.strip().lower().startswith("bytes"):
        try:
            environ["HTTP_RANGE"] = _clipped(wanted, size_bytes)
            response.make_conditional(environ, accept_ranges=True, complete_length=size_bytes)
        except RequestedRangeNotSatisfiable as exc:
            words = "The range cannot be served: one range within the file is needed."
            raise RangeNotSatisfiable(words, size_bytes) from exc
    return response


def _clipped(wanted: str, size_bytes: int) -> str:
    """The range, where it is the end of a file that is shorter: all of it, which Werkzeug refuses."""
    suffix = re.fullmatch(r"bytes=-([0-9]{1,40})", wanted.strip().lower(), re.ASCII)
    return "bytes=0-" if suffix and int(suffix[1]) > size_bytes else wanted


def open_output(output: Output | InputFile, storage: StorageBackend) -> RawIOBase:
    """Open a stored file; the caller closes it. Raises OutputUnavailable; BucketFault: nobody can tell now."""
    try:
        return storage.open(output.storage_key or "", size_bytes=output.size_bytes)
    except BucketFault:
        raise
    except OSError as exc:
        is_expired = isinstance(output, Output) and output.is_expired
        raise OutputUnavailable(EXPIRED if is_expired else "The file of this asset is no longer there.") from exc


def read_base64(output: Output, storage: StorageBackend) -> str:
    """Return a whole output as base64 text. Raises OutputUnavailable."""
    with open_output(output, storage) as file:
        return base64.b64encode(file.read()).decode("ascii")


def content_disposition(output: Output | InputFile) -> str:
    """Return `inline` or `attachment` with the file's name, by RFC 6266: in ASCII for old readers, and as it is."""
    kind = "inline" if _INLINE.fullmatch(output.content_type) else "attachment"
    name = output.name.rpartition("/")[2]
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


class Pieces(Iterator[bytes]):
    """An open file, piece by piece, from any place on; closes the file when the answer is over, or never began."""

    def __init__(self, file: RawIOBase, size_bytes: int) -> None:
        self._file = file
        self._size_bytes = size_bytes

    def __next__(self) -> bytes:
        left_bytes = self._size_bytes - self._file.tell()
        if left_bytes <= 0:
            raise StopIteration
        # A fast client's socket never makes us wait, so the other requests of this process are let in here.
        time.sleep(0)
        piece = self._file.read(min(left_bytes, _PIECE_BYTES))
        if not piece:
            # The connection breaks before Content-Length is reached, which no client takes for the whole file.
            raise OutputUnavailable("The file was cut while it was read.")
        return piece

    def seekable(self) -> bool:
        """Let Werkzeug go to the beginning of a range, and not read up to it."""
        return True

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        """Close the file; the WSGI server calls it at the end."""
        self._file.close()
