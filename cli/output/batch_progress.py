"""How a batch gets on, for people: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from cli.output.terminal import PLAIN_STEP, Screen, progress_bar
from cli.output.text_tables import printable
from cli.output.waits import about

#: Counts in the order in which they are told, of which those that are none are left out.
TOLD = ("succeeded", "failed", "expired", "canceled", "running", "canceling", "queued")


class BatchProgress:
    """Live progress of one batch, to be used in a `with`."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._bar = progress_bar(screen.console) if screen.is_terminal else None
        self._task = self._bar.add_task("running", total=1.0, detail="") if self._bar else None
        self._said: tuple[str, float] = ("", -1.0)

    def __enter__(self) -> BatchProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def __call__(self, batch: Mapping[str, Any]) -> None:
        """Take the batch as it stands."""
        status, value = str(batch["status"]), float(batch.get("progress") or 0)
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task, description=printable(status), completed=value, detail=printable(describe_counts(batch))
            )
        elif status != self._said[0] or value - self._said[1] >= PLAIN_STEP:
            self._screen.line(f"{value:4.0%}  {status}: {describe_counts(batch)}")
            self._said = status, value


def describe_counts(batch: Mapping[str, Any]) -> str:
    """For people: `42 succeeded, 1 failed, 57 queued, about 3 min left`."""
    counts = batch["counts"]
    words = [f"{counts[name]} {name}" for name in TOLD if counts.get(name)]
    left_s = batch.get("time_left_s")
    if left_s and batch["status"] != "completed":
        words.append(f"{about(float(left_s))} left")
    return ", ".join(words) or "no jobs"
