"""Whether what a source offers is what the manifest says, before a byte of it is fetched."""

from __future__ import annotations

from dataclasses import dataclass

from comfy.model_files.remote import Offer
from core.errors import ModelRefused


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the manifest says of a file."""

    sha256: str | None
    size_bytes: int | None


def expected_sha256(offer: Offer, wanted: Wanted, *, shown: str) -> str:
    """Return the hash that a file must have.

    Parameters:
      shown: its address, for people.
    Raises:
      ModelRefused: nobody says its hash, or the source itself says that it is another file.
    """
    sha256 = wanted.sha256 or offer.sha256
    if sha256 is None:
        raise ModelRefused(f"{shown} says no sha256: enter it in the manifest.")
    if offer.sha256 not in (None, sha256):
        raise ModelRefused(f"{shown} has another file: its sha256 is {offer.sha256}, and the manifest says {sha256}.")
    if offer.size_bytes is not None and wanted.size_bytes not in (None, offer.size_bytes):
        raise ModelRefused(f"{shown} has {offer.size_bytes} bytes, and the manifest says {wanted.size_bytes}.")
    return sha256
