"""Jobs that nobody has submitted, put behind those that wait, so that a look at the fleet tells what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from core.ledger.scheduling.heads import HeadJob, Heads
from core.ledger.scheduling.lines import LineKind, WaitingLine

#: The ids of their lines begin here and go down: none that is in the ledger is below 1.
FIRST_LINE = -2


@dataclass(frozen=True, kw_only=True)
class Newcomer:
    """Some jobs that are alike, as if they came now."""

    #: The line that they would stand in.
    kind: LineKind
    shape: str | None = None
    template: str | None = None
    #: By when one of them has to have begun, in milliseconds since 1970; None: whenever.
    start_by_ms: int | None = None
    count: int = 1


def lines_of(newcomers: Sequence[Newcomer], now: int) -> Mapping[int, tuple[WaitingLine, HeadJob]]:
    """Return a line of its own for each, with the job at its head, by the line's id: in their order from `FIRST_LINE`.

    Each comes a moment after all that waits, and after those before it.
    """
    found = {}
    for number, each in enumerate(newcomers):
        line_id, came_ms = FIRST_LINE - number, now + 1 + number
        line = WaitingLine(
            id=line_id, kind=each.kind, waiting=each.count, head_ms=came_ms, start_by_ms=each.start_by_ms
        )
        head = HeadJob(
            line=line_id,
            id="",
            created_at_ms=came_ms,
            start_by_ms=each.start_by_ms,
            shape=each.shape,
            template=each.template,
            expected_time_s=None,
        )
        found[line_id] = line, head
    return found


def with_heads(heads: Heads, new: Mapping[int, tuple[WaitingLine, HeadJob]]) -> Heads:
    """Return what is known of the jobs of each line, together with these."""
    return replace(heads, jobs={**heads.jobs, **{line_id: [head] for line_id, (_, head) in new.items()}})
