"""How lines look: for people and for programs, one for each event, whatever a message holds."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from core import log_fields, log_format
from core.log_format import JsonFormatter, TextFormatter, plain_line

KEYS = {
    "time",
    "level",
    "logger",
    "message",
    "process",
    "pid",
    "job_id",
    "attempt",
    "instance",
    "tenant",
    "trace_id",
    "request",
    "exception",
}


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # A worker that was started in this process has said of what instance all its lines are.
    monkeypatch.setattr(log_fields, "_everywhere", {})
    log_fields.begin()
    yield
    log_fields.begin()


def record(template: str, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("tasks.upload", logging.WARNING, "", 0, template, args, None)
    for name, value in extra.items():
        setattr(made, name, value)
    return made


def as_json(made: logging.LogRecord) -> dict[str, object]:
    line = JsonFormatter("io").format(made)
    assert "\n" not in line
    found: dict[str, object] = json.loads(line)
    return found


def test_each_line_of_json_has_the_same_keys_and_null_for_what_nobody_knows() -> None:
    found = as_json(record("it ends"))
    assert set(found) == KEYS
    assert found["message"] == "it ends"
    assert found["process"] == "io"
    assert [found[name] for name in log_fields.FIELDS] == [None] * 5


def test_a_line_has_the_fields_of_the_work_it_is_logged_in() -> None:
    with log_fields.about(job_id="a", attempt=2, tenant="acme", trace_id=None):
        inside = as_json(record("stored"))
    assert (inside["job_id"], inside["attempt"], inside["tenant"], inside["trace_id"]) == ("a", 2, "acme", None)
    assert as_json(record("stored"))["job_id"] is None


def test_what_a_line_itself_names_wins_over_the_work_it_is_logged_in() -> None:
    log_fields.begin(job_id="the work's", attempt=1, tenant="acme")
    assert as_json(record("job %s waits", "another"))["tenant"] is None
    assert as_json(record("job %s waits", "the work's"))["tenant"] == "acme"
    assert as_json(record("job %s attempt %s: %s", "another", 3, "x"))["job_id"] == "another"
    assert as_json(record("job %s attempt %s: %s", "another", 3, "x"))["attempt"] == 3
    assert as_json(record("webhook %s of job %s, try %d", "w", "third", 1))["job_id"] == "third"
    assert as_json(record("%d %5.1f%% of job %s", 1, 2.0, "fourth"))["job_id"] == "fourth"
    assert as_json(record("job %s", "a line's", job_id="extra"))["job_id"] == "extra"
    assert as_json(record("all %s", "is well"))["job_id"] == "the work's"


def test_a_traceback_is_part_of_its_line_of_json() -> None:
    made = record("unforeseen")
    try:
        raise ValueError("boom\nand more")
    except ValueError:
        made.exc_info = sys.exc_info()
    found = as_json(made)
    assert "ValueError: boom" in str(found["exception"])


def test_people_read_what_is_known_at_the_end_unless_the_line_says_it() -> None:
    log_fields.begin(job_id="a", trace_id="t" * 32)
    assert (
        TextFormatter().format(record("job %s waits", "a")).endswith(f"tasks.upload: job a waits trace_id={'t' * 32}")
    )


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x85", "\u2028"])
def test_no_message_can_begin_a_line_of_its_own(end: str) -> None:
    text = TextFormatter().format(record("said %s", f"x{end}2026-01-01 00:00:00,000 ERROR forged: y"))
    assert [line.startswith("    ") for line in text.splitlines()] == [False, True]


def test_lines_of_json_are_read_back_for_people() -> None:
    line = JsonFormatter("io").format(record("job %s waits", "a"))
    assert plain_line(line).endswith(" WARNING tasks.upload: job a waits")
    assert plain_line("2026 INFO x: y") == "2026 INFO x: y"
    assert plain_line(line[:30]) == line[:30]


def test_advice_is_a_line_of_the_log_where_that_is_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log_format.say("do this")
    assert capsys.readouterr().err == "comfyline: do this\n"
    root = logging.getLogger()
    handlers = list(root.handlers)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    try:
        log_format.set_up("json", "api")
        log_format.say("do that")
        log_format.write_line("from a signal handler")
        logging.getLogger("tasks").info("job %s", "a")
    finally:
        log_format.set_up("text", "comfyline")
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(logging.WARNING)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["message"], line["process"]) for line in lines] == [("do that", "api"), ("job a", "api")]
