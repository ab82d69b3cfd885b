"""Whose a write is: by the clock of ComfyUI's machine, and nobody's where that is in doubt."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import cast

import pytest

from comfy.client.printed import PrintedEntry, parse_entries
from comfy.prompts.session import PromptHandle
from tasks.runner.printing.attribution import Clockwork, Span, shares

BEGAN = 1_800_000_000_000.0


def span(began_ms: float | None, ended_ms: float | None, *, tenant: str = "a", skew_ms: float = 0.0) -> Span:
    handle = SimpleNamespace(began_at_ms=began_ms, ended_at_ms=ended_ms, skew_ms=skew_ms)
    return Span(tenant=tenant, handle=cast(PromptHandle, handle))


def test_a_write_is_of_the_prompt_that_ran_when_it_was_made() -> None:
    one, two, unbegun = span(BEGAN, BEGAN + 1000), span(BEGAN + 1002, None), span(None, None)
    news = [
        (BEGAN - 0.1, "before"),
        (BEGAN + 0.5, "one"),
        (BEGAN + 1000.9, "one, to the end"),
        (BEGAN + 1001.5, "between"),
        (BEGAN + 1002, "two"),
        (BEGAN + 1003, "two, still"),
    ]
    assert shares(news, [one, two, unbegun]) == [["one", "one, to the end"], ["two", "two, still"], []]


def test_in_the_millisecond_in_which_one_ends_and_the_next_begins_a_write_is_of_none() -> None:
    one, two = span(BEGAN, BEGAN + 1000), span(BEGAN + 1000, None, tenant="b")
    news = [(BEGAN + 999.9, "one"), (BEGAN + 1000.2, "of either"), (BEGAN + 1001, "two")]
    assert shares(news, [one, two]) == [["one"], ["two"]]


def test_an_end_that_events_did_not_tell_is_taken_from_our_clock() -> None:
    lost = span(BEGAN, None, skew_ms=5000)
    assert lost.has(BEGAN + 10_000)
    lost.ended_ms = BEGAN - 5000 + 2000
    assert lost.has(BEGAN + 1999)
    assert not lost.has(BEGAN + 2010)


def test_what_is_printed_while_another_tenants_prompt_is_posted_is_nobodys() -> None:
    here = span(BEGAN, None, skew_ms=-20)
    here.foreign_ms.append((BEGAN + 500, BEGAN + 510))
    assert [here.has(BEGAN + at) for at in (100, 485, 495, 505, 515, 525)] == [True, True, False, False, False, True]
    # Another machine's clock is known less exactly.
    there = span(BEGAN, None, skew_ms=60_000)
    there.foreign_ms.append((BEGAN - 60_000 + 500, BEGAN - 60_000 + 510))
    assert [there.has(BEGAN + at) for at in (100, 200, 300, 505, 700, 800)] == [True, True, False, False, False, True]


def written(at: datetime, text: str = "x") -> dict[str, str]:
    return {"t": at.replace(tzinfo=None).isoformat(), "m": text}


@pytest.mark.parametrize("hours", [-11.5, -1, 0, 0.75, 9, 14])
def test_the_time_zone_of_another_machine_is_learned_from_fresh_writes(hours: float) -> None:
    clockwork = Clockwork()
    there = datetime.now(timezone.utc) + timedelta(hours=hours)
    old = [written(there - timedelta(hours=3))]
    clockwork.news(parse_entries({"entries": old}))
    [(at_ms, text)] = clockwork.news(parse_entries({"entries": [*old, written(there, "fresh")]}))
    assert text == "fresh"
    assert abs(at_ms - time.time() * 1000) < 60_000


def test_a_time_zone_is_not_learned_from_what_may_be_old(monkeypatch: pytest.MonkeyPatch) -> None:
    clockwork = Clockwork()
    here = datetime.now()
    found = clockwork.news(parse_entries({"entries": [written(here - timedelta(hours=5), "old")]}))
    assert time.time() * 1000 - found[0][0] > 4 * 3600 * 1000


def test_each_write_is_news_once() -> None:
    clockwork = Clockwork()
    now = datetime.now()
    first = [written(now, "a"), written(now + timedelta(milliseconds=1), "b")]
    assert [text for _, text in clockwork.news(parse_entries({"entries": first}))] == ["a", "b"]
    # A bar is drawn in place of the write before it.
    more = [first[0], written(now + timedelta(milliseconds=2), "\rc")]
    assert [text for _, text in clockwork.news(parse_entries({"entries": more}))] == ["\rc"]
    assert clockwork.news(parse_entries({"entries": more})) == []


def test_answers_of_others_are_no_entries() -> None:
    assert parse_entries(None) == []
    assert parse_entries({"entries": "x"}) == []
    entries = [3, {}, {"t": 1, "m": "x"}, {"t": "yesterday", "m": "x"}, {"t": "2026-01-02T03:04:05", "m": None}]
    assert parse_entries({"entries": [*entries, {"t": "1970-01-01T00:00:01+01:00", "m": "kept"}]}) == [
        PrintedEntry(at_ms=1000 - 3_600_000, is_local=False, text="kept")
    ]
