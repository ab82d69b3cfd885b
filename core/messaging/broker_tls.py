"""How a broker is spoken to by TLS: its certificate is checked, and its name.

kombu checks nothing of `rediss://` unless it is told to, and no name of `amqps://`; and each of the two takes its
options by other names.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from core.settings import Settings


def tls_options(settings: Settings) -> dict[str, Any] | bool:
    """Return what kombu's `Connection` takes as `ssl`, and Celery as `broker_use_ssl`; False: no TLS.

    `ssl_` parameters in a URL of Redis win over this: kombu reads them itself.
    """
    # Of several brokers they are to differ by nothing but their address.
    parts = urlsplit(settings.transport_url.partition(";")[0])
    ca = None if settings.broker_ca is None else str(settings.broker_ca)
    if parts.scheme == "rediss":
        return {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ca_certs": ca}
    if parts.scheme == "amqps":
        # Without a name py-amqp takes any certificate that the authority has made.
        return {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": parts.hostname or "localhost", "ca_certs": ca}
    return False


def refused_certificate(exc: BaseException | None) -> ssl.SSLCertVerificationError | None:
    """Return the refusal of a server's certificate among the causes of an error; None: it failed for another reason."""
    return next((cause for cause in _causes(exc) if isinstance(cause, ssl.SSLCertVerificationError)), None)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or exc.__context__
