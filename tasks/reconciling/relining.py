"""Leads waiting jobs that an earlier version has left into the lines of the models that their graphs load.

That version knew no lines, and a migration reads no graphs: such jobs stand in lines without models.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from core.errors import InvalidWorkflow
from core.ledger import Ledger
from tasks.runtime import Runtime
from workflows.graphs.graph import parse_graph
from workflows.graphs.model_files import models_of

#: Jobs looked at in one query, and the time that one run of the reconciler gives to them, however many wait.
BATCH = 200
TIME_LIMIT_S = 1.0


class Relining:
    """One process's look at the jobs in lines without models: one, for those that come now stand in the right line."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._last_id = ""
        self._is_over = False

    def go_on(self, time_limit_s: float = TIME_LIMIT_S) -> int:
        """Go on where the last run stopped, for at most about so long; returns how many jobs were led over."""
        ends_at_s = time.monotonic() + time_limit_s
        led = 0
        while not self._is_over:
            job_ids = self._ledger.line_mender.without_models(after=self._last_id, limit=BATCH)
            led += self._ledger.line_mender.lead(files_of(self._ledger, job_ids))
            self._is_over = len(job_ids) < BATCH
            self._last_id = job_ids[-1] if job_ids else ""
            if time.monotonic() >= ends_at_s:
                break
        return led


def files_of(ledger: Ledger, job_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the model files that the graphs of jobs load; those that are gone, or load none, are left out."""
    graphs = ledger.pins.graphs(job_ids) if job_ids else {}
    found = {job_id: _files_in(pinned.graph) for job_id, pinned in graphs.items()}
    return {job_id: files for job_id, files in found.items() if files}


def _files_in(graph_text: str) -> tuple[str, ...]:
    try:
        return tuple(models_of(parse_graph(json.loads(graph_text))))
    except InvalidWorkflow:
        # What cannot be read stays where it is, and must not keep the others there.
        return ()


_relinings: WeakKeyDictionary[Runtime, Relining] = WeakKeyDictionary()


def mend_lines(runtime: Runtime) -> None:
    """Put waiting jobs in line that are in none, or in one without the models that they load."""
    runtime.ledger.line_mender.mend(lambda job_ids: files_of(runtime.ledger, job_ids))
    _relinings.setdefault(runtime, Relining(runtime.ledger)).go_on()
