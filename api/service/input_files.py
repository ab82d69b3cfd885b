"""Files that come in, by whatever road: measured, looked into, kept once each, and named for the job they are for."""

from __future__ import annotations

import base64
import binascii
import io
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from blake3 import blake3

from api.http.caller import caller, tenant_limits
from api.http.errors import NO_ROOM, HashMismatch
from api.http.time_limits import ledger_time_limit
from api.service.tenant_room import TenantRoom
from core.clock import now_ms
from core.errors import (
    BodyTooLarge,
    InputUnavailable,
    InvalidRequest,
    LimitReached,
    MissingAsset,
    NotFound,
    StorageFull,
)
from core.job_files import is_id, owner_of
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.outbound import Policy
from core.records.job import InputRef
from core.records.output import Output
from core.settings import Settings
from core.storage.backend import input_storage, output_storage
from core.storage.folders import content_key, is_out_of_room
from core.storage.marker import StorageMarker
from core.storage.media import HEAD_BYTES, check_picture, content_type_of, with_extension
from workflows.graphs.file_names import folder_of, safe_name, staged_name
from workflows.graphs.references import Reference

#: Longest time one file may take to be fetched, and all files of one job together.
FETCH_S = 30.0
#: Files of one job that are brought at once, where storage is a bucket.
FILES_AT_ONCE = 4
#: Longer than a submission may take by far.
OUTLASTS_MS = 3_600_000
_PIECE_BYTES = 256 * 1024
_DATA_URI = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),", re.IGNORECASE)
_MAX_NAME_CHARS = 255


class Intake:
    """Where files of clients come in, for all blueprints of one process."""

    def __init__(self, settings: Settings, ledger: Ledger, marker: StorageMarker, room: TenantRoom) -> None:
        #: For another one beside it.
        self.parts = (settings, ledger, marker, room)
        self._settings, self._ledger, self._marker, self._room = self.parts
        self._storage = input_storage(settings)
        self._outputs = output_storage(settings)

    def receive(
        self,
        source: IO[bytes],
        *,
        name: str,
        declared: str = "",
        kind: str | None = None,
        subject: str = "The file",
        expected_hash: str | None = None,
        lifetime_s: float | None = None,
        job_id: str | None = None,
    ) -> tuple[InputFile, bool]:
        """Keep a file and record it.

        Parameters:
          name: a path relative to the input folder; only shown, and its end used for names later.
          declared: the content type its sender claims; what the file holds counts more.
          kind: what it is about to be used as: image, video, audio, or "" for any file; None: it is only kept for now.
          subject: what messages call it.
          expected_hash: `blake3:...`; another one is refused.
          job_id: the job it is brought for, with which it goes; None: it is its client's.
        Returns: the file, and whether its bytes were new.
        Raises: BodyTooLarge, InvalidRequest, HashMismatch, LimitReached, LedgerUnavailable, StorageUnavailable,
          StorageFull.
        """
        self.require_storage()
        with self._draft() as draft:
            digest, size_bytes, head = self._write(source, draft, subject)
            content_type = content_type_of(head, declared)
            pixels = self._looked_into(draft, content_type, kind, subject)
            if expected_hash is not None and expected_hash.lower() != f"blake3:{digest}":
                raise HashMismatch(f"{subject} has the hash blake3:{digest}, not the expected one.")
            key = content_key(digest)
            self._room.before_keeping(caller().tenant, size_bytes)
            with ledger_time_limit():
                known = self._ledger.input_files.by_hash(f"blake3:{digest}", of=caller().tenant)
            self._put(key, draft, is_needed=known is not None and _outlasts_us(known))
        file = self._input_file(f"blake3:{digest}", size_bytes, content_type, name, key, lifetime_s, job_id, pixels)
        self._record(file, key_id=caller().key_id)
        return file, known is None

    def again(self, known: InputFile, *, name: str, lifetime_s: float | None = None) -> InputFile:
        """Return a new record for bytes that are here already. Raises NotFound, LimitReached, StorageUnavailable."""
        self.require_storage()
        try:
            self._storage.touch(known.storage_key)
        except FileNotFoundError as exc:
            raise NotFound("There is no file with this hash.") from exc
        file = self._input_file(known.hash, known.size_bytes, known.content_type, name, known.storage_key, lifetime_s)
        file = replace(file, checked_pixels=known.checked_pixels)
        self._record(file, is_copy=True)
        return file

    def bring(self, references: Sequence[Reference], job_id: str) -> list[InputRef]:
        """Have the file of each of a graph's references in storage.

        Returns: for each reference its file, under the name it will have as `staged_name` makes it. Equal files have
          one name, unless loaders differ in where they look for it.
        Raises:
          InvalidRequest, BodyTooLarge, InputUnavailable: a file cannot be had, or is not what its place takes.
          MissingAsset: there is no such asset.
          StorageUnavailable, StorageFull: files cannot be kept now.
        """
        self.require_storage()
        names: dict[tuple[str, str], str] = {}
        brought = []
        for reference, file in zip(references, self._files(references, job_id), strict=True):
            shown = with_extension(safe_name(file.name), file.content_type)
            name = staged_name(job_id, len(names), shown, reference.class_type, reference.folder)
            place = (file.storage_key, folder_of(name))
            brought.append(InputRef(name=names.setdefault(place, name), key=file.storage_key))
        return brought

    def known_asset(self, asset: str) -> InputFile | Output | None:
        """Return what an id, `<input file id>/<name>` or `<job id>/<name of an output>` stands for, to its caller."""
        first = owner_of(asset)
        if not is_id(first) or "\0" in asset:
            return None
        sees = caller().sees
        with ledger_time_limit():
            try:
                return self._ledger.input_files.get(first, of=sees)
            except NotFound:
                pass
            try:
                if "/" in asset:
                    return self._ledger.outputs.output_at(asset, of=sees)
                return self._ledger.outputs.asset(first, of=sees)
            except NotFound:
                return None

    def referred_to(self, asset: str) -> InputFile | Output | None:
        """Return what a graph means: as `known_asset`, or by `blake3:<hash>` a file that its own tenant brought."""
        if not asset.startswith("blake3:"):
            return self.known_asset(asset)
        with ledger_time_limit():
            return self._ledger.input_files.by_hash(asset, of=caller().tenant)

    def require_storage(self) -> None:
        """Raise StorageUnavailable where what is in sight is not the fleet's storage."""
        self._marker.require()

    def _record(self, file: InputFile, *, key_id: str | None = None, is_copy: bool = False) -> None:
        try:
            with ledger_time_limit():
                self._ledger.input_files.add(
                    file, max_kept_bytes=tenant_limits().max_kept_bytes, key_id=key_id, is_copy=is_copy
                )
        except LimitReached as exc:
            raise self._room.told(exc, file.tenant, file.size_bytes) from exc

    def _put(self, key: str, draft: Path, *, is_needed: bool) -> None:
        self._storage.put(key, draft, is_needed=is_needed)

    def _take_over(self, output: Output, key: str) -> None:
        source_key, digest = output.storage_key or "", output.hash or ""
        self._storage.take_over(self._outputs, source_key, key, size_bytes=output.size_bytes, digest=digest)

    def _hold(self, file: InputFile) -> None:
        """Keep the bytes of a file for as long as it takes to record it. Raises FileNotFoundError."""
        self._storage.touch(file.storage_key)

    def _note_checked(self, file: InputFile, pixels: int) -> None:
        with ledger_time_limit():
            self._ledger.input_files.note_checked(file.storage_key, pixels)

    def _files(self, references: Sequence[Reference], job_id: str) -> list[InputFile]:
        """Return the file of each reference; one that is named in several places is brought once."""
        named = [(each.asset, each.url, each.data, each.file, each.kind) for each in references]
        once: dict[tuple[object, ...], Reference] = {}
        for name, each in zip(named, references, strict=True):
            once.setdefault(name, each)
        if len(once) < 2 or not self._storage.is_remote:
            brought = {name: self._file(each, job_id) for name, each in once.items()}
        else:
            # Each waits for a bucket that may be far away.
            with ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="bring") as pool:
                # Who asks is known to the threads, too.
                begun = {name: pool.submit(copy_context().run, self._file, once[name], job_id) for name in once}
            brought = {name: each.result() for name, each in begun.items()}
        return [brought[name] for name in named]

    def _file(self, reference: Reference, job_id: str) -> InputFile:
        subject = f"The file for {reference.place}"
        if reference.asset is not None:
            return self._asset(reference, subject, job_id)
        if reference.url is not None:
            return self._fetched(reference.url, reference, subject, job_id)
        if reference.data is not None:
            return self._decoded(reference.data, reference.kind, subject, job_id)
        assert reference.file is not None
        try:
            with reference.file.open("rb") as file:
                return self._brought(file, reference.file.name, reference.kind, subject, job_id)
        except OSError as exc:
            raise InputUnavailable(f"{reference.place}: the template's file cannot be read; ask the operator.") from exc

    def _asset(self, reference: Reference, subject: str, job_id: str) -> InputFile:
        found = self.referred_to(reference.asset or "")
        if found is None:
            raise MissingAsset(f"{subject}: this asset has just gone.")
        try:
            if isinstance(found, Output):
                return self._output(found, reference.kind, subject, job_id)
            if not _outlasts_us(found):
                self._hold(found)
            self._look_into(found, reference.kind, subject)
        except (FileNotFoundError, ValueError) as exc:
            raise MissingAsset(f"{subject}: the bytes of this asset are gone.") from exc
        return found

    def _output(self, output: Output, kind: str, subject: str, job_id: str) -> InputFile:
        """Have an earlier output among the input files; within a bucket, its bytes do not come by here."""
        source_key = output.storage_key or ""
        if output.hash is None or not self._storage.is_remote:
            with io.BufferedReader(self._outputs.open(source_key, size_bytes=output.size_bytes)) as source:
                return self._brought(source, output.name, kind, subject, job_id)
        if output.size_bytes > self._settings.max_upload_bytes:
            raise BodyTooLarge(f"{subject} is over the limit of {self._settings.max_upload_bytes} bytes.")
        pixels = None
        if self._has_to_be_read(output.size_bytes, output.content_type, kind, subject):
            pixels = self._settings.max_image_pixels
            with io.BufferedReader(self._outputs.open(source_key, size_bytes=output.size_bytes)) as source:
                check_picture(source, max_pixels=pixels, subject=subject, is_ours=True)
        self._room.before_keeping(caller().tenant, output.size_bytes)
        key = content_key(output.hash.partition(":")[2])
        self._take_over(output, key)
        file = self._input_file(
            output.hash, output.size_bytes, output.content_type, output.name, key, None, job_id, pixels
        )
        self._record(file, is_copy=True)
        return file

    def _look_into(self, file: InputFile, kind: str, subject: str) -> None:
        """Refuse a file that is here and that its place does not take; its bytes are read once in its life."""
        if not self._has_to_be_read(file.size_bytes, file.content_type, kind, subject):
            return
        most = self._settings.max_image_pixels
        if file.checked_pixels is not None and file.checked_pixels <= most:
            return
        with self._storage.local(file.storage_key) as path:
            check_picture(path, max_pixels=most, subject=subject)
        self._note_checked(file, most)

    def _fetched(self, url: str, reference: Reference, subject: str, job_id: str) -> InputFile:
        # Imported late: it loads an HTTP library, which must not happen before gevent has patched the standard library.
        from core.outbound.fetch import fetch

        kind = reference.kind
        limit_bytes = self._settings.max_image_bytes if kind == "image" else self._settings.max_upload_bytes
        with self._draft() as draft:
            with draft.open("wb") as target:
                fetched = fetch(
                    url,
                    policy=Policy.from_settings(self._settings),
                    limit_bytes=limit_bytes,
                    timeout_s=FETCH_S,
                    target=target,
                    field=reference.place,
                )
            name = unquote(urlsplit(url).path).rpartition("/")[2] or "file"
            with draft.open("rb") as source:
                return self._brought(source, name, kind, subject, job_id, declared=fetched.content_type)

    def _decoded(self, uri: str, kind: str, subject: str, job_id: str) -> InputFile:
        match = _DATA_URI.match(uri)
        if match is None or ";base64" not in match[2].lower():
            raise InvalidRequest(f"{subject}: a data URI must look like data:image/png;base64,...")
        try:
            content = base64.b64decode(re.sub(r"\s+", "", unquote(uri[match.end() :])), validate=True)
        except (binascii.Error, ValueError) as exc:
            raise InvalidRequest(f"{subject}: the data URI is not valid base64.") from exc
        return self._brought(io.BytesIO(content), "file", kind, subject, job_id, declared=match[1])

    def _brought(
        self, source: IO[bytes], name: str, kind: str, subject: str, job_id: str, *, declared: str = ""
    ) -> InputFile:
        return self.receive(source, name=name, declared=declared, kind=kind, subject=subject, job_id=job_id)[0]

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        draft = self._storage.draft()
        try:
            yield draft
        except OSError as exc:
            if is_out_of_room(exc):
                raise StorageFull(NO_ROOM) from exc
            raise
        finally:
            draft.unlink(missing_ok=True)

    def _write(self, source: IO[bytes], draft: Path, subject: str) -> tuple[str, int, bytes]:
        """Copy a stream into a draft; returns its hash, size and first bytes."""
        digest, size_bytes, head = blake3(), 0, b""
        with draft.open("wb") as target:
            while piece := source.read(_PIECE_BYTES):
                # A file on this disk never makes us wait, so the other requests of this process are let in here.
                time.sleep(0)
                head = head or piece[:HEAD_BYTES]
                size_bytes += len(piece)
                if size_bytes > self._settings.max_upload_bytes:
                    raise BodyTooLarge(f"{subject} is over the limit of {self._settings.max_upload_bytes} bytes.")
                digest.update(piece)
                target.write(piece)
        return digest.hexdigest(), size_bytes, head

    def _looked_into(self, path: Path, content_type: str, kind: str | None, subject: str) -> int | None:
        """Refuse a file that its place does not take, or that would cost too much to decode.

        One that is not used yet is refused nothing: a picture is only spared a look when it is.

        Returns: of a picture, the limit of pixels that it was found within.
        """
        try:
            if not self._has_to_be_read(path.stat().st_size, content_type, kind or "", subject):
                return None
            check_picture(path, max_pixels=self._settings.max_image_pixels, subject=subject)
        except (InvalidRequest, BodyTooLarge):
            if kind is None:
                return None
            raise
        return self._settings.max_image_pixels

    def _has_to_be_read(self, size_bytes: int, content_type: str, kind: str, subject: str) -> bool:
        """Refuse what its place does not take, as far as that is known; returns whether the rest is in its bytes."""
        main = content_type.partition("/")[0]
        if size_bytes == 0:
            raise InvalidRequest(f"{subject} is empty.")
        if kind == "image" or main == "image":
            if size_bytes > self._settings.max_image_bytes:
                limit_bytes = self._settings.max_image_bytes
                raise BodyTooLarge(f"{subject} is over the limit of {limit_bytes} bytes for pictures.")
            return True
        # The sound of a video can be loaded as well.
        if kind in ("video", "audio") and main not in {"video": ("video",), "audio": ("audio", "video")}[kind]:
            raise InvalidRequest(f"{subject} holds no {kind}.")
        return False

    def _input_file(
        self,
        digest: str,
        size_bytes: int,
        content_type: str,
        name: str,
        key: str,
        lifetime_s: float | None,
        job_id: str | None = None,
        checked_pixels: int | None = None,
    ) -> InputFile:
        now = now_ms()
        return InputFile(
            id=str(uuid.uuid4()),
            tenant=caller().tenant,
            hash=digest,
            name=name[-_MAX_NAME_CHARS:],
            content_type=content_type,
            size_bytes=size_bytes,
            storage_key=key,
            created_at_ms=now,
            expires_at_ms=now + int((lifetime_s or self._settings.retention_s) * 1000),
            job_id=job_id,
            checked_pixels=checked_pixels,
        )


def _outlasts_us(file: InputFile) -> bool:
    """Whether the ledger will refer to a file until what is done with it now has been recorded: nobody removes it."""
    return file.expires_at_ms > now_ms() + OUTLASTS_MS
