"""Types of single settings: how each is read from text, and what it must be."""

from __future__ import annotations

import re
import shlex
import ssl
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field
from pydantic_settings import NoDecode

from core.broker_kind import SCHEMES as BROKER_SCHEMES
from core.object_keys import check_template, is_safe_prefix

#: Words that stand for networks in COMFYLINE_ALLOW_NETWORKS and COMFYLINE_TRUSTED_PROXIES.
NETWORK_WORDS = ("loopback", "private")

#: Looser than Amazon's rules: other servers have capitals and underscores.
_BUCKET_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_PRICE = re.compile(r"(?P<kind>[^=]*[^=\s])\s*=\s*(?P<amount>\d{1,7}(\.\d{1,6})?) (?P<currency>[A-Z]{3})", re.ASCII)
#: A pool is a label of the setting COMFYLINE_POOL, or `-` for GPUs without one.
_RANGE = re.compile(
    r"(?P<pool>-|[A-Za-z0-9][A-Za-z0-9._-]{0,63})\s*=\s*(?P<least>\d{1,6})-(?P<most>\d{1,6})?", re.ASCII
)
_PORTS = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_-])?")


@dataclass(frozen=True, kw_only=True)
class GpuPrice:
    """What an hour on a kind of GPU costs."""

    #: A part of the kind's name, in small letters.
    kind: str
    per_hour: Decimal
    #: Three letters, such as EUR.
    currency: str


def plain_name(name: str) -> AliasChoices:
    """Return the alias of a field whose variable has no prefix, beside the field's own name."""
    return AliasChoices(name, name.lower())


def named_values(text: str) -> dict[str, str]:
    """Return the values of `name=value,name=value` by their names."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _check_origins(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return origins as browsers send them: scheme, host in small letters, and a port that is not the scheme's own."""
    return tuple(_origin(value) for value in values)


def _origin(value: str) -> str:
    told = f"{value!r} is no origin: write scheme and host, such as https://app.example.com, without a path or wildcard"
    try:
        parts = urlsplit(value.lower())
        port = parts.port
    except ValueError:
        raise ValueError(told) from None
    host = parts.hostname or ""
    is_plain = not (parts.username or parts.password or parts.query or parts.fragment or parts.path.strip("/"))
    if parts.scheme not in _PORTS or not is_plain or not (_HOST_NAME.fullmatch(host) or _is_address(host)):
        raise ValueError(told)
    named = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{named}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


def _check_host_names(values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in small letters, as Host headers are compared with them.

    A value that no Host header equals, such as a URL, would do nothing in silence.
    """
    names = tuple(value.lower() for value in values)
    for name in names:
        if name != "*" and not _HOST_NAME.fullmatch(name) and not _is_address(name):
            raise ValueError(f"{name!r} is no host name and no address: leave out scheme, port, brackets and wildcards")
    return names


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _check_distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) < len(values):
        raise ValueError("names something twice; two workers must not share one GPU or instance")
    return values


def _check_urls(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("each must be a URL such as http://127.0.0.1:8188")
    return values


def _check_networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if value in NETWORK_WORDS:
            continue
        try:
            ip_network(value)
        except ValueError as exc:
            words = " nor ".join(NETWORK_WORDS)
            raise ValueError(f"{value!r} is no network such as 10.1.0.0/16, nor {words}") from exc
    return values


def _check_characters(value: str) -> str:
    # Python's parsers drop some of these, and others become a part of a name that nobody meant.
    if value != value.strip() or not value.isprintable():
        raise ValueError("must have no spaces around it, and no line breaks or other control characters within")
    return value


def _check_database(value: str) -> str:
    scheme, _, rest = value.partition("://")
    is_postgresql = scheme.partition("+")[0] == "postgresql" and "://" in value
    # In memory each process would have a ledger of its own.
    is_file = scheme.partition("+")[0] == "sqlite" and rest.startswith("/") and rest != "/"
    if value and not is_postgresql and not is_file:
        raise ValueError("must look like postgresql://user:password@host:5432/name or sqlite:////path/ledger.db")
    return value


def _check_broker(value: str) -> str:
    scheme = value.partition("://")[0]
    if scheme == "sentinel":
        raise ValueError("cannot be Redis Sentinel; name the Redis itself, or a proxy before it (redis://host:port/0)")
    if value and scheme not in BROKER_SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in BROKER_SCHEMES)}")
    # Several are kombu's way to name a broker's stand-ins.
    for url in value.split(";"):
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as exc:
            # The port is no number, or an address in brackets is not closed.
            raise ValueError(f"must look like redis://host:6379/0 or amqp://user:password@host:5672// ({exc})") from exc
        if parts.scheme == "amqps" and any(name.startswith("ssl_") for name in parse_qs(parts.query)):
            raise ValueError("has ssl_ parameters, which are for rediss:// alone; set COMFYLINE_BROKER_CA instead")
    return value


def _check_storage_url(value: str) -> str:
    scheme, _, rest = value.partition("://")
    bucket, _, prefix = rest.partition("/")
    if value and (scheme != "s3" or not _BUCKET_NAME.fullmatch(bucket)):
        raise ValueError("must be a bucket, with a folder of it or without: s3://bucket/prefix")
    if prefix and not is_safe_prefix(prefix):
        raise ValueError("must have a relative path behind the bucket, without .. and empty folders")
    return value.rstrip("/")


def _check_certificates(value: Path) -> Path:
    try:
        ssl.create_default_context(cafile=value)
    except OSError as exc:
        # What is no certificate is an SSLError, which is one of these.
        raise ValueError("is not a readable PEM file of certificates") from exc
    return value


def _check_template(value: str) -> str:
    check_template(value)
    return value


def _read_prices(value: Any) -> Any:
    """Return the prices in a text such as `RTX 4090=0.45 EUR, H100=2.50 EUR`."""
    if not isinstance(value, str):
        return value
    prices: dict[str, GpuPrice] = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        found = _PRICE.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is no price of an hour on a kind of GPU, such as RTX 4090=0.45 EUR")
        kind = found["kind"].casefold()
        if kind in prices:
            raise ValueError(f"has two prices for {found['kind']!r}")
        prices[kind] = GpuPrice(kind=kind, per_hour=Decimal(found["amount"]), currency=found["currency"])
    if len({price.currency for price in prices.values()}) > 1:
        raise ValueError("must have all prices in one currency, for they are added up")
    return tuple(prices.values())


def _read_ranges(value: Any) -> Any:
    """Return the least and most GPUs of pools in a text such as `a100=0-8, -=1-`."""
    if not isinstance(value, str):
        return value
    ranges: dict[str, tuple[int, int | None]] = {}
    for part in filter(None, (part.strip() for part in value.split(","))):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise ValueError(f"{part!r} is no pool with its least and most GPUs, such as a100=0-8, a100=1- or -=0-20")
        least, most = int(found["least"]), int(found["most"]) if found["most"] else None
        if most is not None and most < least:
            raise ValueError(f"{part!r} must have the smaller number first")
        if found["pool"] in ranges:
            raise ValueError(f"names the pool {found['pool']!r} twice")
        ranges[found["pool"]] = least, most
    return tuple((pool, *limits) for pool, limits in ranges.items())


def _check_command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as exc:
        raise ValueError("is no command line: a quote is not closed") from exc
    if value and not words:
        raise ValueError("is no command line")
    return value


def names_a_host(url: str) -> bool:
    """Return whether something is the URL of a host that speaks HTTP."""
    try:
        parts = urlsplit(url)
        return parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _check_web_url(value: str) -> str:
    if value and not names_a_host(value):
        raise ValueError("must be a URL such as https://scaler.internal/pools")
    return value


def _absolute(value: Path) -> Path:
    return value.expanduser().absolute()


GpuPrices = Annotated[tuple[GpuPrice, ...], NoDecode, BeforeValidator(_read_prices)]
PoolRanges = Annotated[tuple[tuple[str, int, int | None], ...], NoDecode, BeforeValidator(_read_ranges)]
CommandLine = Annotated[str, AfterValidator(_check_command)]
WebUrl = Annotated[str, AfterValidator(_check_web_url)]
CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
DistinctNames = Annotated[CommaList, AfterValidator(_check_distinct)]
InstanceUrls = Annotated[DistinctNames, AfterValidator(_check_urls)]
Origins = Annotated[CommaList, AfterValidator(_check_origins)]
HostNames = Annotated[CommaList, AfterValidator(_check_host_names)]
Networks = Annotated[CommaList, AfterValidator(_check_networks)]
Pauses = Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], NoDecode, BeforeValidator(_split)]
BrokerUrl = Annotated[str, AfterValidator(_check_characters), AfterValidator(_check_broker)]
DatabaseUrl = Annotated[str, AfterValidator(_check_characters), AfterValidator(_check_database)]
StorageUrl = Annotated[str, AfterValidator(_check_characters), AfterValidator(_check_storage_url)]
KeyTemplate = Annotated[str, AfterValidator(_check_template)]
CertificateFile = Annotated[Path, AfterValidator(_check_certificates)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
