"""Rules of single fields and parameters of Comfy API v2 that no schema can say."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import date, datetime, timezone
from typing import Any

from api.http.errors import BadParameter, InvalidCursor, InvalidMetadata, InvalidMetadataFilter
from core.contracts.comfy_v2 import SHOWN
from core.errors import InvalidRequest
from core.records.job import Status

MAX_METADATA_BYTES = 1024
MAX_LABELS = 16
MAX_LABEL_VALUE_BYTES = 256
MAX_FILTERS = 3
#: Of the one label of a job, which is no part of its metadata.
MAX_LABEL_CHARS = 128
MAX_KEY_CHARS = 255
DEFAULT_LIMIT, MAX_LIMIT = 50, 100

_LABEL_KEY = re.compile(r"[A-Za-z0-9_.-]{1,40}")
#: Control characters and those that turn the direction of text.
_BAD_IN_LABEL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
#: Also halves of surrogate pairs, which no database takes.
_NO_LABEL = re.compile(f"{_BAD_IN_LABEL.pattern}|[\u2028\u2029\ud800-\udfff]")
_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]+")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]{1,255}")
_FILTER = re.compile(r"metadata\[(.*)\]", re.DOTALL)
#: RFC 3339, which says more than Python 3.10 reads and less than later ones do.
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:[Zz]|([+-]\d\d:\d\d))", re.ASCII)
_UUID_SHAPE = "00000000-0000-0000-0000-000000000000"


def metadata(value: Any) -> Any:
    """Return labels (a map of strings), a string of at most 1 KiB, or None. Raises InvalidRequest, InvalidMetadata."""
    if value is None:
        return None
    if isinstance(value, str):
        if len(value.encode()) > MAX_METADATA_BYTES:
            raise InvalidRequest(f"metadata is over {MAX_METADATA_BYTES} bytes.")
        if "\0" in value:
            raise InvalidRequest("metadata must not contain NUL characters.")
        return value
    if not isinstance(value, dict):
        raise InvalidMetadata("metadata must be a map of string labels, or one string.")
    if len(value) > MAX_LABELS:
        raise InvalidMetadata(f"metadata has {len(value)} labels; at most {MAX_LABELS} are accepted.")
    for key, label in value.items():
        if (problem := _label_problem(key, label)) is not None:
            raise InvalidMetadata(f"metadata: {problem}")
    return value


def _label_problem(key: str, value: Any) -> str | None:
    if not _LABEL_KEY.fullmatch(key):
        return f"the key {key[:60]!a} must be 1 to 40 of A-Z a-z 0-9 _ . -"
    if not isinstance(value, str):
        return f"the value of {key} must be a string"
    if len(value.encode()) > MAX_LABEL_VALUE_BYTES:
        return f"the value of {key} is over {MAX_LABEL_VALUE_BYTES} bytes"
    if _BAD_IN_LABEL.search(value):
        return f"the value of {key} holds a control character"
    return None


def label(value: str | None) -> str | None:
    """Return the label of a job, or of a batch, as given. Raises ValueError, with what it must be."""
    return None if value is None else plain_text(value, MAX_LABEL_CHARS)


def plain_text(value: str, most_chars: int) -> str:
    """Return a text for people as given. Raises ValueError, with what it must be."""
    if not 1 <= len(value) <= most_chars or _NO_LABEL.search(value):
        raise ValueError(f"1 to {most_chars} characters, and none that controls or turns text")
    return value


def label_filter(value: str | None) -> str | None:
    """Return the label to look for. Raises BadParameter."""
    try:
        return label(value)
    except ValueError as exc:
        raise BadParameter(f"label must have {exc}.") from exc


def extra_data(value: Any) -> dict[str, Any] | None:
    """Check `extra_data`: `api_key_comfy_org`, which is a secret, and `extra_pnginfo`. Raises BadParameter."""
    if value is None or value == {}:
        return None
    if not isinstance(value, dict) or not set(value) <= {"api_key_comfy_org", "extra_pnginfo"}:
        raise BadParameter("extra_data may hold api_key_comfy_org and extra_pnginfo, and nothing else.")
    if not isinstance(value.get("api_key_comfy_org", ""), str):
        raise BadParameter("extra_data.api_key_comfy_org must be a string.")
    if not isinstance(value.get("extra_pnginfo", {}), dict):
        raise BadParameter('extra_data.extra_pnginfo must be an object, such as {"workflow": {...}}.')
    return dict(value)


def idempotency_key(value: str | None) -> str | None:
    """Return the header as sent, if it is 1 to 255 printable ASCII characters. Raises BadParameter."""
    if value is None:
        return None
    if len(value) > MAX_KEY_CHARS or not _PRINTABLE_ASCII.fullmatch(value):
        raise BadParameter(f"Idempotency-Key must be 1 to {MAX_KEY_CHARS} printable ASCII characters.")
    return value


def limit(value: str | None) -> int:
    """Return the size of a page. Raises BadParameter."""
    return whole_number("limit", value, DEFAULT_LIMIT, least=1, most=MAX_LIMIT)


def whole_number(name: str, value: str | None, default: int, *, least: int, most: int) -> int:
    """Return a number of a query, or the default where none is given. Raises BadParameter."""
    if value is None:
        return default
    if not re.fullmatch(rf"[0-9]{{1,{len(str(most))}}}", value, re.ASCII) or not least <= int(value) <= most:
        raise BadParameter(f"{name} must be an integer from {least} to {most}.")
    return int(value)


def day(name: str, value: str | None) -> int | None:
    """Return a day such as 2026-01-31, counted from 1970; None where none is given. Raises BadParameter."""
    if value is None:
        return None
    try:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
            raise ValueError(value)
        return (date.fromisoformat(value) - date(1970, 1, 1)).days
    except ValueError as exc:
        raise BadParameter(f"{name} must be a day such as 2026-01-31, not {value[:40]!a}.") from exc


def event_number(value: str | None) -> int:
    """Return the number of an event; 0 when it is not said. Raises BadParameter."""
    if value is None:
        return 0
    if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        raise BadParameter("after must be the number of an event.")
    return int(value)


def statuses(value: str | None) -> list[Status]:
    """Return the ledger's statuses behind a comma-separated list of the API's; empty for all. Raises BadParameter."""
    if value is None:
        return []
    wanted = set(value.split(","))
    if unknown := wanted - set(SHOWN.values()):
        raise BadParameter(f"Unknown status {min(unknown)[:40]!a}; known are {', '.join(sorted(set(SHOWN.values())))}.")
    return [status for status, shown in SHOWN.items() if shown in wanted]


def label_filters(parameters: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return `metadata[key]=value` parameters, all of which must match. Raises InvalidMetadataFilter."""
    filters: dict[str, str] = {}
    for name, value in parameters:
        match = _FILTER.fullmatch(name)
        if match is None:
            continue
        key = match[1]
        if key in filters:
            raise InvalidMetadataFilter(f"The filter for {key[:60]!a} is given twice.")
        if (problem := _label_problem(key, value)) is not None:
            raise InvalidMetadataFilter(f"metadata filter: {problem}")
        filters[key] = value
    if len(filters) > MAX_FILTERS:
        raise InvalidMetadataFilter(f"At most {MAX_FILTERS} metadata filters are accepted.")
    return filters


def moment(name: str, value: str | None) -> int | None:
    """Return an RFC 3339 time as milliseconds since 1970; None where none is given. Raises BadParameter."""
    if value is None:
        return None
    # A plus sign that was not encoded arrives as a space.
    match = _MOMENT.fullmatch(re.sub(r" (?=\d\d:\d\d$)", "+", value))
    try:
        if match is None:
            raise ValueError(value)
        at = datetime.fromisoformat(f"{match[1]}T{match[2]}{match[4] or '+00:00'}")
        since = at - datetime(1970, 1, 1, tzinfo=timezone.utc)
    except (ValueError, OverflowError) as exc:
        raise BadParameter(f"{name} must be a time such as 2026-01-31T12:00:00Z, not {value[:40]!a}.") from exc
    return round(since.total_seconds()) * 1000 + int((match[3] or "0")[:3].ljust(3, "0"))


def template_name(value: str | None) -> str | None:
    """Return a name to look for; whether there is such a template does not matter. Raises BadParameter."""
    if value is not None and not _PRINTABLE.fullmatch(value):
        raise BadParameter("template must be the name of a workflow template.")
    return value


def error_words(value: str | None) -> str | None:
    """Return the words to look for in errors. Raises BadParameter."""
    if value is not None and not is_plain(value):
        raise BadParameter("error must have 1 to 255 characters, none of which controls text.")
    return value


def is_plain(value: str) -> bool:
    """Return whether a text may be the name of anything: 1 to 255 characters, none of which controls text."""
    return _PRINTABLE.fullmatch(value) is not None and not _NO_LABEL.search(value)


def id_bounds(beginning: str | None) -> tuple[str, str] | None:
    """Return the first and the last id that begin so; None where no beginning is given. Raises BadParameter."""
    if beginning is None:
        return None
    shape = _UUID_SHAPE[: len(beginning)]
    if not beginning or re.sub("[0-9a-f]", "0", beginning) != shape:
        raise BadParameter("id_prefix must be the beginning of an id, in lower case, with its hyphens.")
    rest = _UUID_SHAPE[len(beginning) :]
    return beginning + rest, beginning + rest.replace("0", "f")


def number_cursor(cursor: str | None, *, digits: int) -> int | None:
    """Return the number that a cursor of a numbered list is; None at the beginning. Raises InvalidCursor."""
    if cursor is None:
        return None
    if not re.fullmatch(rf"[0-9]{{1,{digits}}}", cursor, re.ASCII):
        raise InvalidCursor("This cursor was not issued by this server.")
    return int(cursor)


def encode_cursor(created_at_ms: int, job_id: str) -> str:
    """Return an opaque, URL-safe name for the place after a job in the list."""
    return base64.urlsafe_b64encode(f"{created_at_ms}:{job_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> tuple[int, str] | None:
    """Return `(created_at_ms, job id)`; None at the beginning. Raises InvalidCursor."""
    if cursor is None:
        return None
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeError) as exc:
        raise InvalidCursor("This cursor was not issued by this server.") from exc
    match = re.fullmatch(r"([0-9]{1,15}):([0-9a-f-]{36})", text)
    if match is None:
        raise InvalidCursor("This cursor was not issued by this server.")
    return int(match[1]), match[2]
