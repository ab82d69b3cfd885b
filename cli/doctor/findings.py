"""Checks, and what they find: each is a function in a thread of its own, which may take some seconds and no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from core.errors import ComfylineError, ConfigurationError

#: All is well; it works, and would better be changed; it does not work; it could not be looked at from here.
Mark: TypeAlias = Literal["ok", "advice", "wrong", "unknown"]

#: How long all checks of one round have, in seconds.
LIMIT_S: Final = 8.0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one look has shown."""

    #: What was looked at, in a word or two: `database`.
    subject: str
    mark: Mark
    #: What is so and, unless all is well, what to change: with the name of the setting.
    text: str
    #: With this no process of ours can start here.
    refuses: bool = False


Said: TypeAlias = tuple[Mark, str]
#: One look; raises ComfylineError where it ends early.
Look: TypeAlias = Callable[[], Iterable[Said]]


def ok(text: str) -> Said:
    """Return that all is well."""
    return "ok", text


def advice(text: str) -> Said:
    """Return what works, and would better be changed."""
    return "advice", text


def wrong(text: str) -> Said:
    """Return what does not work, and what to change."""
    return "wrong", text


def unknown(text: str) -> Said:
    """Return why something could not be looked at."""
    return "unknown", text


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something to look at."""

    subject: str
    look: Look
    #: What to change if the look comes to no end.
    if_late: str


@dataclass(kw_only=True)
class _Running:
    check: Check
    found: list[Finding] = field(default_factory=list)
    is_over: bool = False

    def run(self) -> None:
        subject = self.check.subject
        try:
            for mark, text in self.check.look():
                self.found.append(Finding(subject=subject, mark=mark, text=text))
        except ComfylineError as exc:
            refuses = isinstance(exc, ConfigurationError)
            self.found.append(Finding(subject=subject, mark="wrong", text=exc.message, refuses=refuses))
        except Exception as exc:  # noqa: BLE001 - a check that fails must not hide what the others found
            text = f"The check itself failed ({type(exc).__name__}); please report it."
            self.found.append(Finding(subject=subject, mark="wrong", text=text))
        self.is_over = True


def examine(checks: Sequence[Check], *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Make checks side by side; returns what they found, in the order of the checks.

    Parameters:
      limit_s: a look that takes longer is left alone, and is wrong.
    """
    # Threads that nobody waits for: a file system whose server is gone never lets go of one.
    running = [_Running(check=check) for check in checks]
    threads = [threading.Thread(target=each.run, name=each.check.subject, daemon=True) for each in running]
    until_s = time.monotonic() + limit_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until_s - time.monotonic()))
    found = []
    for each in running:
        is_over = each.is_over
        found += list(each.found)
        if not is_over:
            text = f"No answer within {limit_s:g} s. {each.check.if_late}"
            found.append(Finding(subject=each.check.subject, mark="wrong", text=text))
    return found
