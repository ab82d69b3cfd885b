"""Files that clients put straight into the bucket: signed, looked at, and given their place by their hash.

An upload is `<prefix>/uploads/<id>` until then. Whoever knows the id, which nobody can guess, may finish it.
"""

from __future__ import annotations

import contextlib
import errno
import time
from dataclasses import dataclass
from io import RawIOBase
from typing import Any

from core.job_files import is_job_id
from core.settings import Settings
from core.storage.object_client import place_of, storage_client, translated
from core.storage.object_reader import ObjectReader
from core.storage.objects import S3Storage, object_reader
from core.storage.sending import UNFINISHED_S

#: How long a client may begin to send; what has begun may last longer.
LINK_S = 3600


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

    def link(self, upload_id: str, *, size_bytes: int) -> str:
        """Return a URL to put exactly so many bytes to."""
        parameters = {"Bucket": self._bucket, "Key": self._name(upload_id), "ContentLength": size_bytes}
        with translated(self._url):
            return str(self._client.generate_presigned_url("put_object", Params=parameters, ExpiresIn=LINK_S))

    def find(self, upload_id: str) -> Sent:
        """Return what has been sent. Raises FileNotFoundError: nothing, or that is no id."""
        with translated(self._url):
            found = self._client.head_object(Bucket=self._bucket, Key=self._name(upload_id))
        return Sent(size_bytes=found["ContentLength"], etag=found["ETag"])

    def open(self, upload_id: str, sent: Sent) -> RawIOBase:
        """Open it for reading; what is put there meanwhile is not read."""
        return ObjectReader(object_reader(self._settings, self._name(upload_id), sent.etag), sent.size_bytes)

    def accept(self, upload_id: str, sent: Sent, key: str, digest: str) -> None:
        """Give it its place among the input files, within the bucket: no bytes come by here.

        Parameters:
          digest: `blake3:<64 hex digits>`, of the bytes that were read.
        Raises: BucketFault - others were put there meanwhile, for one.
        """
        self._inputs.adopt(self._name(upload_id), sent.etag, key, sent.size_bytes, digest)
        self.discard(upload_id)

    def discard(self, upload_id: str) -> None:
        """Remove what was sent."""
        with contextlib.suppress(FileNotFoundError), translated(self._url):
            self._client.delete_object(Bucket=self._bucket, Key=self._name(upload_id))

    def sweep(self) -> int:
        """Remove what nobody finished in a day; returns how many."""
        with translated(self._url):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._folder)
            found = [item for page in pages for item in page.get("Contents", ())]
        old = [item["Key"] for item in found if time.time() - item["LastModified"].timestamp() > UNFINISHED_S]
        for name in old:
            with translated(self._url):
                self._client.delete_object(Bucket=self._bucket, Key=name)
        return len(old)

    @property
    def _client(self) -> Any:
        return storage_client(self._settings)

    def _name(self, upload_id: str) -> str:
        if not is_job_id(upload_id):
            raise FileNotFoundError(errno.ENOENT, "no id of an upload")
        return f"{self._folder}{upload_id}"
