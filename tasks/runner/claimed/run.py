"""One claimed attempt in a runner's hands, from its claim to its end."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from comfy.prompts.session import ComfySession, PromptHandle, PromptResult
from core.errors import ComfyUnavailable
from core.ledger.claims import Claim
from core.records.instance import InstanceRecord
from core.records.usage import NO_TIME, GpuTime
from core.trace_context import HEADER
from core.tracing import spans
from core.tracing.spans import Span
from tasks.runner.attempt_end import AttemptEnd, Failed, Finished
from tasks.runner.leases import Lease
from tasks.runner.printing.follower import PrintedJob, PrintFollower
from tasks.runner.reporter import ProgressReporter
from tasks.runner.run_times import Durations, gpu_time_of, worked_ms
from workflows.graphs.graph import Graph

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Run:
    """One claimed attempt: its input files are fetched, its prompt is posted, begins, ends, and is recorded."""

    claim: Claim
    instance: InstanceRecord
    handle: PromptHandle | None = None
    #: Claimed ahead of time: the instance was at work with another.
    was_on_deck: bool = False
    #: What its duration is remembered under.
    shape: str = ""
    claimed_s: float = 0.0
    #: Its input files are on their way, since when; None: there is nothing to be fetched any more.
    fetched_since_s: float | None = None
    #: Its prompt may be posted, as soon as ComfyUI has none that waits.
    is_ready: bool = False
    #: Its prompt is posted, or about to be.
    is_posted: bool = False
    #: It has ended before it was posted.
    is_over: bool = False
    posted_s: float = 0.0
    #: The same by the clock, in milliseconds since 1970.
    posting_ms: float = 0.0
    started_s: float | None = None
    #: When ComfyUI was done with its prompt, and how long it worked on it by its own clock; None: it did not say.
    ended_s: float | None = None
    told_ms: int | None = None
    #: The graph as it was submitted.
    given: Graph = field(default_factory=dict)
    #: The graph as it was posted, and how long ComfyUI worked on it; None unless it ran whole and uncached.
    graph: Graph = field(default_factory=dict)
    gpu_s: float | None = None
    #: What the prompt is followed with, should it have to be posted a second time.
    session: ComfySession | None = None
    lease: Lease | None = None
    reports: ProgressReporter | None = None
    #: The next prompt could write over its files before they are secured: nothing is queued behind it.
    names_own_files: bool = False
    #: Set once its files are where no later prompt reaches them.
    collected: threading.Event = field(default_factory=threading.Event)
    #: Its time on the GPU, from the post of its prompt, and what ComfyUI prints meanwhile.
    span: Span | None = None
    printed: PrintedJob | None = None
    #: Pictures that came over the websocket instead of being saved.
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    #: A Celery task waits for it and will move its chain on.
    is_attended: bool = False
    future: Future[AttemptEnd] = field(default_factory=Future)

    def wait(self, timeout_s: float) -> PromptResult:
        """Block until ComfyUI has finished the prompt."""
        assert self.handle is not None
        # What ComfyUI says of a second prompt is not all that the attempt had of the GPU.
        is_first = self.ended_s is None
        self.ended_s = self.told_ms = None
        try:
            result = self.handle.wait(timeout_s=timeout_s)
        finally:
            self.ended_s = time.monotonic()
            if self.printed is not None:
                self.printed.end()
        if is_first:
            self.told_ms = worked_ms(result)
        return result

    def trace_headers(self) -> dict[str, str]:
        """Begin its time on the GPU, and return the headers of the post of its prompt."""
        claim, self.posting_ms = self.claim, time.time() * 1000
        if self.span is None:
            told: dict[str, Any] = {"job_id": claim.job_id, "attempt": claim.attempt, "tenant": claim.tenant}
            told |= {"instance": self.instance.name, "template": claim.template}
            self.span = spans.begin("run", claim.traceparent, **told)
        return {} if self.span.traceparent is None else {HEADER: self.span.traceparent}

    def follow_prints(self, prints: PrintFollower, *, secret: str | None) -> None:
        """Follow what ComfyUI prints from the post of its prompt on; not of one that is posted a second time."""
        if self.printed is None and self.session is not None and self.handle is not None:
            posted_ms = self.posting_ms
            self.printed = prints.follow(self.claim, self.session, self.handle, posted_ms=posted_ms, secret=secret)

    def teach(self, durations: Durations, end: AttemptEnd, *, now_s: float) -> None:
        """Have it learned how long it ran, until now."""
        if isinstance(end, Finished) and self.started_s is not None:
            durations.learn(self.shape, now_s - self.started_s)

    def finish(self, end: AttemptEnd) -> None:
        """Tell whoever waits how it ended."""
        self.future.set_result(end)
        if self.span is not None:
            error = end.error.code if isinstance(end, Failed) else None if isinstance(end, Finished) else end.status
            self.span.end(error=error)

    def gpu_time(self) -> GpuTime | None:
        """Return how long it has had the GPU so far; None: it began, and nobody here saw when."""
        if self.handle is None or not self.handle.started.is_set():
            return NO_TIME
        if self.told_ms is not None:
            total_ms = self.told_ms
        elif self.started_s is not None:
            until_s = time.monotonic() if self.ended_s is None else self.ended_s
            total_ms = round((until_s - self.started_s) * 1000)
        else:
            return None
        return gpu_time_of(total_ms, self.graph, self.handle.node_seconds)

    def interrupt_quietly(self) -> None:
        """Ask ComfyUI to stop the prompt; that it does not answer is noted and no more."""
        try:
            if self.handle is not None:
                self.handle.interrupt()
        except ComfyUnavailable:
            log.info("interrupting %s failed: the instance is away", self.claim.job_id)
