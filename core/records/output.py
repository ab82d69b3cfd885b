"""The outputs of a job: on their way into storage, stored, and in a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from core.texts.stored_json import known_fields

Kind: TypeAlias = Literal["image", "video", "audio", "text", "file", "latent"]
#: ComfyUI's own words for where a file is; `temp` files are previews and vanish when the instance restarts.
Folder: TypeAlias = Literal["output", "temp", "input"]


@dataclass(frozen=True, kw_only=True)
class BucketResult:
    """How an output fared in a bucket: where it is, or why it is not there."""

    #: None also where nobody but the client knows one.
    url: str | None = None
    key: str | None = None
    #: When the url stops working; None: never, or nobody knows.
    expires_at_ms: int | None = None
    #: Why it is not there; None: it is.
    error: str | None = None

    @classmethod
    def from_json(cls, value: Any) -> BucketResult:
        """Read what `to_json` made, of this version or a newer one."""
        return cls(**known_fields(cls, value))

    def to_json(self) -> dict[str, Any]:
        """Return `{"url", "key"?, "expires_at_ms"?}` or `{"error"}`."""
        if self.error is not None:
            return {"error": self.error}
        more = {"key": self.key, "expires_at_ms": self.expires_at_ms}
        return {"url": self.url, **{name: value for name, value in more.items() if value is not None}}


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """Where an instance left an output: a file on its host's disk, one that it hands out by HTTP, or a text itself."""

    #: ComfyUI's directory that holds the file, without which nothing is taken from the disk.
    root: str | None = None
    path: str | None = None
    url: str | None = None
    text: str | None = None

    @classmethod
    def from_json(cls, value: Any) -> FileSource:
        """Read what `to_json` made, of this version or a newer one."""
        return cls(**known_fields(cls, value))

    def to_json(self) -> dict[str, str]:
        """Return `{"root", "path"}`, `{"url"}` or `{"text"}`."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Output:
    """One file a job produced. An asset with its place in the job."""

    #: Asset id, opaque.
    id: str
    job_id: str
    #: The node of the submitted graph.
    node_id: str
    #: File name without a folder.
    name: str
    kind: Kind
    content_type: str
    #: 0 until the file is in storage.
    size_bytes: int = 0
    #: `blake3:<64 hex digits>`; None until the file is in storage.
    hash: str | None = None
    #: `<job id>/<name>`, in a bucket from the second attempt on `<job id>/<attempt>/<name>`; None until it is there.
    storage_key: str | None = None
    folder: Folder = "output"
    #: ComfyUI's own word: the key of the node's result.
    comfy_key: str = "images"
    subfolder: str = ""
    created_at_ms: int = 0
    #: None: it was not to go into a bucket, or is not there yet.
    bucket_result: BucketResult | None = None
    #: Why the file is not as the client wanted it.
    conversion_error: str | None = None
    #: Why nobody can find the file that ComfyUI reported: it never was in storage.
    missing_reason: str | None = None
    #: Its time is over and its file was removed.
    is_expired: bool = False

    @property
    def upload_error(self) -> str | None:
        """Why it is not in the bucket where it was to be."""
        return None if self.bucket_result is None else self.bucket_result.error

    @property
    def stored_name(self) -> str:
        """The name it has in storage, where names within one job differ, which those its nodes gave need not."""
        return (self.storage_key or "").rpartition("/")[2]

    def path_below(self, root: Path) -> Path:
        """Return the path of its file, which is in storage."""
        assert self.storage_key is not None, f"{self.id} is not in storage"
        return root / self.storage_key


@dataclass(frozen=True, kw_only=True)
class OutputFile(Output):
    """An output on its way into storage, with what is known of it so far."""

    source: FileSource
    #: Its place among the outputs of its job, from 1; 0 until the ledger has numbered it.
    ordinal: int = 0

    def stored_json(self) -> dict[str, Any]:
        """Return what `with_stored` reads.

        Returns: `{"asset_id", "storage_key", "size_bytes", "hash", "name", "content_type", "upload"}`.
        """
        problem = {"conversion_error": self.conversion_error}
        return {
            "asset_id": self.id,
            "storage_key": self.storage_key,
            "size_bytes": self.size_bytes,
            "hash": self.hash,
            "name": self.name,
            "content_type": self.content_type,
            "upload": None if self.conversion_error is None else problem,
        }

    def with_stored(self, value: Mapping[str, Any]) -> OutputFile:
        """Add what `stored_json` said of it once it was stored, in this version or another one.

        Raises: LookupError, TypeError - something is missing.
        """
        return replace(
            self,
            storage_key=str(value["storage_key"]),
            size_bytes=int(value["size_bytes"]),
            hash=str(value["hash"]),
            # Earlier versions left these out where they had not changed.
            name=value.get("name") or self.name,
            content_type=value.get("content_type") or self.content_type,
            conversion_error=(value.get("upload") or {}).get("conversion_error"),
        )
