"""A client's address is what trusted proxies say it is, and nothing that a client writes himself."""

from __future__ import annotations

import pytest

from api.http.forwarded import client_address
from core.outbound.networks import networks_of

TRUSTED = networks_of(["loopback", "10.0.0.0/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        pytest.param("127.0.0.1", "198.51.100.7", "198.51.100.7", id="one proxy"),
        pytest.param("127.0.0.1", "198.51.100.7, 10.1.2.3", "198.51.100.7", id="two proxies"),
        pytest.param("127.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7", id="what the client wrote is not reached"),
        pytest.param("203.0.113.9", "6.6.6.6", "203.0.113.9", id="nobody who is not named is believed"),
        pytest.param("127.0.0.1", "6.6.6.6, 203.0.113.9, 10.1.2.3", "203.0.113.9", id="nor one behind a trusted one"),
        pytest.param("127.0.0.1", "10.1.2.3", "10.1.2.3", id="a client among the proxies"),
        pytest.param("::ffff:127.0.0.1", "2001:db8::1", "2001:db8::1", id="both families on one socket"),
        pytest.param("127.0.0.1", "198.51.100.7:5512", "198.51.100.7", id="with a port"),
        pytest.param("127.0.0.1", "[2001:db8::1]:5512", "2001:db8::1", id="with brackets and a port"),
        pytest.param("127.0.0.1", "6.6.6.6, unknown, 10.1.2.3", "10.1.2.3", id="nothing before what is no address"),
        pytest.param("127.0.0.1", "", "127.0.0.1", id="an empty header"),
        pytest.param("", "6.6.6.6", "", id="a peer without an address"),
    ],
)
def test_a_request_is_from_whom_the_last_trusted_proxy_says(peer: str, forwarded: str, expected: str) -> None:
    assert client_address(peer, forwarded, TRUSTED) == expected
