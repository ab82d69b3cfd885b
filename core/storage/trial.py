"""Whether a storage takes a file, gives it back, and lets it go: tried with one of no job."""

from __future__ import annotations

import errno
import os
import uuid

from core.storage.backend import StorageBackend

SIZE_BYTES = 1024


def try_storage(storage: StorageBackend) -> None:
    """Write a small file, read it, and remove it.

    Raises:
      OSError: one of the three fails; `strerror` says why.
    """
    # Named as a job's: should it stay, the reconciler finds no such job and removes it.
    folder, data = str(uuid.uuid4()), os.urandom(SIZE_BYTES)
    key, draft = f"{folder}/trial", storage.draft()
    try:
        draft.write_bytes(data)
        storage.put(key, draft)
        with storage.open(key, size_bytes=len(data)) as file:
            if file.read() != data:
                raise OSError(errno.EIO, "what was read is not what was written")
    finally:
        draft.unlink(missing_ok=True)
        storage.remove_folder(folder)
    if storage.folder_age_s(folder) != float("inf"):
        raise OSError(errno.EACCES, "what was written cannot be removed")
