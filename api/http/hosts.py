"""By which names and addresses an open server may be asked: those that are its own.

A browser sends along the name that its page used. A page whose owner points a name of theirs at our address, or that
spells loopback as only some resolvers read it, would otherwise speak to a server that asks nobody for a key.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import urlsplit

from flask import request

from core.settings import Settings

#: Names as they are compared: in small letters, addresses without brackets.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_](?:[a-z0-9._-]*[a-z0-9_-])?))(?::[0-9]{1,5})?")
_ANY = "*"

Address = IPv4Address | IPv6Address


class Hosts:
    """The names and addresses of an open server. One that asks for keys takes any name: browsers send no key."""

    def __init__(self, settings: Settings) -> None:
        public = urlsplit(settings.public_url).hostname
        own = socket.gethostname().lower()
        self._takes_any = _ANY in settings.allowed_hosts
        names = [settings.api_host.lower(), own, f"{own}.local", *settings.allowed_hosts, *([public] if public else [])]
        self._names = frozenset(names)
        #: An address of IPv6 has several spellings.
        self._addresses = frozenset(map(_address, names)) - {None}
        self._public = public

    def knows(self, header: str) -> bool:
        """Return whether a Host header names this server, in the spelling that browsers and resolvers read alike."""
        host = host_of(header)
        if host is None:
            return False
        if self._takes_any:
            return True
        address = _address(host)
        if address is None:
            return host in self._names or host == "localhost" or host.endswith(".localhost")
        # `0.0.0.0` reaches loopback as well, and is nobody's address; so is 127.0.0.1 in the clothes of IPv6.
        if address.is_unspecified or _mapped(address) is not None:
            return False
        return address.is_loopback or address in self._addresses or address == _local_address()

    def is_own_page(self, origin: str, header: str) -> bool:
        """Return whether an Origin is a page of this server: of the name that it was asked by, or of its public one."""
        try:
            parts = urlsplit(origin)
            host, port, own_port = parts.hostname, parts.port, urlsplit(f"//{header}").port
        except ValueError:
            return False
        if host is None:
            return False
        if self._public is not None and host == self._public:
            return True
        return host == host_of(header) and (port is None or own_port is None or port == own_port)


def host_of(header: str) -> str | None:
    """Return the host of a Host header in small letters, without port and brackets; None: it is malformed."""
    found = _HOST.fullmatch(header.lower())
    return None if found is None else found[1] or found[2]


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's own, by name or address."""
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") if address is None else address.is_loopback


def _address(host: str) -> Address | None:
    # Only as it is written: `127.1`, `2130706433` and `0177.0.0.1` are none.
    try:
        return ip_address(host)
    except ValueError:
        return None


def _mapped(address: Address) -> IPv4Address | None:
    return address.ipv4_mapped if isinstance(address, IPv6Address) else None


def _local_address() -> Address | None:
    """Return the address of ours that this request came in by."""
    connection: Any = request.environ.get("gunicorn.socket") or request.environ.get("werkzeug.socket")
    try:
        address = ip_address(str(connection.getsockname()[0]).partition("%")[0])
    except (AttributeError, IndexError, OSError, TypeError, ValueError):
        return None
    return _mapped(address) or address
