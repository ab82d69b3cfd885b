"""Links that need no key: each names one asset, or one job's events, and an end, signed with the fleet's keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from core.clock import now_ms

#: The parameters of a link, and the only ones that a signature is looked for in.
EXPIRES, SIGNATURE = "expires_ms", "signature"
#: Sets the derived keys apart from any other use of the keys they come from.
_PURPOSE = b"links to assets, version 1"
#: A page that follows a job has to ask for another link when this one has ended.
EVENTS_MS = 600_000
#: Links that are made within a tenth of their life are equal, so that caches know what they have.
_STEPS = 10


@dataclass(frozen=True, kw_only=True)
class Link:
    """Where something is, and until when it is there for whoever has the link."""

    url: str
    expires_at_ms: int


class LinkSigner:
    """Makes and checks the signatures of links, under keys derived from those of a ring: the first signs, all check.

    Parameters:
      keys: as of `core.ledger.sealing.load_keys`; at least one.
      lifetime_s: how long a link is good, unless its file goes before.
    """

    def __init__(self, keys: Sequence[bytes], *, lifetime_s: float) -> None:
        self._keys = [HKDF(SHA256(), length=32, salt=None, info=_PURPOSE).derive(key) for key in keys]
        self._lifetime_ms = int(lifetime_s * 1000)

    def end_of(self, until_ms: int) -> int:
        """Return when a link that is made now ends, in milliseconds since 1970.

        Parameters:
          until_ms: when its file is removed; no link is good for longer.
        """
        step_ms = max(1, self._lifetime_ms // _STEPS)
        wanted_ms = now_ms() + self._lifetime_ms
        return min(until_ms, -(-wanted_ms // step_ms) * step_ms)

    def sign(self, asset_id: str, expires_at_ms: int) -> str:
        """Return the signature of one asset and one end, as text for a URL."""
        return _signature(self._keys[0], asset_id, str(expires_at_ms))

    def is_genuine(self, asset_id: str, expires: str, signature: str) -> bool:
        """Tell whether we made this signature for this asset and this end, both as they came; it may be over by now."""
        presented = signature.encode("utf-8", "surrogateescape")
        # Every key is tried, and each comparison takes its time: neither tells anything of the keys.
        matches = [
            hmac.compare_digest(presented, _signature(key, asset_id, expires).encode("ascii")) for key in self._keys
        ]
        return any(matches)


@dataclass(frozen=True, kw_only=True)
class Links:
    """Links for one client, who knows us by one address.

    Parameters:
      base_url: scheme and host, without a closing slash.
      signer: None leaves links unsigned: they work only with a key, where keys are needed.
    """

    base_url: str
    signer: LinkSigner | None = None

    def content(self, asset_id: str, *, until_ms: int) -> Link:
        """Return the link to an asset's bytes.

        Parameters:
          until_ms: when its file is, or was, removed.
        """
        url = f"{self.base_url}/api/v2/assets/{quote(asset_id)}/content"
        if self.signer is None:
            return Link(url=url, expires_at_ms=until_ms)
        return self._signed(url, asset_id, self.signer.end_of(until_ms), self.signer)

    def events(self, job_id: str) -> Link:
        """Return the link by which a job's event stream may begin, for what cannot send a key with a request."""
        url, end_ms = f"{self.base_url}/api/v2/jobs/{job_id}/events", now_ms() + EVENTS_MS
        if self.signer is None:
            return Link(url=url, expires_at_ms=end_ms)
        return self._signed(url, events_of(job_id), end_ms, self.signer)

    @staticmethod
    def _signed(url: str, what: str, end_ms: int, signer: LinkSigner) -> Link:
        # Neither has a character that a query would have to escape, and a page has many links.
        query = f"{EXPIRES}={end_ms}&{SIGNATURE}={signer.sign(what, end_ms)}"
        return Link(url=f"{url}?{query}", expires_at_ms=end_ms)


def events_of(job_id: str) -> str:
    """Return what is signed for a job's events: no asset is called so."""
    return f"events of {job_id}"


def _signature(key: bytes, asset_id: str, expires: str) -> str:
    # Neither part holds the line feed between them in any link of ours; one that does was not signed by us.
    message = f"{asset_id}\n{expires}".encode("utf-8", "surrogateescape")
    return base64.urlsafe_b64encode(hmac.new(key, message, hashlib.sha256).digest()).rstrip(b"=").decode("ascii")
