"""S3's uploads in parts: how large parts are, which of them a server has, and the one object that they become."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MIB = 1024 * 1024


def part_bytes_of(size_bytes: int, *, least_bytes: int, most_parts: int) -> int:
    """Return how large the parts of a file are: larger than the least where there would be too many of them."""
    return max(least_bytes, -(-size_bytes // (most_parts * MIB)) * MIB)


def listed_parts(client: Any, place: Mapping[str, str]) -> Iterator[Any]:
    """Yield what the server says of each part that it has.

    Parameters:
      place: `Bucket`, `Key` and `UploadId`.
    """
    for page in client.get_paginator("list_parts").paginate(**place):
        yield from page.get("Parts", ())


def complete(client: Any, place: Mapping[str, str], etags: Mapping[int, str]) -> None:
    """Make one object of the parts with these numbers."""
    parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
    client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
