"""Amounts by sample: which bucket a value is in, what a label may hold, and what a fork leaves behind."""

from __future__ import annotations

import os

import pytest

from core.metrics.family import counter, histogram
from core.metrics.tally import Tally, parts_of, process_tally

SECONDS = histogram("x_seconds", "Seconds.", (0.1, 1.0, 10.0), "who")
THINGS = counter("x_total", "Things.", "what")


@pytest.mark.parametrize(("value", "place"), [(0.0, 0), (0.1, 0), (0.11, 1), (1.0, 1), (10.0, 2), (10.5, 3)])
def test_a_bucket_holds_what_is_not_longer_than_its_bound(value: float, place: int) -> None:
    tally = Tally()

    tally.observe(SECONDS, value, "a")

    assert tally.take() == {f"x_seconds\t{place}\ta": 1, "x_seconds\tsum\ta": value}


def test_amounts_add_up_until_they_are_taken() -> None:
    tally = Tally()
    tally.add(THINGS, "a")
    tally.add(THINGS, "a", amount=2)

    taken = tally.take()
    tally.add(THINGS, "a")
    tally.put_back(taken)

    assert taken == {"x_total\t\ta": 3}
    assert tally.take() == {"x_total\t\ta": 4}
    assert not tally


def test_a_label_is_one_short_word_whatever_came() -> None:
    tally = Tally()

    tally.add(THINGS, "a\tb\n\x00" + "c" * 100)

    [sample] = tally.take()
    assert parts_of(sample) == ("x_total", "", ("ab" + "c" * 62,))


def test_labels_that_a_family_does_not_have_are_no_sample() -> None:
    with pytest.raises(AssertionError):
        Tally().add(THINGS, "a", "b")


def test_a_child_reports_nothing_that_its_parent_has_counted() -> None:
    process_tally.add(THINGS, "a")
    reader, writer = os.pipe()

    child = os.fork()
    if child == 0:
        os.write(writer, b"something" if process_tally else b"nothing")
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reader, 100) == b"nothing"
    assert process_tally.take()["x_total\t\ta"] == 1
    os.close(reader)
    os.close(writer)
