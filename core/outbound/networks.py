"""Which addresses may be connected to for a URL that a client named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path

from core.settings import Settings
from core.settings.neighbours import serves_one_machine

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

#: What the words in COMFYLINE_ALLOW_NETWORKS and COMFYLINE_TRUSTED_PROXIES stand for.
NAMED = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
}
_SHOWN = {"loopback": "this machine", "private": "private networks"}
# A table of our own, after IANA's registries of special-purpose addresses: what `ipaddress` calls global differs from
# one release of Python to the next, and includes multicast and addresses that carry another address inside.
_SPECIAL_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
#: All of IPv6 that is handed out for public use; what lies outside is loopback, private, multicast or reserved.
_UNICAST_6 = IPv6Network("2000::/3")
# 2001::/23 holds Teredo and 2002::/16 is 6to4: both carry an IPv4 address, and neither is in use any more.
_SPECIAL_6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
#: IPv4 as hosts without IPv4 reach it. The address at the end is where a connection leads to.
_NAT64 = IPv6Network("64:ff9b::/96")
#: Where clouds keep the credentials of a machine. One of them is a public address by its number.
METADATA: frozenset[Address] = frozenset(
    ip_address(address)
    for address in (
        "100.100.100.200",
        "168.63.129.16",
        "169.254.169.123",
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "192.0.0.192",
        "fd00:ec2::23",
        "fd00:ec2::254",
        "fd20:ce::254",
    )
)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Public addresses may always be connected to; others only in networks that are allowed."""

    allowed: tuple[Network, ...] = ()
    #: A PEM file of authorities that may certify who answers there, beside the usual ones.
    ca_bundle: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Policy:
        """Return what COMFYLINE_ALLOW_NETWORKS says; loopback too where the API serves this machine alone."""
        words = [*settings.allow_networks, *(["loopback"] if serves_one_machine(settings) else [])]
        return cls(allowed=networks_of(words), ca_bundle=settings.ca_bundle)

    @classmethod
    def of_operator(cls, settings: Settings) -> Policy:
        """Return the policy for URLs that the operator has set: any address but those of metadata services."""
        return replace(UNRESTRICTED, ca_bundle=settings.ca_bundle)

    @classmethod
    def for_webhook(cls, url: str, settings: Settings) -> Policy:
        """Return the policy for a webhook's URL, which may be the operator's own."""
        return cls.of_operator(settings) if url == settings.webhook_url else cls.from_settings(settings)

    def permits(self, address: str) -> bool:
        """Return whether this address, as the resolver writes it, may be connected to."""
        return self._permits(ip_address(address.partition("%")[0]))

    def _permits(self, address: Address) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            # The kernel makes an IPv4 connection of it.
            address = address.ipv4_mapped
        if address in METADATA:
            # A wide network that happens to hold one is not enough.
            return ip_network(address) in self.allowed
        return any(address in network for network in self.allowed) or _is_public(address)

    def __str__(self) -> str:
        left = [str(network) for network in self.allowed]
        shown = ["the public internet"]
        for word, networks in NAMED.items():
            if set(networks) <= set(left):
                shown.append(_SHOWN[word])
                left = [network for network in left if network not in networks]
        return ", ".join([*shown, *left])


def networks_of(words: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks of a setting: `10.1.0.0/16`, or words that stand for some (`NAMED`)."""
    named = [network for word in dict.fromkeys(words) for network in NAMED.get(word, (word,))]
    return tuple(ip_network(network) for network in named)


#: For URLs that the operator has set himself. Metadata services stay out of reach.
UNRESTRICTED = Policy(allowed=(IPv4Network("0.0.0.0/0"), IPv6Network("::/0")))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    if address in _NAT64:
        # Allowed networks are those around this machine, not those around the translator.
        return Policy().permits(str(IPv4Address(address.packed[-4:])))
    return address in _UNICAST_6 and not any(address in network for network in _SPECIAL_6)
