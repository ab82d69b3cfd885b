"""A bucket that is a fleet's storage, by the marker in it, and whether its credentials permit what a fleet does."""

from __future__ import annotations

import contextlib
import errno
import re
import uuid
from typing import Any

from core.errors import ConfigurationError
from core.ledger.storage_ids import StorageIds
from core.settings import Settings
from core.storage.object_client import in_words, place_of, storage_client

NAME = "fleet-storage"
#: Of a marker, whatever else may lie at its key.
MOST_BYTES = 1024
_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_IS_IT_S3 = (
    "Does COMFYLINE_STORAGE_ENDPOINT_URL name an S3 server, and not another one, or a proxy's page? Otherwise remove "
    "the object."
)
#: Numbers of faults that may be over soon; at the others somebody has to change something.
PASSING = (errno.ETIMEDOUT, errno.ECONNREFUSED, errno.EIO)


class MarkedBucket:
    """The `MarkedPlace` of a bucket, or of a folder of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._url = settings.storage_url
        self._bucket, self._prefix = place_of(settings)
        self._key = f"{self._prefix}{NAME}"

    def __str__(self) -> str:
        return f"COMFYLINE_STORAGE_URL={self._url}"

    def away(self) -> str | None:
        """Return why nobody can tell now what is there, where that may pass; None: it can be told, or is refused."""
        try:
            self._read()
        except OSError as exc:
            return exc.strerror if exc.errno in PASSING else None
        return None

    def problem(self, ids: StorageIds) -> str | None:
        """Return what is wrong where the fleet's current id, or its next one, should be; None: it is there."""
        try:
            found = self._read()
        except OSError as exc:
            return f"The storage cannot be used. {exc.strerror or exc}."
        if found is None:
            return (
                f"{self} is not this fleet's storage: it has no {self._key}. `comfyline storage copy` fills a bucket "
                "with the files of a directory and makes it the fleet's."
            )
        if found[:1] in ([ids.current], [ids.next]):
            return None
        if found[:1] and found[0] in ids.left:
            return (
                f"{self} is no longer this fleet's storage: the fleet has moved. Set COMFYLINE_STORAGE_URL to what the "
                "other machines have."
            )
        if found and _ID.fullmatch(found[0]):
            return (
                f"{self} is not this fleet's storage, but another fleet's, or one that it never moved to: its "
                f"{self._key} differs. Choose another folder of the bucket, or correct COMFYLINE_DATABASE_URL; "
                "`comfyline storage copy` makes it the fleet's."
            )
        return f"{self._key} in {self._url} holds no marker. {_IS_IT_S3}"

    def marker_id(self) -> str | None:
        """Return the id in the marker; None: there is none. Raises OSError."""
        found = self._read()
        return found[0] if found else None

    def first_id(self, fleet: str) -> str:
        """Return the id in the marker, which is made if there is none. Raises ConfigurationError."""
        try:
            found = self._read()
            if found is None:
                # Equal for all processes of one fleet: however many come first, they write the same.
                self.mark(fleet, fleet)
                found = self._read() or []
        except OSError as exc:
            raise ConfigurationError(f"The storage cannot be used. {exc.strerror or exc}.") from exc
        if not found or not _ID.fullmatch(found[0]):
            raise ConfigurationError(f"{self._key} in {self._url} holds no marker. {_IS_IT_S3}")
        if found[1:] != [fleet]:
            raise ConfigurationError(self._is_foreign)
        return found[0]

    def foreign(self, fleet: str) -> str | None:
        """Return what to do about the marker of another fleet; None: it is this fleet's, or there is none."""
        found = self._read()
        return None if found is None or found[1:] == [fleet] else self._is_foreign

    def mark(self, marker_id: str, fleet: str) -> None:
        """Write the marker. Raises OSError."""
        with in_words(self._url):
            self._client.put_object(Bucket=self._bucket, Key=self._key, Body=f"{marker_id} {fleet}\n".encode())

    def check_rights(self) -> str | None:
        """Return why nothing can be written, read, listed or removed there; None: it can."""
        key, words = f"{self._prefix}checks/{uuid.uuid4().hex}", b"comfyline"
        try:
            with in_words(self._url):
                self._client.put_object(Bucket=self._bucket, Key=key, Body=words)
            try:
                with in_words(self._url):
                    found = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read(MOST_BYTES)
                    self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            finally:
                with in_words(self._url):
                    self._client.delete_object(Bucket=self._bucket, Key=key)
        except OSError as exc:
            return f"The storage cannot be used. {exc.strerror or exc}."
        return None if found == words else f"{self} does not give back what was put there."

    @property
    def _is_foreign(self) -> str:
        return (
            f"{self} belongs to another fleet, with another ledger. Two fleets would remove each other's files: "
            f"choose another folder of the bucket, or if that fleet is gone remove {self._key}."
        )

    def _read(self) -> list[str] | None:
        with contextlib.suppress(FileNotFoundError), in_words(self._url):
            found = self._client.get_object(Bucket=self._bucket, Key=self._key)["Body"].read(MOST_BYTES)
            return str(found.decode("utf-8", errors="replace")).split()
        return None

    @property
    def _client(self) -> Any:
        return storage_client(self._settings)
