"""Values that come as texts, as JSON may have written them."""

from __future__ import annotations

import pytest

from core.ledger.batches.varied import written


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("1", {"1", "1.0"}),
        ("1.0", {"1", "1.0"}),
        ("1.50", {"1.5"}),
        ("-7", {"-7", "-7.0"}),
        ("0", {"0", "0.0", "-0.0"}),
        ("-0.0", {"0", "0.0", "-0.0"}),
        ("9007199254740992", {"9007199254740992", "9007199254740992.0"}),
        ("9007199254740993", {"9007199254740993"}),
        ("18446744073709551615", {"18446744073709551615"}),
        ("1e20", {"100000000000000000000", "1e+20"}),
        ("1e-7", {"1e-07"}),
        ("true", {"true"}),
        ("false", {"false"}),
    ],
)
def test_numbers_and_truths(text: str, texts: set[str]) -> None:
    assert set(written(text)) >= texts
    assert {float(each) for each in written(text) if each not in ("true", "false")} <= {
        float(each) for each in texts if each not in ("true", "false")
    }


@pytest.mark.parametrize(
    "text", ["", "x", "True", "1 ", "01", "+1", "1.", ".5", "0x1", "1e999", "NaN", "null", "1" * 99]
)
def test_what_is_a_text_only(text: str) -> None:
    assert written(text) == []


def test_large_integers_are_themselves_alone() -> None:
    for number in (2**53 + 1, 2**63 + 1, 2**64 - 1):
        assert written(str(number)) == [str(number)]
