"""The webhook block of a `/generate` request, as far as it can be judged before anything is sent."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Any
from urllib.parse import urlsplit

from core.errors import InvalidRequest
from core.settings import Settings

MAX_URL_CHARS = 2048
MAX_TIMEOUT_S = 300.0
#: Printable ASCII but the backslash, which some readers of URLs take for a slash.
_URL = re.compile(r"[\x21-\x5b\x5d-\x7e]+")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
MAX_HOST_CHARS = 253


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where the end of a job is to be told."""

    #: `{"url", "extra_params", "timeout_s", "base_url"}`, as the ledger keeps it.
    target: dict[str, Any]
    secret: str | None


def parse_webhook(block: Any, settings: Settings, base_url: str) -> Webhook | None:
    """The request's webhook, else the operator's default, else None. Raises InvalidRequest.

    Parameters:
      block: `{"url", "extra_params"?, "timeout"?, "secret"?}`; None, or a blank url, is no webhook of its own.
      base_url: scheme and host for links in the webhook's body.
    """
    if block is not None and (not isinstance(block, dict) or not isinstance(block.get("url"), str)):
        raise InvalidRequest("webhook must be an object with a url.")
    if block is None or not block["url"]:
        if not settings.webhook_url:
            return None
        # As a whole: nothing of a request is mixed with what the operator set.
        block = {"url": settings.webhook_url}
    target = {
        "url": check_url(block["url"], "webhook.url"),
        "extra_params": _extra_params(block.get("extra_params")),
        "timeout_s": _timeout_s(block.get("timeout"), settings.webhook_timeout_s),
        "base_url": base_url,
    }
    return Webhook(target=target, secret=_secret(block.get("secret")))


def check_url(url: str, field: str) -> str:
    """The URL itself, if it names an http or https address in one way only. Raises InvalidRequest."""
    if len(url) > MAX_URL_CHARS:
        raise InvalidRequest(f"{field} is over {MAX_URL_CHARS} characters.")
    if not _URL.fullmatch(url):
        raise InvalidRequest(f"{field} must be printable ASCII without spaces and backslashes.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        raise InvalidRequest(f"{field} is not a URL.") from exc
    if parts.scheme not in ("http", "https"):
        raise InvalidRequest(f"{field} must start with http:// or https://.")
    if "@" in parts.netloc:
        raise InvalidRequest(f"{field} must not hold a user name or password.")
    if "#" in url:
        raise InvalidRequest(f"{field} must not have a fragment (#).")
    if not _is_host(parts.hostname or "", is_bracketed="[" in parts.netloc):
        raise InvalidRequest(f"{field} needs a host name.")
    if port is not None and not 1 <= port <= 65535:
        raise InvalidRequest(f"{field}: the port must be from 1 to 65535.")
    return url


def _is_host(host: str, *, is_bracketed: bool) -> bool:
    if is_bracketed:
        try:
            return IPv6Address(host).scope_id is None
        except AddressValueError:
            return False
    return len(host) <= MAX_HOST_CHARS and _HOST.fullmatch(host) is not None


def _extra_params(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequest("webhook.extra_params must be an object.")
    return value


def _timeout_s(value: Any, default_s: float) -> float:
    if value is None:
        return default_s
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidRequest("webhook.timeout must be a number of seconds.")
    if not 0 < value <= MAX_TIMEOUT_S:
        raise InvalidRequest(f"webhook.timeout must be over 0 and at most {MAX_TIMEOUT_S:.0f} seconds.")
    return float(value)


def _secret(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[\x20-\x7e]{1,512}", value):
        raise InvalidRequest("webhook.secret must be at most 512 printable ASCII characters.")
    return value
