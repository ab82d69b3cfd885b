"""The filters of `comfyline list`, as people write them, in the words of the API."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone

from core.errors import InvalidRequest

_AGO = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def label_filters(labels: Sequence[str]) -> dict[str, str | None]:
    """Return labels as parameters of the list: a word is that of a job, `KEY=VALUE` stands in its metadata.

    Raises: InvalidRequest - two words, `=` without a part, or a key that is given twice.
    """
    found: dict[str, str | None] = {}
    for label in labels:
        key, equals, value = label.partition("=")
        if not equals:
            if "label" in found:
                raise InvalidRequest(f"--label {label}: a job has one label; {found['label']} is asked for already.")
            found["label"] = label
            continue
        if not key:
            raise InvalidRequest(f"--label {label}: it is a word, or KEY=VALUE, for instance --label client=acme.")
        if f"metadata[{key}]" in found:
            raise InvalidRequest(f"--label {label}: {key} is given twice, and a job has one value for it.")
        found[f"metadata[{key}]"] = value
    return found


def moment(text: str | None, now: datetime | None = None) -> str | None:
    """Return a time in the API's form: `2h` is two hours ago; a time without a zone is one of this machine.

    Raises: InvalidRequest - it is no time.
    """
    if text is None:
        return None
    now = now or datetime.now(timezone.utc)
    try:
        if ago := _AGO.fullmatch(text):
            return _written(now - timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
        return _written(datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text)))
    except (ValueError, OverflowError, OSError) as exc:
        raise InvalidRequest(
            f"{text} is no time; 30m, 2h and 7d mean ago, else it looks like 2026-01-31 or 2026-01-31T12:00:00Z."
        ) from exc


def _written(at: datetime) -> str:
    return at.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
