"""Who may ask: API keys, and no pages of other sites in somebody's browser."""

from __future__ import annotations

import hashlib
import hmac

from flask import Flask, request

from api.http.errors import BadParameter, ForbiddenOrigin, LinkRefused, Misdirected
from api.http.hosts import Hosts, host_of, is_loopback
from api.http.signed_links import comes_by_link
from core.errors import Unauthorized
from core.links import LinkSigner
from core.settings import Settings

#: Asked by load balancers, supervisors and receivers of webhooks, which have no key, or the same for everybody.
#: `/ready` says more to those who have one.
OPEN_PATHS = frozenset({"/health", "/ready", "/api/v2/health", "/openapi.json", "/docs", "/webhooks/public-key"})
#: A page for readers that says the same to all of them, so that other sites may lead there.
DOCS = "/docs"


class Guard:
    """Checks every request before its view runs.

    Parameters:
      signer: whose links open the files they name, from any page and without a key.
    """

    def __init__(self, settings: Settings, signer: LinkSigner) -> None:
        self._digests = tuple(_digest(key) for key in settings.api_keys)
        self._hosts = Hosts(settings)
        self._signer = signer

    def register(self, app: Flask) -> None:
        """Run before every request of the app."""
        app.before_request(self._check)

    def is_known(self) -> bool:
        """Return whether this request carries one of the keys; always true of an open server."""
        return not self._digests or self.has_key()

    def has_key(self) -> bool:
        """Return whether this request carries one of the keys; never true of an open server."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        presented = _digest(key.strip())
        # Every key is compared, and digests rather than keys: how long it takes says nothing about any of them.
        matches = [hmac.compare_digest(presented, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)

    def _check(self) -> None:
        # Werkzeug gives no host when the header is none; every link we return would be broken.
        if not request.host:
            raise BadParameter("The Host header is missing or malformed.")
        header = request.headers.get("Host")
        # Every browser sends one; some load balancers do not.
        if header is not None and not self._hosts.knows(header):
            raise Misdirected(
                "This server asks nobody for a key, and does not go by the name in the Host header. Use its own name "
                "or address; its operator can add names in COMFYLINE_ALLOWED_HOSTS, or set keys."
            )
        if self._comes_by_link():
            return
        self._check_origin()
        if request.method == "OPTIONS" or request.path in OPEN_PATHS or self.is_known():
            return
        raise Unauthorized("An API key is needed: Authorization: Bearer <key>.")

    def _comes_by_link(self) -> bool:
        try:
            return comes_by_link(self._signer)
        except LinkRefused:
            # A key opens more than any link does, good or not.
            if not self.has_key():
                raise
            return False

    def _check_origin(self) -> None:
        """Refuse pages of other sites: they must not reach their reader's own API, but may lead to our page."""
        if request.path == DOCS and request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate":
            return
        if request.headers.get("Sec-Fetch-Site", "").lower() == "cross-site":
            raise ForbiddenOrigin("Requests from pages of other sites are refused.")
        origin, header = request.headers.get("Origin"), request.headers.get("Host", "")
        # Where keys are asked for, and not on this very machine, programs may name whatever origin they like.
        if origin is None or (self._digests and not is_loopback(host_of(header) or "")):
            return
        if not self._hosts.is_own_page(origin, header):
            raise ForbiddenOrigin("Requests from pages of other sites are refused.")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
