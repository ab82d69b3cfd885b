"""Checks run side by side: what each finds is told, in order, and none keeps the others waiting."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator

import pytest

from cli.doctor.findings import Check, Finding, Look, Said, advice, examine, ok
from cli.output.findings import finding_line
from core.errors import ConfigurationError, LedgerUnavailable


def check(subject: str, look: Look) -> Check:
    return Check(subject=subject, look=look, if_late="Look at COMFYLINE_X.")


def test_findings_come_in_the_order_of_the_checks_whichever_is_over_first() -> None:
    second_is_over = threading.Event()

    def first() -> Iterator[Said]:
        assert second_is_over.wait(10), "they run side by side"
        yield ok("a")

    def second() -> Iterator[Said]:
        yield advice("b")
        second_is_over.set()

    found = examine([check("first", first), check("second", second)], limit_s=20)

    assert [(each.subject, each.mark, each.text) for each in found] == [("first", "ok", "a"), ("second", "advice", "b")]


def test_one_that_never_ends_is_wrong_with_what_it_had_found() -> None:
    never = threading.Event()

    def look() -> Iterator[Said]:
        yield ok("a")
        never.wait()

    found = examine([check("slow", look), check("quick", lambda: [ok("b")])], limit_s=0.2)
    never.set()

    assert found == [
        Finding(subject="slow", mark="ok", text="a"),
        Finding(subject="slow", mark="wrong", text="No answer within 0.2 s. Look at COMFYLINE_X."),
        Finding(subject="quick", mark="ok", text="b"),
    ]


@pytest.mark.parametrize(
    ("error", "text", "refuses"),
    [
        (ConfigurationError("COMFYLINE_X is wrong."), "COMFYLINE_X is wrong.", True),
        (LedgerUnavailable("It is away."), "It is away.", False),
        # What it says may hold anything.
        (ZeroDivisionError("secret"), "The check itself failed (ZeroDivisionError); please report it.", False),
    ],
)
def test_what_a_look_raises_is_wrong_and_hides_nothing_else(error: Exception, text: str, refuses: bool) -> None:
    def look() -> Iterator[Said]:
        yield ok("a")
        raise error

    assert examine([check("one", look), check("other", lambda: [ok("b")])]) == [
        Finding(subject="one", mark="ok", text="a"),
        Finding(subject="one", mark="wrong", text=text, refuses=refuses),
        Finding(subject="other", mark="ok", text="b"),
    ]


@pytest.mark.parametrize(
    ("encoding", "line"), [("utf-8", "✗ disk           a b"), ("ascii", "WRONG disk           a b")]
)
def test_a_line_can_be_written_where_it_goes(encoding: str, line: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)

    assert finding_line("disk", "wrong", "a\n  b", stream=stream) == line
