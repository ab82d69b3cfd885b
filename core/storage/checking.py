"""Whether a file that a client has put into the bucket is what its client says; if so, it becomes an input file."""

from __future__ import annotations

import time
import uuid

from blake3 import blake3

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger.input_files import InputFile
from core.records.direct_upload import DirectUpload
from core.settings import Settings
from core.storage.direct_uploads import DirectUploads, Sent
from core.storage.folders import content_key
from core.storage.media import HEAD_BYTES, content_type_of
from core.storage.placing import CHUNK_BYTES

#: For which one process has an upload to itself, unless it says that it goes on.
LEASE_S = 60.0
#: The same while the bucket copies the bytes, and says nothing meanwhile.
COPY_S = 900.0
#: After a fault of the bucket.
REST_S = 5.0


def check(ledger: Ledger, settings: Settings, upload_id: str) -> bool:
    """Read what was sent, and end the upload either way; False: there was nothing to do. Safe to do twice.

    Raises:
      LedgerUnavailable: it is tried again when this process's time for it is over.
      OSError: the bucket fails; it is tried again in a moment.
    """
    upload = ledger.direct_uploads.claim(upload_id, lease_s=LEASE_S)
    if upload is None:
        return False
    try:
        _check(ledger, settings, upload)
    except OSError:
        ledger.direct_uploads.hold(upload_id, lease_s=REST_S)
        raise
    return True


def _check(ledger: Ledger, settings: Settings, upload: DirectUpload) -> None:
    uploads = DirectUploads(settings)
    claimed = upload.claimed
    assert claimed is not None, "it is checked after its client has said what it is"
    try:
        sent = uploads.find(upload.id)
        if sent.size_bytes != upload.size_bytes:
            words = f"{sent.size_bytes} bytes were sent, and {upload.size_bytes} announced."
            _refuse(ledger, uploads, upload, "invalid_request", words)
            return
        digest, head = _read(ledger, uploads, upload, sent)
    except FileNotFoundError:
        _refuse(ledger, uploads, upload, "not_found", "What was sent is gone.")
        return
    found = f"blake3:{digest}"
    if claimed.hash != found:
        _refuse(ledger, uploads, upload, "hash_mismatch", f"The file has the hash {found}, not the expected one.")
        return
    ledger.direct_uploads.hold(upload.id, lease_s=COPY_S)
    is_new = ledger.input_files.by_hash(found, of=upload.tenant) is None
    key, now = content_key(digest), now_ms()
    uploads.accept(upload.id, sent, key, found)
    file = InputFile(
        id=str(uuid.uuid4()),
        tenant=upload.tenant,
        hash=found,
        name=claimed.name,
        content_type=content_type_of(head, claimed.content_type),
        size_bytes=sent.size_bytes,
        storage_key=key,
        created_at_ms=now,
        expires_at_ms=now + int((claimed.lifetime_s or settings.retention_s) * 1000),
    )
    ledger.direct_uploads.finish(upload.id, file, is_new=is_new)
    uploads.discard(upload.id)


def _read(ledger: Ledger, uploads: DirectUploads, upload: DirectUpload, sent: Sent) -> tuple[str, bytes]:
    """Return the hash of what was sent, 64 hex digits, and its first bytes. Raises OSError."""
    digest, head, held_at_s = blake3(), b"", time.monotonic()
    with uploads.open(upload.id, sent) as source:
        while piece := source.read(CHUNK_BYTES):
            head = head or piece[:HEAD_BYTES]
            digest.update(piece)
            if time.monotonic() - held_at_s > LEASE_S / 4:
                ledger.direct_uploads.hold(upload.id, lease_s=LEASE_S)
                held_at_s = time.monotonic()
    return digest.hexdigest(), head


def _refuse(ledger: Ledger, uploads: DirectUploads, upload: DirectUpload, code: str, message: str) -> None:
    ledger.direct_uploads.refuse(upload.id, code, message)
    uploads.discard(upload.id)
