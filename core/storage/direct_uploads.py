"""Files that clients put straight into the bucket: signed, looked at, and given their place by their hash.

An upload is `<prefix>/uploads/<id>` until then. How far it is, and whose, stands in the ledger.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Container
from dataclasses import dataclass
from io import RawIOBase
from typing import Any

from core.clock import now_ms
from core.errors import BodyTooLarge
from core.job_files import is_job_id
from core.records.direct_upload import SENDING, DirectUpload
from core.settings import Settings
from core.storage.multipart import MIB, complete, listed_parts, part_bytes_of
from core.storage.object_client import place_of, storage_client, translated
from core.storage.object_reader import ObjectReader, object_reader
from core.storage.objects import S3Storage
from core.storage.sending import UNFINISHED_S

#: How long a client may begin to send, or a part; what has begun may last longer.
LINK_S = 3600
#: Larger files may come in parts, which are as large, or larger where there would be too many links in one answer.
PARTS_FROM_BYTES = 64 * MIB
MOST_PARTS = 200
#: S3's own limits: of one PUT, a part's or a whole file's, and of an object.
MOST_AT_ONCE_BYTES, MOST_BYTES = 5 * 1024**3, 5 * 1024**4


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What lies there under an id."""

    size_bytes: int
    #: The server's word for these bytes: others that are put there afterwards have another.
    etag: str


class DirectUploads:
    """What clients have sent, or are about to, into the bucket that is the storage."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._inputs = S3Storage(settings, "inputs")
        self._url = settings.storage_url
        self._bucket, prefix = place_of(settings)
        self._folder = f"{prefix}uploads/"

    def begin(self, upload_id: str, size_bytes: int) -> DirectUpload:
        """Make ready for a file: a large one may come in parts. Raises: BodyTooLarge - for S3; BucketFault."""
        if size_bytes > MOST_BYTES:
            raise BodyTooLarge(f"The file is over S3's limit of {MOST_BYTES} bytes (5 TiB) for an object.")
        part_bytes, multipart_id = 0, None
        if size_bytes > PARTS_FROM_BYTES:
            # Of the largest files there are more parts, for none may be larger than that.
            part_bytes = min(
                MOST_AT_ONCE_BYTES, part_bytes_of(size_bytes, least_bytes=PARTS_FROM_BYTES, most_parts=MOST_PARTS)
            )
            with translated(self._url):
                begun = self._client.create_multipart_upload(Bucket=self._bucket, Key=self._name(upload_id))
            multipart_id = str(begun["UploadId"])
        return DirectUpload(
            id=upload_id,
            status=SENDING,
            size_bytes=size_bytes,
            part_bytes=part_bytes,
            multipart_id=multipart_id,
            created_at_ms=now_ms(),
        )

    def link(self, upload: DirectUpload) -> str | None:
        """Return a URL to put all of a file to; None: S3 takes it in parts only."""
        return None if upload.size_bytes > MOST_AT_ONCE_BYTES else self._signed("put_object", upload, upload.size_bytes)

    def part_links(self, upload: DirectUpload) -> dict[int, str]:
        """Return for each part that has not been sent yet a URL to put it to, by its number. Raises BucketFault."""
        return {
            number: self._signed(
                "upload_part", upload, upload.parts()[number], UploadId=upload.multipart_id, PartNumber=number
            )
            for number in self._missing(upload, self._taken(upload))
        }

    def put_together(self, upload: DirectUpload) -> list[int]:
        """Make one object of what was sent; returns the numbers of parts that are missing, and then makes none.

        Raises: FileNotFoundError - nothing was sent; BucketFault.
        """
        try:
            self.find(upload.id)
        except FileNotFoundError:
            if upload.multipart_id is None:
                raise
        else:
            # All at once, or put together already.
            self._abort(upload)
            return []
        taken = self._taken(upload)
        if not taken:
            raise FileNotFoundError(errno.ENOENT, "nothing was sent")
        if missing := self._missing(upload, taken):
            return missing
        with translated(self._url):
            complete(self._client, self._place(upload), {number: taken[number]["ETag"] for number in upload.parts()})
        return []

    def drop(self, upload: DirectUpload) -> None:
        """Remove whatever was sent. Raises BucketFault."""
        self._abort(upload)
        self.discard(upload.id)

    def find(self, upload_id: str) -> Sent:
        """Return what has been sent. Raises FileNotFoundError: nothing, or that is no id."""
        with translated(self._url):
            found = self._client.head_object(Bucket=self._bucket, Key=self._name(upload_id))
        return Sent(size_bytes=found["ContentLength"], etag=found["ETag"])

    def open(self, upload_id: str, sent: Sent) -> RawIOBase:
        """Open it for reading; what is put there meanwhile is not read."""
        return ObjectReader(object_reader(self._settings, self._name(upload_id), sent.etag), sent.size_bytes)

    def accept(self, upload_id: str, sent: Sent, key: str, digest: str) -> None:
        """Give it a copy among the input files, within the bucket: no bytes come by here.

        Parameters:
          digest: `blake3:<64 hex digits>`, of the bytes that were read.
        Raises: BucketFault - others were put there meanwhile, for one.
        """
        self._inputs.adopt(self._name(upload_id), sent.etag, key, sent.size_bytes, digest)

    def discard(self, upload_id: str) -> None:
        """Remove what was sent."""
        with contextlib.suppress(FileNotFoundError), translated(self._url):
            self._client.delete_object(Bucket=self._bucket, Key=self._name(upload_id))

    def sweep(self, needed: Container[str]) -> int:
        """Remove what has lain there for a day and nobody needs; returns how many.

        Parameters:
          needed: ids of uploads that are still to be checked.
        """
        with translated(self._url):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._folder)
            found = [item for page in pages for item in page.get("Contents", ())]
        old = [item["Key"] for item in found if time.time() - item["LastModified"].timestamp() > UNFINISHED_S]
        old = [name for name in old if name.removeprefix(self._folder) not in needed]
        for name in old:
            with translated(self._url):
                self._client.delete_object(Bucket=self._bucket, Key=name)
        return len(old)

    def _taken(self, upload: DirectUpload) -> dict[int, Any]:
        """What the server says of each part that was sent, by its number; nothing where the upload is over."""
        with translated(self._url):
            try:
                return {part["PartNumber"]: part for part in listed_parts(self._client, self._place(upload))}
            except self._client.exceptions.NoSuchUpload:
                return {}

    def _missing(self, upload: DirectUpload, taken: dict[int, Any]) -> list[int]:
        return [n for n, size_bytes in upload.parts().items() if taken.get(n, {}).get("Size") != size_bytes]

    def _abort(self, upload: DirectUpload) -> None:
        if upload.multipart_id is not None:
            with translated(self._url), contextlib.suppress(self._client.exceptions.NoSuchUpload):
                self._client.abort_multipart_upload(**self._place(upload))

    def _place(self, upload: DirectUpload) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._name(upload.id), "UploadId": upload.multipart_id}

    def _signed(self, method: str, upload: DirectUpload, size_bytes: int, **more: Any) -> str:
        """A URL to put exactly so many bytes to."""
        place = {"Bucket": self._bucket, "Key": self._name(upload.id), "ContentLength": size_bytes, **more}
        with translated(self._url):
            return str(self._client.generate_presigned_url(method, Params=place, ExpiresIn=LINK_S))

    @property
    def _client(self) -> Any:
        return storage_client(self._settings)

    def _name(self, upload_id: str) -> str:
        if not is_job_id(upload_id):
            raise FileNotFoundError(errno.ENOENT, "no id of an upload")
        return f"{self._folder}{upload_id}"
