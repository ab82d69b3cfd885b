"""Which servers' certificates are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from api.server.metrics.certificates import _servers
from tests.services import make_settings


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"public_url": "http://api.example.com"}, []),
        ({"public_url": "https://api.example.com"}, [("api.example.com", 443)]),
        ({"public_url": "https://api.example.com:8443/"}, [("api.example.com", 8443)]),
        ({"broker_url": "rediss://user:word@redis.example.com/0"}, [("redis.example.com", 6379)]),
        (
            {"broker_url": "amqps://a.example.com//;amqps://b.example.com:1//"},
            [("a.example.com", 5671), ("b.example.com", 1)],
        ),
        ({"storage_endpoint_url": "https://s3.example.com"}, [("s3.example.com", 443)]),
    ],
)
def test_those_that_begin_with_tls(tmp_path: Path, given: dict[str, Any], expected: list[tuple[str, int]]) -> None:
    assert list(_servers(make_settings(tmp_path, **given))) == expected
