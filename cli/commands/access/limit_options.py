"""What tenants may have at most, as options of commands and as cells of tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from core.records.tenant_limits import LIMITS

Command = TypeVar("Command", bound=Callable[..., Any])

#: Words in place of a number: no limit at all, and what the fleet has for everybody.
UNLIMITED, DEFAULT = "unlimited", "default"
HELP = {
    "max_waiting": "Jobs that may wait.",
    "max_running": "Jobs that may run at once.",
    "max_requests_per_minute": "Requests it may make in a minute.",
    "max_kept_bytes": "Bytes of uploads and outputs that are kept for it.",
    "max_gpu_s_per_day": "GPU seconds it may use in a day (UTC).",
}
#: The titles of their columns.
TITLES = {
    "max_waiting": "waiting",
    "max_running": "running",
    "max_requests_per_minute": "requests/min",
    "max_kept_bytes": "bytes kept",
    "max_gpu_s_per_day": "GPU s today",
}


class Limit(click.ParamType[int | float | str]):
    """A number, or one of the two words."""

    name = "limit"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | float | str:
        """Return the number, or the word. Raises click's BadParameter."""
        if value in (UNLIMITED, DEFAULT):
            return str(value)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0:
            self.fail(f"{value} is no limit; give a number from 0, {UNLIMITED} or {DEFAULT}.", param, ctx)
        return int(number) if number.is_integer() else number


def limit_options(command: Command) -> Command:
    """Give a command an option for each limit; see `given_limits`."""
    for name in reversed(LIMITS):
        option = f"--{name.replace('_', '-')}"
        command = click.option(option, name, metavar=f"N|{UNLIMITED}|{DEFAULT}", type=Limit(), help=HELP[name])(command)
    return command


def given_limits(options: dict[str, Any]) -> dict[str, Any]:
    """Return the limits that were given, as a request has them."""
    given = {name: options[name] for name in LIMITS if options[name] is not None}
    return {name: None if value == DEFAULT else value for name, value in given.items()}


def cell(level: Any) -> str:
    """Return how a tenant stands with a limit: `3`, or `3/10` where there is one; empty: neither is known."""
    used, allowed = (level.get(key) if isinstance(level, dict) else None for key in ("used", "allowed"))
    if allowed is None:
        return "" if used is None else f"{used:.12g}"
    return f"{0 if used is None else used:.12g}/{allowed:.12g}"
