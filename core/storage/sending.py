"""Sends files into the bucket: large ones in parts, of which a process that is killed leaves word for the next one.

What was begun stands in a file of this machine, `<data>/sending/<hash of the object's name>`: a line that says what is
sent under which id, then a line for each part that the server has taken. Parts that the server has as this file says,
or as their MD5 says, are not sent again. The server alone is not asked for what was begun: MinIO lists uploads only by
an exact name, and none after its restart, and no listing tells which file parts are of.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from s3transfer.utils import ReadFileChunk

from core.settings import Settings
from core.storage.folders import FRESH_S, BucketFault, age_s
from core.storage.multipart import MIB, complete, listed_parts, part_bytes_of
from core.storage.object_client import place_of, storage_client, translated
from core.storage.placing import LocalFile

#: Files from this size on are sent in parts.
LARGE_BYTES = 16 * MIB
PART_BYTES = 8 * MIB
#: Of one file: what a kill costs is so many parts that were under way.
PARTS_AT_ONCE = 4
#: S3 takes 10,000.
MOST_PARTS = 9_000
#: Uploads in parts that have come to no end for so long, and had no part since, were left by processes that died.
UNFINISHED_S = 24 * 3600.0
_GONE = "NoSuchUpload"
#: Refusals after which the same parts are refused for ever.
_USELESS = frozenset((_GONE, "InvalidPart", "InvalidPartOrder", "EntityTooSmall"))


class Sender:
    """Sends into one bucket. Safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.storage_url
        self._bucket, _ = place_of(settings)
        self._records = settings.data_dir / "sending"
        #: Uploads in parts that were under way at the last look, and since when they are known here.
        self._seen_at_s: dict[str, float] = {}

    def send(self, name: str, file: LocalFile, *, resumes: bool = False) -> None:
        """Put a file under a name, whole or not at all.

        Parameters:
          resumes: large ones go on where an earlier process was killed; not where nobody will come again with the file.
        Raises: OSError, BucketFault.
        """
        size_bytes = file.path.stat().st_size
        extra = {"ContentType": file.content_type, "Metadata": {"blake3": file.digest.partition(":")[2]}}
        if size_bytes < LARGE_BYTES:
            with translated(self._url), file.path.open("rb") as body:
                self._client.put_object(Bucket=self._bucket, Key=name, Body=body, **extra)
            return
        record = _Record(self._records / hashlib.sha256(name.encode()).hexdigest() if resumes else None)
        plan = _Plan(
            name=name,
            digest=file.digest,
            size_bytes=size_bytes,
            part_bytes=part_bytes_of(size_bytes, least_bytes=PART_BYTES, most_parts=MOST_PARTS),
        )
        with translated(self._url):
            taken = self._taken(record, plan, file.path)
            if taken is None and self._begin(record, plan, extra):
                return
            try:
                self._send_parts(record, plan, file.path, taken or {})
            except ClientError as exc:
                self._judge(exc, record, plan)
            except Exception:
                # Not where it is the caller who stops: the server may be silent, and what stays is swept.
                if not resumes:
                    self._abort(name, record.upload_id)
                raise
        record.forget()

    def _begin(self, record: _Record, plan: _Plan, extra: dict[str, Any]) -> bool:
        """Begin an upload in parts; returns whether nothing is to be sent, as the file is there already."""
        with threads(1, "look") as pool:
            # At the same time: a bucket may be far away.
            is_there = pool.submit(self._is_there, plan)
            begun = self._client.create_multipart_upload(Bucket=self._bucket, Key=plan.name, **extra)
        record.begin(plan, begun["UploadId"])
        if not is_there.result():
            return False
        self._abort(plan.name, record.upload_id)
        record.forget()
        return True

    def sweep(self, beginning: str) -> None:
        """Abort uploads in parts that were begun long ago and had no part lately; forget what this machine left.

        Parameters:
          beginning: of the names of their objects.
        """
        self._sweep_records()
        before, self._seen_at_s = self._seen_at_s, {}
        with translated(self._url):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self._bucket, Prefix=beginning)
            found = [begun for page in pages for begun in page.get("Uploads", ())]
        for begun in found:
            upload_id = str(begun["UploadId"])
            seen_at_s = self._seen_at_s[upload_id] = before.get(upload_id, time.monotonic())
            # Some servers tell nonsense of when it began, so it has to have been seen for a while as well.
            if time.monotonic() - seen_at_s >= FRESH_S and time.time() - begun["Initiated"].timestamp() > UNFINISHED_S:
                with contextlib.suppress(BucketFault), translated(self._url):
                    moments = [part["LastModified"].timestamp() for part in self._parts(begun["Key"], upload_id)]
                    if time.time() - max(moments, default=-math.inf) > UNFINISHED_S:
                        self._abort(begun["Key"], upload_id)

    def _sweep_records(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for path in self._records.iterdir():
                with contextlib.suppress(OSError):
                    if age_s(path) > 2 * UNFINISHED_S:
                        path.unlink()

    @property
    def _client(self) -> Any:
        return storage_client(self._settings)

    def _taken(self, record: _Record, plan: _Plan, path: Path) -> dict[int, str] | None:
        """Return the ETags of parts that need not be sent, by number; None: the upload has to be begun."""
        said = record.read()
        if said is None:
            return None
        if said == plan:
            try:
                return {
                    part["PartNumber"]: part["ETag"]
                    for part in self._parts(plan.name, record.upload_id)
                    if part["Size"] == plan.part(part["PartNumber"])[1] and _is_of(part, record, plan, path)
                }
            except ClientError as exc:
                if _code_of(exc) != _GONE:
                    raise
        else:
            # It was converted once more, say.
            self._abort(said.name, record.upload_id)
        return None

    def _send_parts(self, record: _Record, plan: _Plan, path: Path, taken: dict[int, str]) -> None:
        """Send what is missing, and have the server put the object together."""

        def send_part(number: int) -> None:
            start, length = plan.part(number)
            place = self._place(plan.name, record.upload_id)
            with ReadFileChunk.from_filename(str(path), start, length) as body:
                etag = self._client.upload_part(**place, PartNumber=number, Body=body)["ETag"]
            taken[number] = etag
            record.add(number, etag)

        with threads(PARTS_AT_ONCE, "send") as pool:
            steps = [pool.submit(send_part, number) for number in range(1, plan.count + 1) if number not in taken]
            wait(steps, return_when=FIRST_EXCEPTION)
            for step in steps:
                step.cancel()
        for step in steps:
            if not step.cancelled():
                step.result()
        complete(self._client, self._place(plan.name, record.upload_id), taken)

    def _judge(self, exc: ClientError, record: _Record, plan: _Plan) -> None:
        """Raise what a server refused, unless the object is there; forget an upload that can come to no end."""
        if _code_of(exc) not in _USELESS:
            if record.path is None:
                self._abort(plan.name, record.upload_id)
            raise exc
        # Somebody has ended this upload: whether well or not, the object tells.
        if not self._is_there(plan):
            self._abort(plan.name, record.upload_id)
            record.forget()
            words = "the S3 server does not go on with an upload in parts; it is begun anew"
            raise BucketFault(errno.EIO, f"{self._url}: {words} ({_code_of(exc)})") from exc

    def _parts(self, name: str, upload_id: str) -> Iterator[Any]:
        return listed_parts(self._client, self._place(name, upload_id))

    def _place(self, name: str, upload_id: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": name, "UploadId": upload_id}

    def _is_there(self, plan: _Plan) -> bool:
        try:
            with translated(self._url):
                found = self._client.head_object(Bucket=self._bucket, Key=plan.name)
        except FileNotFoundError:
            return False
        is_same = found["Metadata"].get("blake3") == plan.digest.partition(":")[2]
        return bool(is_same and found["ContentLength"] == plan.size_bytes)

    def _abort(self, name: str, upload_id: str) -> None:
        # What stays is swept after a day.
        with contextlib.suppress(OSError), translated(self._url):
            self._client.abort_multipart_upload(**self._place(name, upload_id))


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Which file is sent, under what name, in which parts."""

    name: str
    digest: str
    size_bytes: int
    part_bytes: int

    @property
    def count(self) -> int:
        return -(-self.size_bytes // self.part_bytes)

    def part(self, number: int) -> tuple[int, int]:
        """Return where part `number`, from 1, begins, and how long it is."""
        start = (number - 1) * self.part_bytes
        return start, min(self.part_bytes, self.size_bytes - start)


@dataclass
class _Record:
    """What this machine has written down of one upload in parts. Safe to add to from several threads."""

    #: None: nothing is written down.
    path: Path | None
    upload_id: str = ""
    #: ETags, by number.
    parts: dict[int, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> _Plan | None:
        """Return what was being sent; None: nothing, or nothing that can be read."""
        if self.path is None:
            return None
        try:
            first, *lines = self.path.read_text(encoding="utf-8").splitlines()
            said = json.loads(first)
            self.upload_id, plan = str(said.pop("upload_id")), _Plan(**said)
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            # There is none, or what a power cut has left of it.
            return None
        for line in lines:
            # The last one may be half a line: its part is sent again.
            with contextlib.suppress(ValueError, TypeError):
                number, etag = json.loads(line)
                self.parts[int(number)] = str(etag)
        return plan

    def begin(self, plan: _Plan, upload_id: str) -> None:
        """Write down that an upload was begun. Where the disk takes nothing, it goes on all the same."""
        self.upload_id, self.parts = upload_id, {}
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_suffix(".part")
            draft.write_text(json.dumps({"upload_id": upload_id, **vars(plan)}) + "\n", encoding="utf-8")
            draft.replace(self.path)

    def add(self, number: int, etag: str) -> None:
        """Write down that a part was taken."""
        if self.path is not None:
            with contextlib.suppress(OSError), self._lock, self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([number, etag]) + "\n")

    def forget(self) -> None:
        """Remove what was written down."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()


@contextlib.contextmanager
def threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads for the time of the block; what has not begun when it fails does not begin any more.

    Who is told to stop waiting, by what is no `Exception`, does not wait for what has begun either.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    try:
        yield pool
    except BaseException as exc:
        pool.shutdown(isinstance(exc, Exception), cancel_futures=True)
        raise
    pool.shutdown()


def _is_of(part: Any, record: _Record, plan: _Plan, path: Path) -> bool:
    """Whether a part on the server is the file's."""
    known, etag = record.parts.get(part["PartNumber"]), part["ETag"]
    if known is not None:
        return bool(known == etag)
    # The answer did not come any more. With most servers, if the bucket is not encrypted by KMS, it is the MD5.
    start, length = plan.part(part["PartNumber"])
    with ReadFileChunk.from_filename(str(path), start, length) as body:
        return bool(hashlib.md5(body.read(), usedforsecurity=False).hexdigest() == etag.strip('"'))


def _code_of(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))
