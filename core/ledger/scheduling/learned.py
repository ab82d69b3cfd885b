"""How long jobs run and models load, for the scheduling policy: what a fleet has learned, as one process knows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from statistics import fmean
from typing import Any

from sqlalchemy import Connection, Select, bindparam, select

from core.clock import now_ms
from core.ledger.database.learned_tables import durations
from core.ledger.durations import CHUNK, DEFAULT_S
from core.ledger.model_sets import load_subject, run_subject
from core.scheduling.lines import ModelSet

#: A load that nobody has seen yet is taken to last so long.
USUAL_LOAD_S = 10.0
#: How long a process goes by what it has read.
KNOWN_S = 3.0
#: How long until it reads all of it: what the ledger has forgotten is not used for ever.
FORGOTTEN_S = 3600.0
#: Longer than a write may take from its time stamp to its commit.
OVERLAP_MS = 20_000

_COSTS = select(durations.c.what, durations.c.gpu, durations.c.average_s)
_NEWER = _COSTS.where(durations.c.updated_at_ms >= bindparam("since_ms"))


class Costs:
    """Seconds by subject and kind of GPU."""

    def __init__(self, seconds: Mapping[str, Mapping[str, float]]) -> None:
        self.seconds = seconds
        #: Answers given before: a claim asks for those of all lines.
        self._runs: dict[tuple[ModelSet, str | None], float] = {}
        self._loads: dict[tuple[ModelSet, str | None], float] = {}

    def run_s(self, models: ModelSet, gpu: str | None = None) -> float:
        """Return how long a job with these models runs where they are held, on a kind of GPU or on any."""
        found = self._runs.get((models, gpu))
        if found is None:
            found = self._runs[models, gpu] = self._of(run_subject(models), gpu, DEFAULT_S)
        return found

    def known_run_s(self, models: ModelSet, gpus: Collection[str]) -> float | None:
        """Return the same over some kinds of GPU; None where no job with these models has run anywhere."""
        found = self.seconds.get(run_subject(models))
        if not found:
            return None
        return fmean([found[gpu] for gpu in gpus if gpu in found] or found.values())

    def load_s(self, models: ModelSet, gpu: str | None = None) -> float:
        """Return how long it takes to make these models resident."""
        found = self._loads.get((models, gpu))
        if found is None:
            found = self._of(load_subject(models), gpu, USUAL_LOAD_S) if models else 0.0
            self._loads[models, gpu] = found
        return found

    def with_newer(self, seconds: Mapping[str, Mapping[str, float]]) -> Costs:
        """Return the costs with some subjects anew; these themselves, if that changes nothing."""
        changed = {subject: found for subject, found in seconds.items() if self.seconds.get(subject) != found}
        if not changed:
            return self
        newer = Costs({**self.seconds, **changed})
        newer._runs = {key: value for key, value in self._runs.items() if run_subject(key[0]) not in changed}
        newer._loads = {key: value for key, value in self._loads.items() if load_subject(key[0]) not in changed}
        return newer

    def _of(self, subject: str, gpu: str | None, usual_s: float) -> float:
        found = self.seconds.get(subject)
        if not found:
            return usual_s
        return found[gpu] if gpu is not None and gpu in found else fmean(found.values())


class LearnedCosts:
    """The costs of the model sets in use; each process reads every few seconds what is new of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._costs = Costs({})
        self._known: frozenset[ModelSet] = frozenset()
        #: When it was last read, and when all of it was.
        self._read_at_s = self._all_read_at_s = float("-inf")
        #: What was learned before is known, but for what was written late.
        self._known_to_ms = 0
        self._last_asked: Collection[ModelSet] = ()

    def of(self, connection: Connection, models: Collection[ModelSet]) -> Costs:
        """Return the costs of these model sets, as they were a few seconds ago at most."""
        now_s = time.monotonic()
        if now_s - self._read_at_s < KNOWN_S and (models is self._last_asked or self._known.issuperset(models)):
            return self._costs
        with self._lock:
            begun_ms = now_ms()
            if now_s - self._all_read_at_s > FORGOTTEN_S:
                self._costs, self._known, self._known_to_ms = Costs({}), frozenset(), begun_ms
                self._all_read_at_s = now_s
            elif now_s - self._read_at_s >= KNOWN_S:
                # And a little before: who learned something then may have written it later.
                self._read_newer(connection, min(self._known_to_ms, begun_ms) - OVERLAP_MS)
                self._known_to_ms = begun_ms
            missing = frozenset(models) - self._known
            if missing:
                self._costs = self._costs.with_newer(_noted(connection.execute(each) for each in _of(missing)))
                self._known |= missing
            self._read_at_s, self._last_asked = now_s, models
            return self._costs

    def _read_newer(self, connection: Connection, since_ms: int) -> None:
        newer = _noted([connection.execute(_NEWER, {"since_ms": since_ms})])
        known = {subject(each) for each in self._known for subject in (run_subject, load_subject)} if newer else ()
        merged = {what: {**self._costs.seconds.get(what, {}), **newer[what]} for what in newer if what in known}
        self._costs = self._costs.with_newer(merged)


def _noted(results: Iterable[Iterable[Any]]) -> dict[str, dict[str, float]]:
    """Return the averages that were read, by subject and kind of GPU."""
    seconds: dict[str, dict[str, float]] = {}
    for result in results:
        for what, gpu, average_s in result:
            seconds.setdefault(what, {})[gpu] = average_s
    return seconds


def _of(models: Collection[ModelSet]) -> Iterable[Select[Any]]:
    """Yield the statements that read the costs of these model sets."""
    subjects = sorted(subject(each) for each in models for subject in (run_subject, load_subject))
    for start in range(0, len(subjects), CHUNK):
        yield _COSTS.where(durations.c.what.in_(subjects[start : start + CHUNK]))
