"""What a log line is of: the job, its attempt, instance and tenant, and the trace of the request that asked for it.

The same fields stand on the lines of every process. They are set where the work on a job begins, and hold for whatever
is logged in that thread, or greenlet, from then on; a line may bring its own (`extra={"job_id": ...}`), which win.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

#: In the order in which people read them.
FIELDS = ("job_id", "attempt", "instance", "tenant", "trace_id")

#: How our lines name a job and its attempt, and what else stands in templates of lines.
_WORDS = {"job_id": "job %s", "attempt": "attempt %s"}
_PLACEHOLDERS = re.compile(r"%[-#0 +]*\d*(?:\.\d+)?([a-zA-Z%])")

_NONE: Mapping[str, Any] = {}
_here: ContextVar[Mapping[str, Any]] = ContextVar("log_fields", default=_NONE)
_everywhere: dict[str, Any] = {}


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Set fields for what is logged inside the block; what is None leaves a field as it is."""
    token = _here.set({**_here.get(), **_known(fields)})
    try:
        yield
    finally:
        _here.reset(token)


def begin(**fields: Any) -> None:
    """Set fields anew for what is logged here from now on, and forget those of the work before."""
    _here.set(_known(fields))


def note(**fields: Any) -> None:
    """Add to the fields of what is logged here from now on."""
    _here.set({**_here.get(), **_known(fields)})


def always(**fields: Any) -> None:
    """Set fields for the whole process, such as the instance of a GPU worker."""
    _everywhere.update(_known(fields))


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return all fields of a line, None for those that nobody knows; for the thread that logs it."""
    here, said = _here.get(), _said(record)
    if said and said["job_id"] != here.get("job_id"):
        # It tells of another job: what is known of the work's own would be said of that.
        here = _NONE
    return {
        name: getattr(record, name, None) or said.get(name) or here.get(name) or _everywhere.get(name)
        for name in FIELDS
    }


def _said(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the line's own text names by `job %s` and `attempt %s`: it may be of another job than the work."""
    if not isinstance(record.args, tuple) or "job %s" not in (template := str(record.msg)):
        return {}
    found: dict[str, Any] = {}
    for name, word in _WORDS.items():
        before, is_there, _ = template.partition(word)
        place = sum(kind != "%" for kind in _PLACEHOLDERS.findall(before))
        if is_there and place < len(record.args):
            found[name] = record.args[place]
    return found if "job_id" in found else {}


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
