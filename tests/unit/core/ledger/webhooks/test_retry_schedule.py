"""When a webhook is tried again, and what a receiver may ask for."""

from __future__ import annotations

import pytest

from core.errors import ConfigurationError
from core.ledger.webhooks.retry_schedule import JITTER, MAX_RETRY_AFTER_S, next_try_ms
from core.settings import Settings, load_settings

NOW_MS = 1_800_000_000_000
PAUSES = Settings().webhook_schedule_s


def pause_s(tries: int, retry_after_s: float | None = None) -> float:
    """The pause after so many tries."""
    at_ms = next_try_ms(PAUSES, tries, now_ms=NOW_MS, retry_after_s=retry_after_s)
    assert at_ms is not None
    return (at_ms - NOW_MS) / 1000


def test_eight_tries_are_made_by_default() -> None:
    expected = [5, 300, 1800, 7200, 18000, 36000, 36000]
    assert [pause_s(tries) for tries in range(1, 8)] == [pytest.approx(pause, rel=JITTER) for pause in expected]
    assert next_try_ms(PAUSES, 8, now_ms=NOW_MS) is None


def test_pauses_differ_from_each_other() -> None:
    pauses = {pause_s(3) for _ in range(200)}
    assert len(pauses) > 100
    assert min(pauses) >= 1800 * (1 - JITTER)
    assert max(pauses) <= 1800 * (1 + JITTER)


def test_a_receiver_may_ask_for_a_longer_pause_and_never_for_a_shorter_one() -> None:
    assert pause_s(1, 60.0) == 60.0
    assert pause_s(2, 60.0) == pytest.approx(300, rel=JITTER)
    assert pause_s(1, 1e9) == MAX_RETRY_AFTER_S
    assert next_try_ms(PAUSES, 8, now_ms=NOW_MS, retry_after_s=60.0) is None


def test_the_schedule_is_a_list_of_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYLINE_WEBHOOK_SCHEDULE_S", "0.1, 2,30")
    assert load_settings().webhook_schedule_s == (0.1, 2.0, 30.0)
    for wrong in ("1,two", "-1", "inf"):
        monkeypatch.setenv("COMFYLINE_WEBHOOK_SCHEDULE_S", wrong)
        with pytest.raises(ConfigurationError, match="COMFYLINE_WEBHOOK_SCHEDULE_S"):
            load_settings()
