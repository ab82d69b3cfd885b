"""Until when the certificates of the servers hold that this fleet is reached by, and that it reaches by TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from cryptography import x509

from core.settings import Settings

#: Each server has so long to show its certificate.
LOOK_S = 3.0
_PORTS = {"https": 443, "rediss": 6379, "amqps": 5671}


def expiries(settings: Settings) -> dict[str, float]:
    """Return when certificates end, in seconds since 1970, by host and port. A server that does not answer is left out.

    Looked at are the API's public URL, the broker and the storage's endpoint, as far as they begin with TLS.
    """
    found = {}
    for host, port in _servers(settings):
        with contextlib.suppress(OSError, ValueError):
            found[f"{host}:{port}"] = expiry(host, port)
    return found


def expiry(host: str, port: int) -> float:
    """Return when the certificate of a server ends. Raises OSError, ValueError."""
    # Whether it is to be trusted is for those who connect; one that has ended already is of interest here.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=LOOK_S) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    if shown is None:
        raise ValueError("The server shows no certificate.")
    return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()


def _servers(settings: Settings) -> Iterator[tuple[str, int]]:
    urls = [settings.public_url, settings.storage_endpoint_url, *settings.broker_url.split(";")]
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme in _PORTS and parts.hostname:
            yield parts.hostname, parts.port or _PORTS[parts.scheme]
