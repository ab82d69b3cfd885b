"""One claimed attempt in a runner's hands, from its claim to its end."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from comfy.prompts.session import ComfySession, PromptHandle, PromptResult
from core.errors import ComfyUnavailable
from core.ledger.claims import Claim
from core.records.instance import InstanceRecord
from tasks.runner.attempt_end import AttemptEnd
from tasks.runner.leases import Lease
from tasks.runner.reporter import ProgressReporter
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
    started_s: float | None = None
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
    #: Pictures that came over the websocket instead of being saved.
    sent: list[tuple[str, bytes]] = field(default_factory=list)
    #: A Celery task waits for it and will move its chain on.
    is_attended: bool = False
    future: Future[AttemptEnd] = field(default_factory=Future)

    def wait(self, timeout_s: float) -> PromptResult:
        """Block until ComfyUI has finished the prompt."""
        assert self.handle is not None
        return self.handle.wait(timeout_s=timeout_s)

    def interrupt_quietly(self) -> None:
        """Ask ComfyUI to stop the prompt; that it does not answer is noted and no more."""
        try:
            if self.handle is not None:
                self.handle.interrupt()
        except ComfyUnavailable:
            log.info("interrupting %s failed: the instance is away", self.claim.job_id)
