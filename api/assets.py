"""Assets over HTTP: files that come in, and the metadata and bytes, whole or one range of them, of all files."""

from __future__ import annotations

import base64
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from flask import Blueprint, Response, request

from api import answers
from api.bodies import FromHashBody
from api.body import read_json
from api.client import base_url
from api.errors import AssetInUse, BlobNotFound, HashMismatch, json_response
from api.forms import input_path, lifetime_s, upload_form
from api.intake import Intake
from api.openapi import ASSETS, FORM_ERRORS, Described, Parameter, form_of
from api.patience import bounded, ledger_patience
from api.submit import check_id
from api.validation import read
from api.views import asset_view
from core.errors import InvalidRequest, LedgerUnavailable, NotFound, OutputUnavailable, RangeNotSatisfiable
from core.job import Output
from core.ledger import Ledger
from core.ledger.uploads import Upload
from core.settings import Settings

EXPIRED = "This file has expired: it was kept until the url_expires_at of its output, and then removed."
_PIECE_BYTES = 128 * 1024
#: Shown by a browser in its place; everything else is offered as a download, since it could hold scripts.
_INLINE = re.compile(r"(audio|video)/[a-z0-9.+-]+|image/(png|jpeg|webp|gif|avif|bmp|tiff)|text/plain")
_HASH = re.compile(r"blake3:[0-9a-f]{64}")
RANGE = Parameter(
    name="Range",
    place="header",
    description="One range: bytes=a-b, bytes=a- or bytes=-n.",
    schema={"type": "string", "pattern": "^bytes=[0-9]*-[0-9]*$"},
)
_RANGE = re.compile(r"bytes=([0-9]{0,40})-([0-9]{0,40})", re.ASCII)


def assets_blueprint(settings: Settings, ledger: Ledger, intake: Intake) -> Blueprint:
    """Routes of assets under /api/v2."""
    blueprint = Blueprint("assets", __name__, url_prefix="/api/v2/assets")

    @blueprint.post("")
    @Described(
        summary="Upload a file",
        tag=ASSETS,
        form=form_of(
            "file",
            "file_path",
            file_path="Its path below the input folder, such as rooms/photo.png.",
            content_type="Default: that of the part.",
            expected_hash="blake3:<64 hex digits>; another content is refused.",
            expires_in="Seconds for which it is kept, 60 to 604800.",
        ),
        answers={200: answers.Asset, 201: answers.Asset},
        errors=(*FORM_ERRORS, HashMismatch),
        text="201 for bytes that are new here, 200 for bytes that are known.",
    )
    def upload() -> Response:
        with upload_form(settings) as form:
            file = form.file("file")
            path = form.text("file_path")
            if path is None:
                raise InvalidRequest(
                    "The form needs a part file_path: a path below the input folder, such as photo.png."
                )
            received, is_new = intake.receive(
                file.stream,
                name=input_path(path),
                declared=form.text("content_type") or file.mimetype,
                expected_hash=form.text("expected_hash"),
                lifetime_s=lifetime_s(form.text("expires_in")),
            )
        return _created(received, settings, is_new=is_new)

    @blueprint.post("/from-hash")
    @Described(
        summary="An asset from bytes that are here already",
        tag=ASSETS,
        body=FromHashBody,
        answers={200: answers.Asset},
        errors=(BlobNotFound, LedgerUnavailable),
    )
    def from_hash() -> Response:
        body = read(FromHashBody, read_json(settings))
        known = _known(ledger, body.hash)
        if known is None:
            raise BlobNotFound("There is no file with this hash; upload it.")
        name = input_path(body.file_path) if body.file_path else known.name
        again = intake.again(known, name=name, lifetime_s=body.expires_in)
        return _created(again, settings, is_new=False)

    @blueprint.route("/by-hash/<digest>", methods=["HEAD"])
    @Described(
        summary="Whether bytes are here already",
        tag=ASSETS,
        answers={200: None, 404: None},
        errors=(LedgerUnavailable,),
    )
    @bounded
    def by_hash(digest: str) -> Response:
        return Response(status=200 if _known(ledger, digest) else 404)

    @blueprint.get("/<asset_id>")
    @Described(
        summary="The metadata of a file", tag=ASSETS, answers={200: answers.Asset}, errors=(NotFound, LedgerUnavailable)
    )
    def get(asset_id: str) -> Response:
        found = _found(intake, asset_id)
        if isinstance(found, Output):
            with ledger_patience():
                expires_at_ms = ledger.jobs.get(found.job_id).files_expire_at_ms
        else:
            expires_at_ms = found.expires_at_ms
        return json_response(asset_view(found, base_url(settings), expires_at_ms))

    @blueprint.delete("/<asset_id>")
    @Described(
        summary="Remove an uploaded file",
        tag=ASSETS,
        answers={204: None},
        errors=(NotFound, AssetInUse, LedgerUnavailable),
    )
    def delete(asset_id: str) -> Response:
        if isinstance(_found(intake, asset_id), Output):
            raise AssetInUse("This asset is the output of a job, and is kept as long as the job.")
        with ledger_patience():
            ledger.uploads.remove(asset_id)
        return Response(status=204)

    @blueprint.get("/<asset_id>/content")
    @Described(
        summary="The bytes of a file, whole or one range",
        tag=ASSETS,
        answers={200: "application/octet-stream", 206: "application/octet-stream"},
        errors=(NotFound, OutputUnavailable, RangeNotSatisfiable, LedgerUnavailable),
        parameters=(RANGE,),
    )
    def content(asset_id: str) -> Response:
        found = _found(intake, asset_id)
        return content_response(found, settings.outputs_dir if isinstance(found, Output) else settings.inputs_dir)

    return blueprint


def _found(intake: Intake, asset_id: str) -> Upload | Output:
    found = intake.known_asset(check_id(asset_id))
    if found is None:
        raise NotFound(f"There is no asset {asset_id}.")
    return found


def _known(ledger: Ledger, digest: str) -> Upload | None:
    if not _HASH.fullmatch(digest):
        return None
    with ledger_patience():
        return ledger.uploads.by_hash(digest)


def _created(upload: Upload, settings: Settings, *, is_new: bool) -> Response:
    view = asset_view(upload, base_url(settings), upload.expires_at_ms) | {"created_new": is_new}
    return json_response(view, 201 if is_new else 200)


def content_response(output: Output | Upload, root: Path) -> Response:
    """The bytes of an output: all of them, or the one range that was asked for.

    Raises:
      OutputUnavailable: the file is gone, or is not the file that was stored.
      RangeNotSatisfiable: several ranges, or one that lies outside.
    """
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Disposition": content_disposition(output),
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    first, last, status = 0, output.size_bytes - 1, 200
    # Without validators of ours an If-Range can never match, and then the whole file is meant.
    wanted = request.headers.get("Range") if request.method == "GET" and "If-Range" not in request.headers else None
    if wanted is not None and wanted.strip().lower().startswith("bytes"):
        first, last = parse_range(wanted, output.size_bytes)
        headers["Content-Range"] = f"bytes {first}-{last}/{output.size_bytes}"
        status = 206
    headers["Content-Length"] = str(last - first + 1)
    descriptor = open_output(output, root)
    if request.method == "HEAD":
        os.close(descriptor)
        return Response(status=status, headers=headers, content_type=output.content_type)
    pieces = Pieces(descriptor, first, last - first + 1)
    return Response(pieces, status=status, headers=headers, content_type=output.content_type, direct_passthrough=True)


def open_output(output: Output | Upload, root: Path) -> int:
    """A descriptor of a stored output; the caller closes it.

    Each step of the path is opened by itself and links are not followed, so nothing outside the root can be meant.
    Raises: OutputUnavailable.
    """
    is_expired = isinstance(output, Output) and output.is_expired
    gone = OutputUnavailable(EXPIRED if is_expired else "The file of this asset is no longer there.")
    parts = (output.storage_key or "").split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise gone
    descriptor = -1
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        for number, part in enumerate(parts, start=1):
            kind = os.O_DIRECTORY if number < len(parts) else os.O_NONBLOCK
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size != output.size_bytes:
            raise gone
    except OSError as exc:
        _close(descriptor)
        raise gone from exc
    except OutputUnavailable:
        _close(descriptor)
        raise
    return descriptor


def read_base64(output: Output, root: Path) -> str:
    """A whole output as base64 text. Raises OutputUnavailable."""
    with os.fdopen(open_output(output, root), "rb") as file:
        return base64.b64encode(file.read()).decode("ascii")


def parse_range(header: str, size_bytes: int) -> tuple[int, int]:
    """First and last byte, inclusive, of `bytes=a-b`, `bytes=a-` or `bytes=-n`. Raises RangeNotSatisfiable."""
    refused = RangeNotSatisfiable("The range cannot be served: one range within the file is needed.", size_bytes)
    match = _RANGE.fullmatch(header.strip().lower())
    if match is None or match[1] == match[2] == "":
        raise refused
    if not match[1]:
        length = min(int(match[2]), size_bytes)
        first, last = size_bytes - length, size_bytes - 1
    else:
        first = int(match[1])
        last = min(int(match[2]), size_bytes - 1) if match[2] else size_bytes - 1
    if first > last:
        raise refused
    return first, last


def content_disposition(output: Output | Upload) -> str:
    """`inline` or `attachment` with the file's name, by RFC 6266: an ASCII name for old readers, and the true one."""
    kind = "inline" if _INLINE.fullmatch(output.content_type) else "attachment"
    name = output.name.rpartition("/")[2]
    plain = re.sub(r'[^\x20-\x7e]|["\\%]', "_", name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


class Pieces(Iterator[bytes]):
    """Part of an open file, piece by piece; closes the file when the answer is over, or never began."""

    def __init__(self, descriptor: int, first: int, length: int) -> None:
        self._file = os.fdopen(descriptor, "rb", buffering=0)
        self._file.seek(first)
        self._left = length

    def __next__(self) -> bytes:
        if self._left <= 0:
            raise StopIteration
        # A fast client's socket never makes us wait, so the other requests of this process are let in here.
        time.sleep(0)
        piece = self._file.read(min(self._left, _PIECE_BYTES))
        if not piece:
            # The connection breaks before Content-Length is reached, which no client takes for the whole file.
            raise OutputUnavailable("The file was cut while it was read.")
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        """Called by the WSGI server at the end."""
        self._file.close()


def _close(descriptor: int) -> None:
    if descriptor >= 0:
        os.close(descriptor)
