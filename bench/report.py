"""How every bench prints: machine, date, command, figures, goals."""

from __future__ import annotations

import datetime
import os
import platform
import sys


class Report:
    """Collects the lines of one bench."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lines: list[str] = []
        self._missed: list[str] = []

    def progress(self, what: str) -> None:
        """Say what is being done, for people who wait."""
        print(f"  {what} ...", file=sys.stderr)

    def line(self, name: str, value: str, *, goal: str | None = None, met: bool = True) -> None:
        """One figure, with its goal if it has one."""
        verdict = "" if goal is None else f"   goal: {goal} ({'met' if met else 'MISSED'})"
        self._lines.append(f"  {name:<34} {value}{verdict}")
        if not met:
            self._missed.append(name)

    def print(self) -> int:
        """Print everything; the exit status says whether all goals were met."""
        today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
        machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
        print(f"python -m {self._module}   {today}   {machine}, load {os.getloadavg()[0]:.1f}")
        print("\n".join(self._lines))
        return 1 if self._missed else 0
