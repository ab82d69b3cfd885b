"""Follows what one instance prints: a thread of its own looks once a second while jobs run, and once after the last.

It is beside the way of jobs: what it reads is one request to ComfyUI a second, what it writes one transaction, however
many jobs have run in that second. Whoever waits for a job waits for none of this.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from comfy.prompts.session import ComfySession, PromptHandle
from core.background import Loop
from core.errors import ComfyUnavailable, LedgerUnavailable
from core.ledger.claims import Claim
from core.messaging.notices import Notice
from core.records.printed import PrintedPiece
from core.texts.discretion import forms_of
from tasks.job_errors import discreet_text, machines_of
from tasks.runner.printing.attribution import Clockwork, Span, shares
from tasks.runner.printing.line_maker import JOB_LINES, LOOK_LINES, LineMaker
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: Between two looks.
EVERY_S = 1.0
#: Looks in vain after which what a job printed is given up: its instance is gone.
MOST_VAIN = 3
#: Secrets that are masked in all that an instance prints: a node may print what another job gave it, when that is over.
MOST_SECRETS = 32
#: Jobs that are followed at once, with those whose last look is due. Of more the oldest are let go.
MOST_JOBS = 256


@dataclass(kw_only=True, eq=False)
class PrintedJob:
    """One attempt that is followed."""

    claim: Claim
    span: Span
    lines: LineMaker
    #: Pieces that are kept: place, lines and bytes.
    kept: deque[tuple[int, int, int]] = field(default_factory=deque)
    place: int = 0
    vain: int = 0

    def end(self) -> None:
        """Note that its prompt has ended."""
        if self.span.ended_ms is None:
            self.span.ended_ms = time.time() * 1000

    def piece(self, lines: list[str], *, is_last: bool, limit_bytes: int) -> PrintedPiece | None:
        """Return what is to be kept of new lines; None: nothing."""
        shown = lines[-LOOK_LINES:]
        while sum(map(_size, shown)) > limit_bytes:
            shown = shown[(len(shown) + 1) // 2 :]
        if not shown and not (is_last and self.place):
            return None
        self.place += 1
        self.kept.append((self.place, len(shown), sum(map(_size, shown))))
        drop_until = 0
        while sum(each[2] for each in self.kept) > limit_bytes or sum(each[1] for each in self.kept) > JOB_LINES:
            drop_until = self.kept.popleft()[0]
        is_cut = len(shown) < len(lines) or drop_until > 0
        return PrintedPiece(
            job_id=self.claim.job_id,
            attempt=self.claim.attempt,
            place=self.place,
            lines=tuple(shown),
            drop_until=drop_until,
            is_cut=is_cut,
            is_last=is_last,
        )


class PrintFollower:
    """What one runner's instance prints. Thread-safe."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._limit_bytes = runtime.settings.job_log_bytes
        self._machines = machines_of(runtime.settings)
        self._lock = threading.Lock()
        self._followed: list[PrintedJob] = []
        self._session: ComfySession | None = None
        #: Of the session; new with each. Secrets with the forms that they may have in what is printed.
        self._clockwork = Clockwork()
        self._secrets: dict[str, tuple[str, ...]] = {}
        self._loop = Loop("printed", self._watch, pause_s=None)

    def follow(
        self, claim: Claim, session: ComfySession, handle: PromptHandle, *, posted_ms: float, secret: str | None
    ) -> PrintedJob | None:
        """Follow the prompt of a job from its post on; None: nobody wants to know.

        Parameters:
          posted_ms: when its post began, in milliseconds since 1970.
          secret: what a node may print of what it was given.
        """
        if self._limit_bytes == 0:
            return None
        job = PrintedJob(claim=claim, span=Span(tenant=claim.tenant, handle=handle), lines=LineMaker(self._clean))
        posted = (posted_ms, time.time() * 1000)
        with self._lock:
            if session is not self._session:
                # Another process, perhaps on another machine; of the one before there is nothing to be had any more.
                self._session, self._clockwork, self._followed = session, Clockwork(), []
                self._secrets = {}
            if secret:
                others = {each: forms for each, forms in self._secrets.items() if each != secret}
                self._secrets = dict([*others.items(), (secret, forms_of(secret))][-MOST_SECRETS:])
            for other in self._followed:
                if other.claim.tenant != claim.tenant:
                    other.span.foreign_ms.append(posted)
            self._followed = [*self._followed, job][-MOST_JOBS:]
        self._loop.start()
        self._loop.wake()
        return job

    def close(self) -> None:
        """Have the last look now, and end."""
        self._loop.end()
        self._loop.join(EVERY_S)

    def _clean(self, text: str) -> str:
        forms = [form for each in self._secrets.values() for form in each]
        return discreet_text(text, secrets=forms, machines=self._machines)

    def _watch(self) -> None:
        is_ending = False
        while not is_ending:
            is_ending = self._loop.rest(EVERY_S)
            with self._lock:
                jobs, session, clockwork = list(self._followed), self._session, self._clockwork
            if not jobs or session is None:
                return
            self._look(jobs, session, clockwork)

    def _look(self, jobs: list[PrintedJob], session: ComfySession, clockwork: Clockwork) -> None:
        # Before the question: the answer to it has all that these printed.
        ended = {job for job in jobs if job.span.ended_ms is not None}
        try:
            entries = session.client.printed()
        except ComfyUnavailable:
            for job in ended:
                job.vain += 1
            self._let_go({job for job in ended if job.vain >= MOST_VAIN})
            return
        if entries is None:
            # A server without that route.
            self._let_go(set(jobs))
            return
        pieces = []
        for job, writes in zip(jobs, shares(clockwork.news(entries), [job.span for job in jobs]), strict=True):
            lines = job.lines.take(writes)
            if job in ended:
                lines += job.lines.rest()
            piece = job.piece(lines, is_last=job in ended, limit_bytes=self._limit_bytes)
            if piece is not None:
                pieces.append(piece)
        self._let_go(ended)
        if pieces:
            self._write(pieces)

    def _write(self, pieces: list[PrintedPiece]) -> None:
        try:
            numbers = self._runtime.ledger.job_logs.add(pieces)
        except LedgerUnavailable as exc:
            # A hole in it is better than a heap in memory.
            log.info("what %d jobs printed was not written: %s", len(pieces), exc)
            return
        for job_id, number in numbers.items():
            # A hint without a word of it: no text of a job is in the broker.
            self._runtime.notices.send(Notice(job_id=job_id, kind="log", data={"number": number}))

    def _let_go(self, jobs: set[PrintedJob]) -> None:
        with self._lock:
            self._followed = [job for job in self._followed if job not in jobs]


def _size(line: str) -> int:
    return len(line.encode()) + 1
