"""Files that clients send straight into the bucket: announced here, and looked at by an io worker if they are large."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from api.http.caller import caller, tenant_limits
from api.http.errors import HashMismatch
from api.http.time_limits import ledger_time_limit
from api.service.jobs import TurnPublisher
from api.service.tenant_room import TenantRoom
from core.errors import BodyTooLarge, InvalidRequest, LimitReached, NotFound, RequestError
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.records.direct_upload import FINISHED, SENDING, Claimed, DirectUpload
from core.settings import Settings
from core.storage.backend import direct_uploads
from core.storage.marker import StorageMarker

if TYPE_CHECKING:
    # It loads an HTTP library, see `core.storage.backend`.
    from core.storage.direct_uploads import DirectUploads

#: Larger files are read by an io worker, smaller ones at once.
READ_HERE_BYTES = 16 * 1024 * 1024
#: Of parts that are missing, a message names so many.
_NAMED = 10
_ERRORS: dict[str, type[RequestError]] = {
    error.code: error for error in (HashMismatch, InvalidRequest, NotFound, BodyTooLarge)
}


class DirectIntake:
    """Where files come in that pass by us, for one process."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        marker: StorageMarker,
        publisher: TurnPublisher,
        room: TenantRoom,
    ) -> None:
        self._room = room
        self._settings = settings
        self._ledger = ledger
        self._marker = marker
        self._publisher = publisher

    def begin(self, *, size_bytes: int) -> DirectUpload:
        """Let a client send a file.

        Raises: InvalidRequest, BodyTooLarge, LimitReached, StorageUnavailable, LedgerUnavailable.
        """
        bucket = self._bucket()
        if size_bytes > self._settings.max_upload_bytes:
            raise BodyTooLarge(f"The file is over the limit of {self._settings.max_upload_bytes} bytes.")
        self._room.before_keeping(caller().tenant, size_bytes)
        upload = replace(bucket.begin(str(uuid.uuid4()), size_bytes), tenant=caller().tenant)
        with ledger_time_limit():
            self._ledger.direct_uploads.add(upload)
        return upload

    def get(self, upload_id: str) -> DirectUpload:
        """Return an upload as it is now. Raises NotFound, LedgerUnavailable."""
        with ledger_time_limit():
            return self._ledger.direct_uploads.get(upload_id, of=caller().sees)

    def places(self, upload: DirectUpload) -> tuple[str | None, dict[int, str]]:
        """Return where a client may put all of a file, and each part that is missing, by its number."""
        if upload.status != SENDING:
            return None, {}
        bucket = self._bucket()
        return bucket.link(upload), bucket.part_links(upload) if upload.multipart_id is not None else {}

    def finish(self, upload_id: str, claimed: Claimed) -> DirectUpload:
        """Have a file looked at of which all is sent. Doing it again tells how far that is.

        Returns: the upload, which is `checking` if it is large, else `finished`.
        Raises:
          NotFound: there is no such upload, or nothing was sent.
          InvalidRequest: parts are missing, or there is more or less than was announced; or it was finished before,
            with another hash.
          HashMismatch: its bytes have another hash. It is gone then.
          LimitReached: others have come meanwhile, and it would be more than its tenant may keep.
          StorageUnavailable, LedgerUnavailable.
        """
        bucket = self._bucket()
        upload = self.get(upload_id)
        if upload.status == SENDING:
            if upload.tenant == caller().tenant:
                # Before the bucket is asked for anything.
                self._room.before_keeping(upload.tenant, upload.size_bytes)
            upload = self._sent(bucket, upload, claimed)
        if upload.error is not None:
            raise _error(upload.error)
        if upload.claimed is not None and upload.claimed.hash != claimed.hash:
            raise InvalidRequest(
                f"This upload was finished before, as a file with the hash {upload.claimed.hash}. Another file is "
                "another upload: POST /api/v2/assets/uploads."
            )
        return upload

    def file_of(self, upload: DirectUpload) -> InputFile | None:
        """Return the input file that came of an upload; None: none yet, or it has gone since."""
        if upload.status != FINISHED or upload.file_id is None:
            return None
        with ledger_time_limit():
            try:
                return self._ledger.input_files.get(upload.file_id, of=upload.tenant)
            except NotFound:
                return None

    def _sent(self, bucket: DirectUploads, upload: DirectUpload, claimed: Claimed) -> DirectUpload:
        try:
            missing = bucket.put_together(upload)
        except FileNotFoundError as exc:
            raise NotFound("Nothing has been sent of this upload.") from exc
        if missing:
            named = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
            raise InvalidRequest(f"Of {len(upload.parts())} parts these are missing, or not as large as said: {named}.")
        # What an operator finishes for others is let in.
        allowed = tenant_limits().max_kept_bytes if upload.tenant == caller().tenant else None
        try:
            with ledger_time_limit():
                self._ledger.direct_uploads.sent(upload.id, claimed, max_kept_bytes=allowed)
        except LimitReached as exc:
            raise self._room.told(exc, upload.tenant, upload.size_bytes) from exc
        if upload.size_bytes > READ_HERE_BYTES:
            self._publisher.check_upload(upload.id)
        else:
            self._check(upload.id)
        return self.get(upload.id)

    def _check(self, upload_id: str) -> None:
        # Imported late: it loads an HTTP library, which must not happen before gevent has patched the standard library.
        from core.storage.checking import check

        check(self._ledger, self._settings, upload_id)

    def _bucket(self) -> DirectUploads:
        uploads = direct_uploads(self._settings)
        if uploads is None:
            raise InvalidRequest("This server takes files itself, for it keeps them in no bucket: POST /api/v2/assets.")
        self._marker.require()
        return uploads


def _error(said: tuple[str, str]) -> RequestError:
    code, message = said
    return _ERRORS.get(code, InvalidRequest)(message)
