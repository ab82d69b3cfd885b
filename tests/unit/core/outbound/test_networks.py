"""Which addresses URLs of clients may lead to, and which URLs are refused before anybody resolves a name."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from api.schema.blocks import WebhookBody
from api.service.webhook_target import parse_webhook
from core.errors import ConfigurationError, InvalidRequest
from core.outbound import UNRESTRICTED, Policy, check_url
from core.outbound.networks import METADATA
from core.settings import load_settings
from tests.refused_urls import REFUSED_NAMES, REFUSED_URLS
from tests.services import make_settings

STRICT = Policy()
#: An API that other machines reach.
OPEN = {"api_host": "0.0.0.0"}


def allowing(*networks: str) -> Policy:
    return Policy(allowed=tuple(ip_network(network) for network in networks))


@pytest.mark.parametrize("url", [url for url in REFUSED_URLS if url not in REFUSED_NAMES])
def test_what_is_no_name_is_refused_before_anything_is_resolved(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^webhook\.url"):
        check_url(url, "webhook.url", STRICT)


@pytest.mark.parametrize("url", REFUSED_NAMES)
def test_names_are_not_judged_by_their_look(url: str) -> None:
    assert check_url(url, "url", STRICT) == url


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "134744072", "8.8.8.8."])
def test_an_address_has_one_spelling_even_where_everything_is_allowed(host: str) -> None:
    with pytest.raises(InvalidRequest, match="four decimal numbers"):
        check_url(f"http://{host}/", "url", UNRESTRICTED)


@pytest.mark.parametrize("host", ["1.shop.example", "x127", "0x7g", "9.9.9.9", "[2606:4700::1111]", "a.b0x1"])
def test_hosts_that_are_public_or_only_look_like_numbers(host: str) -> None:
    assert check_url(f"https://{host}/", "url", STRICT)


def test_the_address_in_a_url_is_judged_by_the_policy() -> None:
    assert check_url("http://10.1.2.3:9000/", "url", allowing("10.1.0.0/16"))
    assert check_url("http://localhost:9000/", "url", allowing("127.0.0.0/8"))
    with pytest.raises(InvalidRequest, match=r"^s3\.endpoint_url: 10\.2\.2\.3 is a private address"):
        check_url("http://10.2.2.3:9000/", "s3.endpoint_url", allowing("10.1.0.0/16"))


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450::1"],
)
def test_public_addresses_are_permitted_in_every_form(address: str) -> None:
    assert STRICT.permits(address)
    if ":" not in address:
        assert STRICT.permits(f"::ffff:{address}")
        # As hosts without IPv4 see it.
        assert STRICT.permits(f"64:ff9b::{address}")


@pytest.mark.parametrize("address", ["64:ff9b::10.0.0.1", "64:ff9b::168.63.129.16", "64:ff9b::127.0.0.1"])
def test_allowed_networks_are_not_those_behind_a_translator(address: str) -> None:
    assert not allowing("0.0.0.0/0").permits(address)


def test_a_mapped_address_is_the_address_it_maps() -> None:
    assert allowing("10.0.0.0/8").permits("::ffff:10.0.0.1")
    assert not allowing("::/0").permits("::ffff:10.0.0.1")


def test_a_zone_does_not_hide_an_address() -> None:
    assert not STRICT.permits("fe80::1%lo")
    assert not UNRESTRICTED.permits("fd00:ec2::254%eth0")
    assert allowing("fe80::/10").permits("fe80::1%lo")


@pytest.mark.parametrize("address", sorted(map(str, METADATA)))
def test_a_metadata_service_has_to_be_allowed_by_itself(address: str) -> None:
    assert not STRICT.permits(address)
    assert not UNRESTRICTED.permits(address)
    assert not allowing("169.254.0.0/16", "100.64.0.0/10", "fc00::/7").permits(address)
    assert allowing(address).permits(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_a_fleet_of_one_machine_allows_loopback(tmp_path: Path, host: str) -> None:
    policy = Policy.from_settings(make_settings(tmp_path, api_host=host))

    assert policy == allowing("127.0.0.0/8", "::1/128")
    assert not policy.permits("10.0.0.1")


def test_its_ledger_and_broker_may_be_servers_of_this_machine(tmp_path: Path) -> None:
    urls = {"database_url": "postgresql://postgres@127.0.0.1:5432/fleet", "broker_url": "amqp://guest@localhost//"}
    assert Policy.from_settings(make_settings(tmp_path, **urls)).permits("127.0.0.1")


@pytest.mark.parametrize(
    "changes",
    [
        OPEN,
        {"api_host": "::"},
        {"api_host": "192.168.0.7"},
        {"api_host": "render1"},
        # A proxy stands before it.
        {"public_url": "https://api.example.com"},
        # Workers of other machines, for whom this address is their own.
        {"database_url": "postgresql://192.0.2.1/fleet"},
        {"broker_url": "redis://192.0.2.1:6379/0"},
        {"broker_url": "redis://a.internal:1;redis://b.internal:2"},
    ],
)
def test_any_other_fleet_allows_nothing_by_itself(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert Policy.from_settings(make_settings(tmp_path, **changes)) == STRICT


def test_networks_are_allowed_by_number_and_by_word(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, **OPEN, allow_networks="loopback, 100.64.0.0/10 ,private,fd12::/16,10.0.0.1")
    policy = Policy.from_settings(settings)

    assert all(map(policy.permits, ("127.0.0.1", "::1", "100.64.0.1", "192.168.1.1", "fd12::1", "10.0.0.1")))
    assert not any(map(policy.permits, ("169.254.1.1", "0.0.0.0", "100.100.100.200", "fd00:ec2::254")))
    words = "the public internet, this machine, private networks, 100.64.0.0/10, fd12::/16, 10.0.0.1/32"
    assert str(policy) == words


@pytest.mark.parametrize("value", ["10.0.0.0/33", "10.1.2.3/8", "everything", "Loopback", "example.com"])
def test_what_is_no_network_stops_the_start(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_ALLOW_NETWORKS", value)

    with pytest.raises(ConfigurationError, match=rf"^COMFYLINE_ALLOW_NETWORKS: '{value}' is no network"):
        load_settings()


def test_a_webhook_to_a_forbidden_address_is_refused_with_the_request(tmp_path: Path) -> None:
    block = WebhookBody(url="http://127.0.0.1:9000/hook")

    with pytest.raises(InvalidRequest, match=r"^webhook\.url: 127\.0\.0\.1 is a private address"):
        parse_webhook(block, make_settings(tmp_path, **OPEN), "", has_default=True)
    assert parse_webhook(block, make_settings(tmp_path), "", has_default=True)


def test_the_operators_own_webhook_may_be_inside_but_no_other_beside_it(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, **OPEN, webhook_url="http://10.0.0.5/hook")

    assert parse_webhook(None, settings, "", has_default=True)
    with pytest.raises(InvalidRequest, match="private address"):
        parse_webhook(WebhookBody(url="http://10.0.0.5/other"), settings, "", has_default=True)
