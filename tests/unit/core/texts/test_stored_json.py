"""What other versions wrote down, and texts that UTF-8 cannot hold."""

from __future__ import annotations

import pytest

from core.records.output import BucketResult
from core.texts.stored_json import known_fields, whole_text


def test_only_what_is_known_is_taken() -> None:
    assert known_fields(BucketResult, {"url": "x", "thumbnail": 7}) == {"url": "x"}


@pytest.mark.parametrize("value", [None, 5, [], "hash"])
def test_what_is_no_object_is_no_record(value: object) -> None:
    with pytest.raises(TypeError):
        known_fields(BucketResult, value)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("plain é 💡", "plain é 💡"),
        ("\ud83d\udca1 in two", "💡 in two"),
        ("\ud83d", "\ufffd"),
        ("a\udca1b\ud83d", "a\ufffdb\ufffd"),
    ],
)
def test_halves_are_joined_or_marked(text: str, whole: str) -> None:
    assert whole_text(text) == whole
    assert whole_text(text).encode().decode() == whole
