"""The task that looks at a file which a client has put into the bucket: read, compared, and given its place."""

from __future__ import annotations

from celery import shared_task

from core.errors import LedgerUnavailable
from core.storage.checking import check
from tasks.messaging.names import CHECK_UPLOAD
from tasks.runtime import ComfylineTask


@shared_task(bind=True, base=ComfylineTask, name=CHECK_UPLOAD)
def check_upload(self: ComfylineTask, upload_id: str) -> str:
    """Check one upload; returns its id. What fails in passing is published again by the reconciler."""
    try:
        is_done = check(self.runtime.ledger, self.runtime.settings, upload_id)
    except LedgerUnavailable as exc:
        self.report(f"upload {upload_id} waits: {exc}")
    except OSError as exc:
        self.report(f"upload {upload_id} waits: {exc.strerror or type(exc).__name__}")
    else:
        if is_done:
            self.report(f"upload {upload_id}")
    return upload_id
