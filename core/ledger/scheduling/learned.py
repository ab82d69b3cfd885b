"""How long jobs run and models load, for the scheduling policy: what a fleet has learned, as one process knows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from statistics import fmean

from sqlalchemy import Connection, select

from core.ledger.database.tables import durations
from core.ledger.durations import CHUNK
from core.ledger.model_sets import load_subject, run_subject
from core.scheduling.lines import ModelSet

#: What nobody has seen yet is taken to last so long.
USUAL_RUN_S, USUAL_LOAD_S = 10.0, 10.0
#: How long a process goes by what it has read.
KNOWN_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds by subject and kind of GPU."""

    seconds: Mapping[str, Mapping[str, float]]

    def run_s(self, models: ModelSet, gpu: str | None = None) -> float:
        """Return how long a job with these models runs where they are held, on a kind of GPU or on any."""
        return self._of(run_subject(models), gpu, USUAL_RUN_S)

    def known_run_s(self, models: ModelSet, gpus: Collection[str]) -> float | None:
        """Return the same over some kinds of GPU; None where no job with these models has run anywhere."""
        found = self.seconds.get(run_subject(models))
        if not found:
            return None
        return fmean([found[gpu] for gpu in gpus if gpu in found] or found.values())

    def load_s(self, models: ModelSet, gpu: str | None = None) -> float:
        """Return how long it takes to make these models resident."""
        return self._of(load_subject(models), gpu, USUAL_LOAD_S) if models else 0.0

    def _of(self, subject: str, gpu: str | None, usual_s: float) -> float:
        found = self.seconds.get(subject)
        if not found:
            return usual_s
        return found[gpu] if gpu is not None and gpu in found else fmean(found.values())


class LearnedCosts:
    """The costs of the model sets in use; each process reads them anew every few seconds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._costs = Costs(seconds={})
        self._known: frozenset[ModelSet] = frozenset()
        self._read_at_s = float("-inf")

    def of(self, connection: Connection, models: Collection[ModelSet]) -> Costs:
        """Return the costs of these model sets, as they were a few seconds ago at most."""
        wanted = frozenset(models)
        if wanted <= self._known and time.monotonic() - self._read_at_s < KNOWN_S:
            return self._costs
        with self._lock:
            everything = wanted | (self._known if time.monotonic() - self._read_at_s < KNOWN_S else frozenset())
            self._costs = Costs(seconds=_read(connection, everything))
            self._known, self._read_at_s = everything, time.monotonic()
            return self._costs


def _read(connection: Connection, models: Collection[ModelSet]) -> dict[str, dict[str, float]]:
    subjects = sorted(subject(each) for each in models for subject in (run_subject, load_subject))
    seconds: dict[str, dict[str, float]] = {}
    for start in range(0, len(subjects), CHUNK):
        query = select(durations.c.what, durations.c.gpu, durations.c.average_s)
        for what, gpu, average_s in connection.execute(
            query.where(durations.c.what.in_(subjects[start : start + CHUNK]))
        ):
            seconds.setdefault(what, {})[gpu] = average_s
    return seconds
