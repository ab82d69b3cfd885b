"""Headers that a client wants sent with its webhooks, such as the key of a gateway: which ones, and how they look."""

from __future__ import annotations

import re
from typing import Any

MAX_HEADERS = 20
MAX_VALUE_CHARS = 4_096
#: Names and values together; common servers refuse heads of twice the size.
MAX_TOTAL_BYTES = 8_192

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
#: No line ends, so that a value cannot begin a header of its own, and nothing that proxies read differently.
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e\t]*[\x21-\x7e])?")
#: What says how this connection is used or what the body is, and what receivers take as our word.
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-webhook-event",
        "x-webhook-sequence",
        "x-webhook-signature",
    }
)
_OUR_PREFIXES = ("content-", "proxy-", "webhook-")


def check_headers(value: Any) -> dict[str, str]:
    """Return headers as they are sealed and sent. Raises ValueError: what is allowed; the message repeats no value."""
    if not isinstance(value, dict) or len(value) > MAX_HEADERS:
        raise ValueError(f"an object of at most {MAX_HEADERS} header names and their values")
    names = [name.lower() for name in value]
    if not all(map(_NAME.fullmatch, value)) or len(set(names)) < len(names):
        raise ValueError("an object whose keys are header names, each of them once")
    if taken := sorted(name for name in names if name in _OURS or name.startswith(_OUR_PREFIXES)):
        raise ValueError(f"headers of your own: {', '.join(taken)[:200]} is set by this server")
    for name, text in value.items():
        if not isinstance(text, str) or len(text) > MAX_VALUE_CHARS or not _VALUE.fullmatch(text):
            raise ValueError(
                f"header names and values: that of {name} has to be text of at most {MAX_VALUE_CHARS} printable ASCII "
                "characters, without line ends and without a space at either end"
            )
    if sum(len(name) + len(text) for name, text in value.items()) > MAX_TOTAL_BYTES:
        raise ValueError(f"header names and values of at most {MAX_TOTAL_BYTES} bytes together")
    return value
