"""The leases one GPU worker holds, renewed by one thread; it also learns here that a job is to stop."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable

from comfy.prompts.session import PromptHandle
from core.background import Loop, failure_of
from core.errors import ComfyUnavailable, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.records.job import CANCELING, Status

log = logging.getLogger(__name__)


class Lease:
    """One claim, and the prompt to interrupt when it is lost or cancelled."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self._handle: PromptHandle | None = None
        #: What to do where there is no prompt to interrupt yet; must not take long.
        self.on_early_stop: Callable[[], None] | None = None
        self._must_stop = False
        self._lock = threading.Lock()

    @property
    def is_posted(self) -> bool:
        """Whether there is a prompt to interrupt."""
        return self._handle is not None

    def watch(self, handle: PromptHandle) -> None:
        """Note the prompt that was posted: from now on it can be interrupted."""
        with self._lock:
            self._handle = handle
            must_stop = self._must_stop
        if must_stop:
            self.stop()

    def stop(self) -> None:
        """Interrupt the prompt, now or as soon as it is posted. May be called again: an interrupt can be missed."""
        with self._lock:
            self._must_stop = True
            handle = self._handle
        if handle is None:
            if self.on_early_stop is not None:
                self.on_early_stop()
            return
        try:
            handle.interrupt()
        except ComfyUnavailable:
            log.info("job %s: interrupt failed, the instance is away", self.claim.job_id)


class Leases:
    """Every claim of this process. Renewal goes on whatever the prompts are doing."""

    def __init__(self, ledger: Ledger, *, renew_s: float) -> None:
        self._ledger = ledger
        self._held: dict[tuple[str, int], Lease] = {}
        self._lock = threading.Lock()
        self._loop = Loop("leases", self.renew, pause_s=renew_s)
        self._loop.start()

    def hold(self, claim: Claim) -> Lease:
        """Renew a claim from now on."""
        lease = Lease(claim)
        with self._lock:
            self._held[claim.job_id, claim.attempt] = lease
        return lease

    def drop(self, claim: Claim) -> None:
        """Renew it no more: it has ended."""
        with self._lock:
            self._held.pop((claim.job_id, claim.attempt), None)

    def is_held(self, claim: Claim) -> bool:
        """Renew one claim now; return whether it is still ours and its job goes on, as far as the ledger can tell."""
        try:
            status = self._ledger.claims.renew([claim]).get(claim.job_id)
        except LedgerUnavailable:
            return True
        return status is not None and status != CANCELING

    def recall(self, prompt_id: str) -> None:
        """Look now whether a job is to be cancelled, if its prompt is not posted yet: else it is interrupted anyhow."""
        with self._lock:
            is_waiting = any(held.claim.prompt_id == prompt_id and not held.is_posted for held in self._held.values())
        if is_waiting:
            self._loop.wake()

    def close(self) -> None:
        """End the thread; what is still held lapses."""
        self._loop.end()

    def renew(self) -> None:
        """Renew all that is held, once. A prompt whose lease was lost, or whose job is to be cancelled, is stopped."""
        with self._lock:
            leases = list(self._held.values())
        if not leases:
            return
        try:
            held = self._ledger.claims.renew([lease.claim for lease in leases])
        except LedgerUnavailable as exc:
            # The job goes on: should the lease lapse meanwhile, its result will be refused, and nothing is lost.
            log.warning("leases not renewed: %s", exc)
            return
        for lease in leases:
            # One that raises must not keep the others from being stopped.
            failure_of(functools.partial(_heed, lease, held.get(lease.claim.job_id)), "leases")


def _heed(lease: Lease, status: Status | None) -> None:
    """Do what the status of its job asks for; None: the job is another's."""
    if status is None:
        log.warning("job %s attempt %s was taken from us", lease.claim.job_id, lease.claim.attempt)
    if status is None or status == CANCELING:
        lease.stop()
