"""URLs that clients name: whether one can be read in one way only, and whether its address may be connected to."""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import urlsplit

from core.errors import InvalidRequest
from core.outbound.networks import Policy

MAX_URL_CHARS = 2048
MAX_HOST_CHARS = 253
#: Printable ASCII but the backslash, which some readers of URLs take for a slash.
_URL = re.compile(r"[\x21-\x5b\x5d-\x7e]+")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
#: A host that resolvers take for an IPv4 address, of which they know many spellings: 127.1, 2130706433, 0x7f.1.
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?")


def check_url(url: str, field: str, policy: Policy | None = None, *, max_chars: int = MAX_URL_CHARS) -> str:
    """Return the URL itself, if it names an http or https address in one way only. Raises InvalidRequest.

    Parameters:
      field: what the error calls it.
      policy: an address that is written in the URL must be one it permits. Names are not resolved here.
    """
    if len(url) > max_chars:
        raise InvalidRequest(f"{field} is over {max_chars} characters.")
    if not _URL.fullmatch(url):
        raise InvalidRequest(f"{field} must be printable ASCII without spaces and backslashes.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise InvalidRequest(f"{field} is not a URL.") from exc
    if parts.scheme not in ("http", "https"):
        raise InvalidRequest(f"{field} must start with http:// or https://.")
    if "@" in parts.netloc:
        raise InvalidRequest(f"{field} must not hold a user name or password.")
    if "#" in url:
        raise InvalidRequest(f"{field} must not have a fragment (#).")
    host = parts.hostname or ""
    if not _is_host(host, is_bracketed="[" in parts.netloc):
        raise InvalidRequest(f"{field} needs a host name.")
    if port is not None and not 1 <= port <= 65535:
        raise InvalidRequest(f"{field}: the port must be from 1 to 65535.")
    address = _address(host, field)
    if address is not None and policy is not None and not policy.permits(address):
        raise InvalidRequest(f"{field}: {host} is a private address, which this server does not connect to.")
    return url


def _is_host(host: str, *, is_bracketed: bool) -> bool:
    if is_bracketed:
        try:
            return IPv6Address(host).scope_id is None
        except AddressValueError:
            return False
    return len(host) <= MAX_HOST_CHARS and _HOST.fullmatch(host) is not None


def _address(host: str, field: str) -> str | None:
    """Return the address that the host is; None for a name."""
    if ":" in host:
        return host
    if _NUMERIC.fullmatch(host):
        try:
            return str(IPv4Address(host))
        except AddressValueError as exc:
            raise InvalidRequest(f"{field}: an IPv4 address must be four decimal numbers, as in 192.0.2.1.") from exc
    name = host.rstrip(".")
    # These names are reserved for the machine itself.
    return "127.0.0.1" if name == "localhost" or name.endswith(".localhost") else None
