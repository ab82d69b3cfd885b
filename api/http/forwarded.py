"""Whose request it is, where a proxy hands it on: `X-Forwarded-For`, believed of proxies that the operator names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from flask import Flask

from core.outbound.networks import networks_of
from core.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_HEADER = "HTTP_X_FORWARDED_FOR"


def register_forwarding(app: Flask, settings: Settings) -> None:
    """Have `request.remote_addr` be the client's address, where a proxy of COMFYLINE_TRUSTED_PROXIES says it."""
    if settings.trusted_proxies:
        trusted = networks_of(settings.trusted_proxies)
        app.wsgi_app = _Forwarded(app.wsgi_app, trusted)  # type: ignore[method-assign]


def client_address(peer: str, forwarded: str, trusted: Sequence[IPv4Network | IPv6Network]) -> str:
    """Return the address that a request is from.

    Each proxy puts the address it was asked by behind what it found, so that the list is read from its end, for as long
    as the one who wrote an entry is trusted: what a client wrote himself stands before that, and is never reached.

    Parameters:
      peer: who connected to us.
      forwarded: the header's value, `client, proxy, proxy`.
    """
    found = peer
    for entry in reversed(forwarded.split(",")):
        if not _is_in(found, trusted):
            break
        address = _address(entry.strip())
        if address is None:
            # Nobody knows who wrote what stands before it.
            break
        found = address
    return found


class _Forwarded:
    """The application, told the client's address."""

    def __init__(self, inner: WSGIApplication, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
        self._inner = inner
        self._trusted = trusted

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if (forwarded := environ.get(_HEADER)) is not None:
            environ["REMOTE_ADDR"] = client_address(environ.get("REMOTE_ADDR", ""), forwarded, self._trusted)
        return self._inner(environ, start_response)


def _is_in(address: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    plain = _address(address)
    return plain is not None and any(ip_address(plain) in network for network in networks)


def _address(text: str) -> str | None:
    """Return an address without port, brackets and zone, as we write it; None if it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    # What a socket for both families says of an IPv4 client.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
