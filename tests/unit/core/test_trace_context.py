"""What is taken from a traceparent, and what is made where there is none."""

from __future__ import annotations

import pytest

from core.trace_context import LENGTH, begun, continued, read, trace_id_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        (GOOD, GOOD),
        (f"  {GOOD} ", GOOD),
        (f"00-{TRACE}-{PARENT}-00", f"00-{TRACE}-{PARENT}-00"),
        # A later version may go on; what we know of it is taken.
        (f"01-{TRACE}-{PARENT}-01-what-comes", GOOD),
        (f"cc-{TRACE}-{PARENT}-01", GOOD),
    ],
)
def test_good_ones_are_taken(header: str, taken: str) -> None:
    assert read(header) == taken
    assert len(taken) == LENGTH


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00",
        GOOD.upper(),
        GOOD + "-more",
        GOOD + ",",
        f"{GOOD},{GOOD}",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-0g",
        f"00-{chr(0xFF14) * 32}-{PARENT}-01",
        "00-" + "a" * 100_000,
    ],
)
def test_bad_ones_are_ignored(header: str | None) -> None:
    assert read(header) is None


def test_what_goes_on_has_the_trace_and_a_parent_of_its_own() -> None:
    ours = continued(GOOD)
    assert trace_id_of(ours) == TRACE
    assert PARENT not in ours
    assert read(ours) == ours
    assert ours.endswith("-01")


def test_each_new_trace_is_another() -> None:
    made = {begun() for _ in range(100)}
    assert len({trace_id_of(each) for each in made}) == 100
    assert all(read(each) == each for each in made)
    assert trace_id_of(None) is None
