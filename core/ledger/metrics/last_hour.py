"""The last hour in samples: how many jobs waited and ran, how many GPUs worked, and how long jobs had waited.

The reconciler takes one now and then and notes all of them in one fact, so that a page shows the hour before it was
opened where there is no Prometheus; what is older, or finer, is that one's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from core.clock import now_ms
from core.ledger.facts import Facts
from core.ledger.instances import HEALTHY
from core.ledger.metrics.fleet_state import FleetState, FleetStates
from core.metrics.counted import JOB_WAIT
from core.metrics.tally import SUM, parts_of
from core.records.job import LEASED

#: The fact: {"samples": [Sample, ...], "waits": [[by bucket, ...], ...]}, the newest last.
FACT: Final = "metrics.history"
#: Between two samples, and how many are kept: an hour of them.
EVERY_MS, KEPT = 30_000, 120
#: Waits are those of jobs that ended within so many samples: few do in half a minute.
WAITS_OF = 10
P95: Final = 0.95


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The fleet at one moment."""

    at_ms: int
    waiting: int
    #: Jobs on GPUs, those behind another one included.
    running: int
    #: Healthy ones, and those of them that ran a job.
    gpus: int
    busy: int
    #: How long 95 of 100 jobs had waited at most that ended in the five minutes before; None: none did.
    wait_p95_s: float | None


class History:
    """Takes samples, and tells them."""

    def __init__(self, states: FleetStates, known: Facts) -> None:
        self._states = states
        self._facts = known

    def read(self) -> list[Sample]:
        """Return the samples of the last hour, the oldest first. Raises LedgerUnavailable."""
        oldest_ms = now_ms() - KEPT * EVERY_MS
        return [sample for sample in self._noted()[0] if oldest_ms <= sample.at_ms <= now_ms()]

    def note(self) -> bool:
        """Take a sample; returns False where somebody has done so a moment ago. Raises LedgerUnavailable."""
        samples, waits = self._noted()
        # However the clock was set since.
        if samples and abs(now_ms() - samples[-1].at_ms) < EVERY_MS:
            return False
        state = self._states.read()
        waits = [*waits, _waits_of(state.sums)][-WAITS_OF - 1 :]
        samples = [*samples, _sample_of(state, _p95_s(waits[0], waits[-1]))][-KEPT:]
        noted = {"samples": [asdict(sample) for sample in samples], "waits": waits}
        self._facts.mark(FACT, json.dumps(noted, separators=(",", ":")))
        return True

    def _noted(self) -> tuple[list[Sample], list[list[float]]]:
        try:
            noted = json.loads(self._facts.get(FACT) or "{}")
            return [Sample(**sample) for sample in noted["samples"]], [_counts(each) for each in noted["waits"]]
        except (ValueError, TypeError, KeyError):
            # Nothing yet, or another version's.
            return [], []


def _counts(noted: Sequence[Any]) -> list[float]:
    if len(noted) != len(JOB_WAIT.buckets) + 1:
        raise ValueError("these are of other buckets")
    return [float(count) for count in noted]


def _sample_of(state: FleetState, wait_p95_s: float | None) -> Sample:
    healthy = [gpu for gpu in state.gpus if gpu.state == HEALTHY]
    return Sample(
        at_ms=state.now_ms,
        waiting=sum(each.count for each in state.waiting),
        running=sum(each.count for each in state.started if each.status in LEASED),
        gpus=len(healthy),
        busy=sum(gpu.is_busy for gpu in healthy),
        wait_p95_s=wait_p95_s,
    )


def _waits_of(sums: Mapping[str, float]) -> list[float]:
    """Return how many jobs have ever waited so long, by bucket, whosever they were."""
    counts = [0.0] * (len(JOB_WAIT.buckets) + 1)
    for sample, amount in sums.items():
        name, part, _ = parts_of(sample)
        if name == JOB_WAIT.name and part != SUM:
            counts[int(part)] += amount
    return counts


def _p95_s(before: Sequence[float], now: Sequence[float]) -> float | None:
    """Return the wait that 95 of 100 of those between did not exceed, as if they lay evenly in their bucket."""
    grown = [max(0.0, late - early) for early, late in zip(before, now, strict=True)]
    left = P95 * sum(grown)
    if not left:
        return None
    for place, bound_s in enumerate(JOB_WAIT.buckets):
        if left <= grown[place]:
            from_s = JOB_WAIT.buckets[place - 1] if place else 0.0
            return round(from_s + (bound_s - from_s) * left / grown[place], 3)
        left -= grown[place]
    # Longer than the longest bound, which is all that is known.
    return JOB_WAIT.buckets[-1]
