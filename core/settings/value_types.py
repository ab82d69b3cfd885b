"""Types of single settings: how each is read from text, and what it must be."""

from __future__ import annotations

import re
import ssl
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from core.broker_kind import SCHEMES as BROKER_SCHEMES
from core.object_keys import check_template, is_safe_prefix

#: Words that stand for networks in COMFYLINE_ALLOW_NETWORKS.
NETWORK_WORDS = ("loopback", "private")

#: Looser than Amazon's rules: other servers have capitals and underscores.
_BUCKET_NAME = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_HOST_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_-])?")


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


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


def _check_broker(value: str) -> str:
    scheme = value.partition("://")[0]
    if scheme == "sentinel":
        raise ValueError("cannot be Redis Sentinel; name the Redis itself, or a proxy before it (redis://host:port/0)")
    if value and scheme not in BROKER_SCHEMES:
        raise ValueError(f"must begin with one of {', '.join(f'{scheme}://' for scheme in BROKER_SCHEMES)}")
    # Several are kombu's way to name a broker's stand-ins.
    for url in value.split(";"):
        parts = urlsplit(url)
        # Raises ValueError: the port is no number, or an address in brackets is not closed.
        _ = parts.port
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


def _absolute(value: Path) -> Path:
    return value.expanduser().absolute()


CommaList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
DistinctNames = Annotated[CommaList, AfterValidator(_check_distinct)]
InstanceUrls = Annotated[DistinctNames, AfterValidator(_check_urls)]
HostNames = Annotated[CommaList, AfterValidator(_check_host_names)]
Networks = Annotated[CommaList, AfterValidator(_check_networks)]
Pauses = Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], NoDecode, BeforeValidator(_split)]
BrokerUrl = Annotated[str, AfterValidator(_check_broker)]
StorageUrl = Annotated[str, AfterValidator(_check_storage_url)]
KeyTemplate = Annotated[str, AfterValidator(_check_template)]
CertificateFile = Annotated[Path, AfterValidator(_check_certificates)]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
