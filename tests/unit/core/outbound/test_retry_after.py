"""What a server may ask for that has no time now."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from core.outbound.retry_after import parse_retry_after


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 500, 999999999999.0),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("٣", None),
        ("²", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Fri, 31 Feb 2026 00:00:00 GMT", None),
        ("Wed, 21 Oct 2015 25:61:61 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +9999", None),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999", None),
        ("Wed, 21 Oct 99999999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 99999999999999999999:28:00 GMT", None),
        ("1 Jan 1 1:1:1 " + "9" * 400, None),
        ("1e400", None),
        ("nan", None),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value) == expected


def test_retry_after_as_a_date() -> None:
    in_a_minute = datetime.now(timezone.utc) + timedelta(seconds=60)
    assert parse_retry_after(format_datetime(in_a_minute, usegmt=True)) == pytest.approx(60, abs=2)
    assert parse_retry_after(format_datetime(in_a_minute).replace("+0000", "-0000")) == pytest.approx(60, abs=2)
    # Without a zone it is taken for UTC.
    assert parse_retry_after(format_datetime(in_a_minute.replace(tzinfo=None))) == pytest.approx(60, abs=2)
