"""W3C trace context: the `traceparent` of a request, read strictly, and what goes on from it.

Source: https://www.w3.org/TR/trace-context/, "traceparent Header".
"""

from __future__ import annotations

import re
import secrets

#: Of requests, of what is posted to ComfyUI, and of webhooks.
HEADER = "traceparent"
#: As it is written by us: version 00.
LENGTH = 55

_READ = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_NO_TRACE, _NO_PARENT = "0" * 32, "0" * 16
#: What was asked without a trace may be recorded by whoever comes after us: our logs have its id.
_SAMPLED = "01"


def read(header: str | None) -> str | None:
    """Return the `traceparent` of a header as version 00; None where there is none, or one that says nothing.

    Of a later version what version 00 has is taken; the rest is nobody's but its own.
    """
    found = None if header is None else _READ.fullmatch(header.strip())
    if found is None:
        return None
    version, trace_id, parent_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or trace_id == _NO_TRACE or parent_id == _NO_PARENT:
        return None
    return written(trace_id, parent_id, flags)


def begun() -> str:
    """Return the `traceparent` of a new trace."""
    return written(secrets.token_hex(16), secrets.token_hex(8), _SAMPLED)


def continued(traceparent: str) -> str:
    """Return what goes on from a `traceparent` that was read: the same trace, with us as the parent."""
    _, trace_id, _, flags = traceparent.split("-")
    return written(trace_id, secrets.token_hex(8), flags)


def trace_id_of(traceparent: str | None) -> str | None:
    """Return the id of the trace, 32 hexadecimal digits; None where there is none."""
    return None if traceparent is None else traceparent.split("-")[1]


def written(trace_id: str, parent_id: str, flags: str) -> str:
    """Return the header of these parts, in hexadecimal digits."""
    return f"00-{trace_id}-{parent_id}-{flags}"
