"""Copies within the bucket, of which no bytes come by here."""

from __future__ import annotations

from typing import Any

from s3transfer.manager import TransferConfig, TransferManager

from core.settings import Settings
from core.storage.object_client import place_of, storage_client, translated

#: Larger objects are copied in parts.
AT_ONCE_BYTES = 1024**3
_PARTS = TransferConfig(multipart_threshold=AT_ONCE_BYTES, multipart_chunksize=256 * 1024**2, max_request_concurrency=4)


def copy_within(
    settings: Settings,
    source: str,
    etag: str,
    target: str,
    *,
    size_bytes: int,
    digest: str,
    is_ours: bool = False,
) -> None:
    """Copy an object to another name, whole or not at all.

    Parameters:
      etag: of the bytes that are meant; others are refused.
      is_ours: nobody else writes there, so that it need not be looked at once more.
      digest: `blake3:<64 hex digits>`, for the copy's metadata.
    Raises: FileNotFoundError, BucketFault.
    """
    bucket, _ = place_of(settings)
    place: dict[str, Any] = {"Bucket": bucket, "Key": source}
    extra: dict[str, Any] = {
        "CopySourceIfMatch": etag,
        "MetadataDirective": "REPLACE",
        "Metadata": {"blake3": digest.partition(":")[2]},
    }
    client = storage_client(settings)
    with translated(settings.storage_url):
        if size_bytes < AT_ONCE_BYTES:
            if not is_ours:
                # Some servers pay no heed to what a copy is bound to.
                client.head_object(Bucket=bucket, Key=source, IfMatch=etag)
            client.copy_object(Bucket=bucket, Key=target, CopySource=place, **extra)
            return
        with TransferManager(client, _PARTS) as manager:
            manager.copy(place, bucket, target, extra_args=extra).result()
