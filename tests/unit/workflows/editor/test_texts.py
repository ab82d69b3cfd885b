"""Texts that the editor fills in when it queues."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import pytest

from workflows.editor.texts import Texts

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=timezone.utc)
TEXTS = Texts([], NOW, lambda options: options[0])


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("%date:yyyy-MM-dd hh:mm:ss%", "2026-03-04 05:06:07"),
        ("%date:yy/M/d/h/m/s%", "26/3/4/5/6/7"),
        ("%date:yyy%", "yyy"),
        ("%width%x%No.node%", "%width%x%No.node%"),
        ("100% sure", "100% sure"),
    ],
)
def test_dates(text: str, filled: str) -> None:
    assert TEXTS.replaced(text) == filled


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("a {red|blue} cat", "a red cat"),
        ("{a {b|c}|d}", "a b"),
        (r"\{a|b\}", "{a|b}"),
        ("a /* not this */cat // nor this\nand", "a cat \nand"),
        ("/* open", "/* open"),
        ("{a|b", "a"),
        ("{}|", "|"),
        ("a\\", "a\\"),
    ],
)
def test_choices(text: str, drawn: str) -> None:
    assert TEXTS.drawn(text) == drawn


def test_every_option_is_offered() -> None:
    offered: list[list[str]] = []

    def last(options: list[str]) -> str:
        offered.append(options)
        return options[-1]

    Texts([], NOW, last).drawn("{a|b|{c|d}}")

    assert offered == [["a", "b", "{c|d}"], ["c", "d"]]


@pytest.mark.parametrize("text", ["/*" * 200_000, "{" * 200_000, "{a|" * 100_000, "\\" * 200_001, "%" * 200_000])
def test_odd_texts_take_no_time(text: str) -> None:
    begun_s = time.process_time()
    TEXTS.drawn(text)
    TEXTS.replaced(text)

    assert time.process_time() - begun_s < 20
