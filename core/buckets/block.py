"""The S3 block of a request or of the environment: which bucket a job's files go to, and with whose credentials.

A block counts as a whole. A request that brings credentials never borrows a missing one from the environment, nor does
anything of the environment's ever go to an endpoint that a request names: its signature would be the operator's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from core.buckets.put_urls import PutUrls, parse_put_urls
from core.errors import InvalidRequest
from core.object_keys import DEFAULT_TEMPLATE, MAX_PREFIX_BYTES, check_template, is_safe_prefix
from core.outbound import UNRESTRICTED, Policy, check_url
from core.records.bucket_target import (
    CONNECT_ATTEMPTS,
    CONNECT_TIMEOUT_S,
    CREDENTIALS,
    ENVIRONMENT,
    PUT_URLS,
    REQUEST,
    Addressing,
    BucketTarget,
    Credentials,
)
from core.settings import Settings

MAX_CONNECT_TIMEOUT_S = 300.0
MAX_CONNECT_ATTEMPTS = 10

#: What only the owner of a bucket can know; of the environment's, its settings say it.
_OWN = ("key_template", "public_url", "addressing")
_TEXTS = (*CREDENTIALS, "endpoint_url", "bucket_name", "region", "prefix", *_OWN)
#: Without these a block says nothing that could be used.
_NEEDED = ("access_key_id", "secret_access_key", "bucket_name")
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,4096}")
#: Looser than Amazon's rules: other servers, and Amazon's oldest buckets, have capitals and underscores.
_BUCKET = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_REGION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class S3Block:
    """A checked block."""

    target: BucketTarget
    #: To be sealed with the job. None: the environment's, taken from the settings at upload time.
    credentials: Credentials | PutUrls | None


def parse_s3(block: Any, settings: Settings) -> S3Block | None:
    """Return the request's block, else the environment's, else None.

    A block without credentials, bucket and endpoint asks for the environment's bucket; its `prefix` then names a folder
    below `S3_PREFIX`. A block whose texts are all blank is no block.

    Parameters:
      block: `{"access_key_id", "secret_access_key", "endpoint_url"?, "bucket_name", "region"?, "session_token"?,
        "prefix"?, "key_template"?, "public_url"?, "addressing"?, "connect_timeout"?: seconds, "connect_attempts"?:
        int}`, `{"put_urls": [] or {}, "public_url"?, ...}`, or None.
    Raises:
      InvalidRequest: names the field that is missing or wrong.
    """
    if block is not None and not isinstance(block, dict):
        raise InvalidRequest("s3 must be an object.")
    texts = {name: _text(block or {}, name) for name in _TEXTS}
    time_limits = {
        "connect_timeout_s": _connect_timeout_s((block or {}).get("connect_timeout")),
        "connect_attempts": _connect_attempts((block or {}).get("connect_attempts")),
    }
    if (block or {}).get("put_urls"):
        return _of_put_urls((block or {})["put_urls"], texts, settings, time_limits)
    if any(texts[name] for name in (*CREDENTIALS, "endpoint_url", "bucket_name")):
        return _of_request(texts, settings, time_limits)
    if settings.s3_bucket_name:
        return _of_environment(texts, settings, time_limits)
    if any(texts.values()):
        raise InvalidRequest(
            "s3.access_key_id is missing: this server has no bucket of its own, so the block needs access_key_id, "
            "secret_access_key and bucket_name."
        )
    return None


def environment_credentials(settings: Settings) -> Credentials | None:
    """Return the credentials of the operator's bucket; None if there is none."""
    if not settings.s3_bucket_name:
        return None
    return Credentials(
        access_key_id=settings.s3_access_key_id,
        secret_access_key=settings.s3_secret_access_key.get_secret_value(),
        session_token=settings.s3_session_token.get_secret_value() or None,
    )


def _of_request(texts: dict[str, str], settings: Settings, time_limits: dict[str, Any]) -> S3Block:
    for name in _NEEDED:
        if not texts[name]:
            raise InvalidRequest(
                f"s3.{name} is missing: a block that names credentials, a bucket or an endpoint "
                f"needs all of {', '.join(_NEEDED)}."
            )
    for name in CREDENTIALS:
        if texts[name] and not _PRINTABLE.fullmatch(texts[name]):
            raise InvalidRequest(f"s3.{name} must be printable ASCII without spaces.")
    if not _BUCKET.fullmatch(texts["bucket_name"]):
        raise InvalidRequest("s3.bucket_name is not the name of a bucket: 3 to 255 letters, digits, dots and hyphens.")
    target = BucketTarget(
        endpoint_url=_endpoint_url(texts["endpoint_url"], settings),
        bucket_name=texts["bucket_name"],
        region=_region(texts["region"]) or settings.s3_region or None,
        prefix=_prefix(texts["prefix"]),
        key_template=_key_template(texts["key_template"], texts["prefix"]),
        public_url=_public_url(texts["public_url"]),
        addressing=_addressing(texts["addressing"]),
        origin=REQUEST,
        **time_limits,
    )
    credentials = Credentials(
        access_key_id=texts["access_key_id"],
        secret_access_key=texts["secret_access_key"],
        session_token=texts["session_token"] or None,
    )
    return S3Block(target=target, credentials=credentials)


def _of_put_urls(value: Any, texts: dict[str, str], settings: Settings, time_limits: dict[str, Any]) -> S3Block:
    for name, text in texts.items():
        if text and name != "public_url":
            raise InvalidRequest(f"s3.put_urls stands in place of s3.{name}: give one or the other.")
    target = BucketTarget(
        endpoint_url=None,
        bucket_name="",
        region=None,
        prefix="",
        public_url=_public_url(texts["public_url"]),
        origin=PUT_URLS,
        **time_limits,
    )
    return S3Block(target=target, credentials=parse_put_urls(value, Policy.from_settings(settings)))


def _of_environment(texts: dict[str, str], settings: Settings, time_limits: dict[str, Any]) -> S3Block:
    for name in _OWN:
        if texts[name]:
            # It is shared: nobody may choose keys outside of the folder, or where everybody is sent to.
            raise InvalidRequest(f"s3.{name} is for a bucket of your own; this server's bucket takes only s3.prefix.")
    folders = (settings.s3_prefix.strip("/"), _prefix(texts["prefix"]))
    target = BucketTarget(
        endpoint_url=settings.s3_endpoint_url or None,
        bucket_name=settings.s3_bucket_name,
        # A region belongs to a bucket, and this one is the operator's.
        region=settings.s3_region or None,
        prefix="/".join(folder for folder in folders if folder),
        key_template=settings.s3_key_template,
        public_url=settings.s3_public_url.rstrip("/") or None,
        addressing=settings.s3_addressing or None,
        origin=ENVIRONMENT,
        **time_limits,
    )
    return S3Block(target=target, credentials=None)


def _text(block: dict[str, Any], name: str) -> str:
    value = block.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"s3.{name} must be a string.")
    return value.strip()


def _endpoint_url(url: str, settings: Settings) -> str | None:
    if not url:
        return None
    if "?" in url:
        raise InvalidRequest("s3.endpoint_url must not have a query.")
    check_url(url, "s3.endpoint_url", Policy.from_settings(settings))
    if "_" in urlsplit(url).netloc:
        # botocore refuses it.
        raise InvalidRequest("s3.endpoint_url must have a host name without underscores.")
    return url


def _region(region: str) -> str:
    if region and not _REGION.fullmatch(region):
        raise InvalidRequest("s3.region must be letters, digits and hyphens, such as us-east-1.")
    return region


def _prefix(prefix: str) -> str:
    if not is_safe_prefix(prefix):
        raise InvalidRequest(
            f"s3.prefix must be a relative path of at most {MAX_PREFIX_BYTES} bytes, without .. and control "
            "characters in any encoding."
        )
    return prefix.removesuffix("/")


def _key_template(template: str, prefix: str) -> str:
    if not template:
        return DEFAULT_TEMPLATE
    try:
        check_template(template, _prefix(prefix))
    except ValueError as exc:
        raise InvalidRequest(f"s3.key_template {exc}.") from exc
    return template


def _public_url(url: str) -> str | None:
    if not url:
        return None
    if "?" in url:
        raise InvalidRequest("s3.public_url must not have a query.")
    # Nothing is sent there: it is only shown, to those who know where it leads.
    return check_url(url, "s3.public_url", UNRESTRICTED).rstrip("/")


def _addressing(word: str) -> Addressing | None:
    if not word:
        return None
    if word not in ("path", "virtual"):
        raise InvalidRequest("s3.addressing must be path or virtual.")
    return "path" if word == "path" else "virtual"


def _connect_timeout_s(value: Any) -> float:
    if value is None:
        return CONNECT_TIMEOUT_S
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value <= MAX_CONNECT_TIMEOUT_S:
        raise InvalidRequest(f"s3.connect_timeout must be seconds, over 0 and at most {MAX_CONNECT_TIMEOUT_S:.0f}.")
    return float(value)


def _connect_attempts(value: Any) -> int:
    if value is None:
        return CONNECT_ATTEMPTS
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_CONNECT_ATTEMPTS:
        raise InvalidRequest(f"s3.connect_attempts must be an integer from 1 to {MAX_CONNECT_ATTEMPTS}.")
    return value
