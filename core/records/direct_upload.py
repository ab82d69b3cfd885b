"""A file that a client sends straight into the bucket: announced, sent, checked, and an input file in the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from core.records.access import DEFAULT_TENANT

SENDING: Literal["sending"] = "sending"
CHECKING: Literal["checking"] = "checking"
FINISHED: Literal["finished"] = "finished"
REFUSED: Literal["refused"] = "refused"
UploadStatus: TypeAlias = Literal["sending", "checking", "finished", "refused"]


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What a client says of a file that it has sent."""

    #: `blake3:<64 hex digits>`.
    hash: str
    #: A path relative to ComfyUI's input folder.
    name: str
    #: Counts only where the bytes tell nothing.
    content_type: str
    #: How long it is to be kept; None: as long as usual.
    lifetime_s: float | None


@dataclass(frozen=True, kw_only=True)
class DirectUpload:
    """One upload, as far as it is."""

    #: Opaque.
    id: str
    #: Who owns it, and what comes of it.
    tenant: str = DEFAULT_TENANT
    status: UploadStatus
    #: As announced.
    size_bytes: int
    #: Of each part but the last; 0: it is sent in one.
    part_bytes: int
    #: The bucket's word for an upload in parts; None where there are none.
    multipart_id: str | None
    created_at_ms: int
    #: None until the client has said that all is sent.
    claimed: Claimed | None = None
    #: The input file that came of it, and whether its bytes were new.
    file_id: str | None = None
    is_new: bool = False
    #: Why it was refused: a public code, and a line for the client.
    error: tuple[str, str] | None = None

    def parts(self) -> dict[int, int]:
        """Return the size in bytes of each part, by its number from 1; nothing where it is sent in one."""
        if not self.part_bytes:
            return {}
        starts = range(0, self.size_bytes, self.part_bytes)
        return {n: min(self.part_bytes, self.size_bytes - start) for n, start in enumerate(starts, start=1)}
