"""Fields of records as columns: under which name, written how, and read how."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from core.ledger.database.stored_fields import RowReader, column_of, columns_from, record_from


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A record that serialises itself; `{}` where it says nothing."""

    word: str = ""

    @classmethod
    def from_json(cls, value: Any) -> Inner:
        if not isinstance(value, dict):
            raise TypeError("no object")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        return {"word": self.word} if self.word else {}


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A record with a field of each kind."""

    number: int = 7
    template: str | None = None
    inner: Inner | None = None
    plain: Inner = Inner()
    many: tuple[Inner, ...] = ()
    words: tuple[str, ...] = ()
    elsewhere: str = "e"


FIELDS = ("number", "template", "inner", "plain", "many", "words")


def read(**columns: Any) -> Outer:
    """The record of a row; columns that are not given are NULL."""
    row: Any = SimpleNamespace(_mapping={**{column_of(name): None for name in FIELDS}, **columns})
    return Outer(**RowReader(Outer, without=("elsewhere",)).fields(row))


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        (Outer(number=0), {"number": 0}),
        (Outer(template="t"), {"workflow": "t"}),
        (Outer(inner=Inner(word="x"), plain=Inner(word="y")), {"inner": {"word": "x"}, "plain": {"word": "y"}}),
        (Outer(many=(Inner(word="x"), Inner(word="y"))), {"many": [{"word": "x"}, {"word": "y"}]}),
        (Outer(words=("a", "b")), {"words": ["a", "b"]}),
    ],
)
def test_what_is_written_is_read(record: Outer, columns: dict[str, Any]) -> None:
    written = columns_from(record, FIELDS)
    assert written == {"number": 7, "workflow": None, **dict.fromkeys(FIELDS[2:]), **columns}
    assert read(**written) == record


def test_null_leaves_the_default() -> None:
    assert read() == Outer()


def test_only_the_fields_that_are_asked_for() -> None:
    assert columns_from(Outer(), ["template"]) == {"workflow": None}
    assert columns_from(Outer(), ["elsewhere"]) == {"elsewhere": "e"}


def test_what_cannot_be_read_is_left_out() -> None:
    assert read(inner=[1], plain="x", many=[{"word": "x"}, 1, None], number=3) == Outer(
        number=3, many=(Inner(word="x"),)
    )


def test_a_record_of_a_column() -> None:
    assert record_from(Inner, {"word": "x"}) == Inner(word="x")
    assert record_from(Inner, None) is None
    assert record_from(Inner, 1) is None
