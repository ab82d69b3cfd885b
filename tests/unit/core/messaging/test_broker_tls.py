"""How a broker is spoken to by TLS: always checked, certificate and name, for each kind by its own options."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError
from pydantic import ValidationError

from core.messaging.broker_tls import refused_certificate, tls_options
from tests.services import make_settings


@pytest.mark.parametrize("url", ["", "redis://host/0", "amqp://host//"])
def test_no_tls_where_the_url_has_none(tmp_path: Path, url: str) -> None:
    assert tls_options(make_settings(tmp_path, broker_url=url)) is False


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "rediss://host:6380/0",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True, "ssl_ca_certs": None},
        ),
        ("amqps://host//", {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "host", "ca_certs": None}),
        ("amqps://a//;amqps://b//", {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "a", "ca_certs": None}),
    ],
)
def test_certificate_and_name_are_checked_unless_somebody_says_otherwise(
    tmp_path: Path, url: str, expected: dict[str, Any]
) -> None:
    assert tls_options(make_settings(tmp_path, broker_url=url)) == expected


def test_what_a_redis_url_says_itself_wins(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, broker_url="rediss://host/0?ssl_cert_reqs=none")

    assert Connection(settings.transport_url, ssl=tls_options(settings)).ssl == {"ssl_cert_reqs": ssl.CERT_NONE}


def test_such_parameters_are_refused_where_they_would_end_each_connection(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="set COMFYLINE_BROKER_CA instead"):
        make_settings(tmp_path, broker_url="amqps://host//?ssl_ca_certs=/etc/ca.pem")


def test_a_refused_certificate_is_found_behind_other_errors() -> None:
    refused = ssl.SSLCertVerificationError("no")
    try:
        try:
            raise refused
        except OSError as exc:
            raise OperationalError("the broker is away") from exc
    except OperationalError as exc:
        outer = exc

    assert refused_certificate(outer) is refused
    assert refused_certificate(OSError("away")) is None
