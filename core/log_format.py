"""How a line of our logs looks, the same in every process: for people, or as JSON. One line for each event."""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import datetime, timezone
from types import TracebackType
from typing import Any, Literal, TypeAlias

from core.log_fields import fields_of

LogStyle: TypeAlias = Literal["text", "json"]

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: What a line for people begins with where it is no line of a log.
OWN_NAME = "comfyline"


class TextFormatter(logging.Formatter):
    """For people: what is known of the fields, and not said already, stands at the end.

    Further lines of a message, whatever ends them, are indented: what begins at the edge is a new event. The
    traceback of an error follows as Python prints it.
    """

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - its name is logging's
        line = "\n    ".join(super().formatMessage(record).splitlines())
        said = record.getMessage()
        more = [f"{name}={value}" for name, value in fields_of(record).items() if value and str(value) not in said]
        return " ".join([line, *more])


class JsonFormatter(logging.Formatter):
    """For programs: one object a line, with the same keys on every line; null where there is nothing to say."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": self._process,
            "pid": record.process,
            **fields_of(record),
            "request": getattr(record, "request", None),
            "exception": self.formatException(record.exc_info) if record.exc_info else None,
        }
        return json.dumps(line, default=str)


class _Process:
    """How this process logs."""

    style: LogStyle = "text"
    name = OWN_NAME


def set_up(style: LogStyle, process: str) -> None:
    """Have everything that this process logs go to stderr in this style, and with JSON nothing else.

    Parameters:
      process: what it is called, on each line of JSON: `api`, `gpu0`, `io`.
    """
    _Process.style, _Process.name = style, process
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler.formatter, (TextFormatter, JsonFormatter)):
            root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter())
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    if style == "json":
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught


def is_json() -> bool:
    """Return whether this process was told to log JSON."""
    return _Process.style == "json"


def formatter() -> logging.Formatter:
    """Return what lines of this process are made by, for handlers that are not the root's."""
    return JsonFormatter(_Process.name) if is_json() else TextFormatter()


def say(text: str) -> None:
    """Tell whoever runs this process: a line on stderr that begins with our name, or one of the log where that is JSON.

    For what is no event of a component of ours, such as advice at a start.
    """
    if is_json():
        logging.getLogger(OWN_NAME).warning("%s", text)
    else:
        sys.stderr.write(f"{OWN_NAME}: {text}\n")
        sys.stderr.flush()


def write_line(text: str) -> None:
    """Write a line of the log from where no logger may be used, such as a signal handler."""
    record = logging.LogRecord(OWN_NAME, logging.INFO, "", 0, text, None, None)
    os.write(2, f"{formatter().format(record)}\n".encode())


def plain_line(line: str) -> str:
    """Return a line of a log as people read it: one of JSON as its level, logger and message, any other as it is."""
    if not line.startswith('{"time":'):
        return line
    try:
        found = json.loads(line)
        told = f"{found['time']} {found['level']} {found['logger']}: {found['message']}"
        return f"{told} ({found['exception'].splitlines()[-1]})" if found["exception"] else told
    except (ValueError, LookupError, TypeError, AttributeError):
        # Half a line, or another program's.
        return line


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(OWN_NAME).critical("uncaught: it ends", exc_info=(kind, error, traceback))


def _timestamp(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, tz=timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
