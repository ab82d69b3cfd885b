"""Judges waiting jobs again when the fleet has changed: their pins follow it.

A job is pinned to the catalogues that accepted its graph. An instance that starts with another file in its folders has
another catalogue, so that the job would wait for one that nobody has any more. Where files were fetched for jobs that
others could run already, those may go there, too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from core.errors import InvalidWorkflow
from core.ledger import Ledger
from core.ledger.pins import Pinned
from core.records.job import FAILED
from core.records.job_error import JobError
from core.records.model_file import AWAITS_FILES
from tasks.judging import Judge
from tasks.messaging.follow_up import Moved, publish_follow_up
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: Jobs looked at in one query, and the time that one run of the reconciler gives to them: however many wait.
BATCH = 500
#: Jobs judged, and given other pins in one transaction, before the time is looked at.
STEP = 50
TIME_LIMIT_S = 1.0
#: Jobs may still be pinned to what was true a moment ago: the API asks once a second. So there is a second look.
SECOND_LOOK_S = 10.0


class Review:
    """One process's looks at the pinned jobs: two after each change of the fleet, as far as each run comes."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        #: Catalogues of the healthy instances, and of all that are known, and the manifest's files, at the last look.
        self._alive: list[str] = []
        self._known: list[str] = []
        self._manifest: list[str] = []
        #: The model files that each healthy instance has, by its catalogue.
        self._listed: Mapping[str, frozenset[str]] = {}
        self._looks_left = 0
        self._next_look_s = 0.0
        self._last_id = ""
        self._judging = Judge(ledger)

    def go_on(self, time_limit_s: float = TIME_LIMIT_S) -> list[str]:
        """Judge on where the last run stopped, for at most about so long; returns the ids of jobs that failed."""
        self._notice_changes()
        ends_at_s = time.monotonic() + time_limit_s
        failed: list[str] = []
        # With no instance there is nothing to judge by: jobs wait until there is one.
        while self._alive and self._looks_left and time.monotonic() >= self._next_look_s:
            batch = self._ledger.pins.waiting(after=self._last_id, limit=BATCH)
            orphans = [pinned for pinned in batch if self._is_to_be_judged(pinned)]
            for start in range(0, len(orphans), STEP):
                step = orphans[start : start + STEP]
                failed += self._judge(step)
                self._last_id = step[-1].job_id
                if time.monotonic() > ends_at_s:
                    return failed
            if len(batch) < BATCH:
                self._end_look()
            else:
                self._last_id = batch[-1].job_id
            if time.monotonic() > ends_at_s:
                break
        return failed

    def _notice_changes(self) -> None:
        alive = sorted(self._ledger.instances.catalogues())
        known = sorted({*self._ledger.instances.known_catalogues(), *alive})
        manifest = [entry.path for entry in self._ledger.manifest.all()]
        if (alive, known, manifest) != (self._alive, self._known, self._manifest):
            self._alive, self._known, self._manifest = alive, known, manifest
            self._listed = self._ledger.instances.model_names(alive)
            self._looks_left, self._next_look_s, self._last_id = 2, 0.0, ""

    def _is_to_be_judged(self, pinned: Pinned) -> bool:
        """Whether no instance suits a job any more, or one more may: it has the files by now."""
        others = [digest for digest in self._alive if digest not in pinned.catalogues]
        if len(others) == len(self._alive):
            return True
        return AWAITS_FILES in pinned.catalogues and any(
            self._listed.get(digest, frozenset()).issuperset(pinned.files) for digest in others
        )

    def _end_look(self) -> None:
        self._looks_left -= 1
        self._next_look_s, self._last_id = time.monotonic() + SECOND_LOOK_S, ""
        self._judging = Judge(self._ledger)

    def _judge(self, orphans: Sequence[Pinned]) -> list[str]:
        """Give jobs pins that there are; returns those that failed, because nothing that is known can run them."""
        wanted = self._ledger.pins.graphs([pinned.job_id for pinned in orphans])
        changes: dict[Pinned, Sequence[str] | None] = {}
        failed: list[str] = []
        for pinned in orphans:
            if pinned.job_id not in wanted:
                continue
            accepting, refusal = self._judging.accepting(wanted[pinned.job_id], self._alive)
            # An instance that is away may come back as it was.
            away = [digest for digest in pinned.catalogues if digest in self._known and digest not in self._alive]
            if refusal is not None and self._judging.awaits_files(wanted[pinned.job_id], self._alive):
                # It waits for what can be fetched, here or on an instance that comes back; or it need not wait.
                accepting.append(AWAITS_FILES)
            if refusal is not None and not accepting and not away:
                others = [digest for digest in self._known if digest not in self._alive]
                accepting, _ = self._judging.accepting(wanted[pinned.job_id], others)
                if not accepting and self._fail(pinned, refusal):
                    failed.append(pinned.job_id)
            pins = accepting + away if refusal is not None else None
            if accepting and pins != list(pinned.catalogues):
                changes[pinned] = pins
        if changes:
            self._ledger.pins.change(changes)
        return failed

    def _fail(self, pinned: Pinned, refusal: InvalidWorkflow) -> bool:
        log.warning("job %s fails: the fleet has changed, and nothing in it can run the job any more", pinned.job_id)
        return self._ledger.pins.fail(pinned, _error(refusal))


_reviews: WeakKeyDictionary[Runtime, Review] = WeakKeyDictionary()


def follow_fleet(runtime: Runtime) -> None:
    """Give jobs that no instance suits any more other pins, or have them fail, as one run of the reconciler."""
    review = _reviews.setdefault(runtime, Review(runtime.ledger))
    for job_id in review.go_on():
        publish_follow_up(runtime.publisher, Moved(job_id=job_id, status=FAILED))


def _error(refusal: InvalidWorkflow) -> JobError:
    first = next(iter(refusal.node_errors.items()), None)
    node_id, entry = first or (None, dict[str, Any]())
    return JobError(
        code=refusal.code,
        message=f"No GPU of the fleet can run it any more. {refusal.message}",
        node_id=node_id,
        class_type=entry.get("class_type"),
    )
