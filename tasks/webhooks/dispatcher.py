"""Sends what the outbox holds, from one io worker: many posts at once, so that no receiver has to wait for another.

One thread does all the work on the ledger: it looks for what is due, takes it, and records how it went. Each post has a
thread to itself that waits for its receiver. What is not taken yet is only a note in memory: when the process ends it
is still due in the ledger.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from core.background import Loop, failure_of
from core.clock import now_ms
from core.errors import ComfylineError, LedgerUnavailable, SecretUnreadable, TransientError
from core.ledger import Ledger
from core.ledger.secrets import ADDRESS, WEBHOOK
from core.ledger.webhooks.outbox import Due, Post, TryResult
from core.outbound import Policy
from core.records.webhook_target import ENVIRONMENT
from core.settings import Settings
from core.trace_context import HEADER as TRACE_HEADER
from core.trace_context import trace_id_of
from core.tracing import spans
from core.webhooks.keys import headers_of, secrets_for
from core.webhooks.signing import headers_for, load_signing_key
from core.webhooks.urls import has_sealed_query, whole_url
from tasks.webhooks.posting import ConnectionThread, ConnectionThreads, send
from tasks.webhooks.receivers import ReceiverLimits

log = logging.getLogger(__name__)

Item = TypeVar("Item")

#: Deliveries that one look at the ledger brings, and that may wait in memory.
BATCH = 256
MAX_WAITING = 20_000
#: Seconds between two looks while there is more than one look brings.
LOOK_EVERY_S = 0.05
#: The ledger is tried again after this.
RETRY_S = 1.0
#: Posts under way get so long to end when the process stops. Those that do not are due again later, as after a crash.
GOODBYE_S = 5.0
#: The next post of a batch begins within this after the batch was taken, or is given back.
BATCH_TIME_S = 0.1
#: From here on an answer says that the receiver is not well.
SERVER_ERROR, TOO_MANY = 500, 429


@dataclass(frozen=True, kw_only=True)
class _Result:
    """What became of a post."""

    due: Due
    post: Post
    #: What came with its job to sign with, or why it cannot be read.
    secrets: dict[str, Any] | SecretUnreadable = field(repr=False)
    #: None: it was not made.
    outcome: TryResult | None = None
    #: As in `ReceiverLimits.end`.
    is_well: bool | None = None


@dataclass(frozen=True, kw_only=True)
class _Report:
    """A batch is done."""

    thread: ConnectionThread
    results: list[_Result]
    #: Whether the thread can go on with other work.
    is_free: bool


class WebhookDispatcher:
    """One process's sending of webhooks. Starts its threads at the first call."""

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._private_key = load_signing_key(settings.webhook_signing_key.get_secret_value())
        self._receivers = ReceiverLimits(per_host=settings.webhook_per_host, break_s=settings.webhook_break_s)
        #: Ids of jobs that have something to send, reports of threads, those that are idle, and None: stop.
        self._inbox: queue.SimpleQueue[str | _Report | ConnectionThread | None] = queue.SimpleQueue()
        self._threads = ConnectionThreads(self._inbox.put)
        self._loop = Loop("dispatcher", self._work, last=self._threads.close)
        # The rest belongs to its thread.
        self._called: set[str] = set()
        self._results: list[tuple[Post, TryResult]] = []
        self._unsent: list[Post] = []
        self._closed: set[str] = set()
        self._has_more = False
        #: Receivers that the last look left out.
        self._skipped: set[str] = set()
        self._looked_s = 0.0
        self._stops_at_s: float | None = None

    def call(self, job_id: str) -> None:
        """Note that this job, and maybe others, have something to send; return at once."""
        self._loop.start()
        self._inbox.put(job_id)

    def close(self) -> None:
        """Begin no more posts, and wait a moment for those under way."""
        self._inbox.put(None)
        self._loop.join(2 * GOODBYE_S)

    def _work(self) -> None:
        if self._is_over():
            self._loop.end()
            return
        self._collect()
        try:
            self._record()
            self._put_off()
            if self._stops_at_s is None:
                self._look()
                self._begin()
        except LedgerUnavailable as exc:
            log.warning("webhooks wait for the ledger: %s", exc)
            # What could not be taken is not in memory any more.
            self._has_more = True
            self._loop.rest(RETRY_S)
        except BaseException:
            # What this was about is not in memory any more, but in the ledger it is still due.
            self._has_more = True
            raise

    def _is_over(self) -> bool:
        if self._stops_at_s is None:
            return False
        is_done = not (self._receivers.under_way or self._results or self._unsent)
        return is_done or time.monotonic() >= self._stops_at_s

    def _collect(self) -> None:
        """Wait for news, and take all there are."""
        may_have_more = self._may_have_more(self._receivers.occupied())
        is_idle = not (
            self._results or self._unsent or self._closed or self._called or self._stops_at_s or may_have_more
        )
        with contextlib.suppress(queue.Empty):
            self._note(self._inbox.get(timeout=None if is_idle else LOOK_EVERY_S))
            while True:
                self._note(self._inbox.get_nowait())

    def _note(self, news: str | _Report | ConnectionThread | None) -> None:
        if news is None:
            self._stops_at_s = time.monotonic() + GOODBYE_S
        elif isinstance(news, str):
            self._called.add(news)
        elif isinstance(news, ConnectionThread):
            self._threads.release(news)
        else:
            self._note_report(news)

    def _note_report(self, report: _Report) -> None:
        if report.is_free:
            self._threads.rest(report.thread)
        else:
            self._threads.dismiss(report.thread)
        for result in report.results:
            self._note_end(result)

    def _note_end(self, result: _Result) -> None:
        if result.outcome is None:
            self._unsent.append(result.post)
        else:
            self._results.append((result.post, result.outcome))
            if result.outcome.error is not None:
                name, tries = f"{result.post.id} of job {result.post.job_id}", result.post.tries
                log.warning("webhook %s, try %d: %s", name, tries, result.outcome.error, extra=_fields(result.post))
        if self._receivers.end(result.due, is_answered=result.is_well, now_s=time.monotonic()):
            self._closed.add(result.due.receiver)

    def _record(self) -> None:
        """Tell the ledger what became of posts."""
        _write(self._ledger.outbox.record, self._results)
        if self._unsent:
            _write(self._ledger.outbox.give_back, self._unsent)
            self._has_more = True

    def _put_off(self) -> None:
        """Put off posts to receivers that are left alone: they wait in the ledger, where they block no others."""
        while self._closed:
            # Taken out before anything can go wrong with it, and put back only if the ledger is away.
            receiver = self._closed.pop()
            self._receivers.clear(receiver)
            left_s = self._receivers.closed_for_s(receiver, time.monotonic())
            if not left_s:
                continue
            try:
                count = self._ledger.outbox.put_off(receiver, until_ms=now_ms() + round(left_s * 1000))
            except LedgerUnavailable:
                self._closed.add(receiver)
                raise
            log.warning("webhooks to %s fail; %d more wait for %.0f s", receiver, count, left_s)

    def _look(self) -> None:
        """Bring what is due from the ledger: of the jobs that called, and whatever else there is."""
        occupied = self._receivers.occupied()
        if not self._called and not self._may_have_more(occupied):
            return
        # Taken over before anything can go wrong with it, and called again only if the ledger is away.
        called, self._called = self._called, set()
        try:
            self._look_for(called, occupied)
        except LedgerUnavailable:
            self._called |= called
            raise

    def _look_for(self, called: set[str], occupied: Collection[str]) -> None:
        outbox = self._ledger.outbox
        if time.monotonic() - self._looked_s >= LOOK_EVERY_S and self._receivers.waiting < MAX_WAITING:
            self._looked_s = time.monotonic()
            # Receivers that something waits for have their share already.
            found = outbox.due(limit=BATCH, except_for=occupied)
            self._has_more, self._skipped = len(found) == BATCH, set(occupied)
            self._add(found)
        if 0 < len(called) <= BATCH:
            self._add(outbox.due(job_ids=called, limit=BATCH))
        self._has_more |= len(called) > BATCH

    def _may_have_more(self, occupied: Iterable[str]) -> bool:
        """Whether the ledger may hold more than was brought: the last look was full, or skipped who is now free."""
        return self._has_more or bool(self._skipped.difference(occupied))

    def _add(self, found: Iterable[Due]) -> None:
        now_s = time.monotonic()
        for due in found:
            if self._receivers.closed_for_s(due.receiver, now_s):
                self._closed.add(due.receiver)
            else:
                self._receivers.add(due)

    def _begin(self) -> None:
        batches = self._receivers.begin(time.monotonic())
        if not batches:
            return
        taken: dict[str, Post] = {}
        until_s = time.monotonic() + BATCH_TIME_S
        dues = [due for batch in batches for due in batch]
        try:
            opened = self._opened(dues)
            taken = {post.id: post for post in self._ledger.outbox.take([due.id for due in dues])}
        finally:
            for due in [due for due in dues if due.id not in taken]:
                # Somebody else has it, or the ledger is away: either way it is not ours now.
                self._receivers.end(due, is_answered=None, now_s=time.monotonic())
        for batch in batches:
            ours = [
                _Result(due=due, post=taken[due.id], secrets=opened[due.batch or due.job_id])
                for due in batch
                if due.id in taken
            ]
            # A thread that cannot be started must not leave its receiver occupied for ever.
            if ours and failure_of(functools.partial(self._start, ours, until_s), "dispatcher") is not None:
                for unsent in ours:
                    self._note_end(unsent)

    def _opened(self, dues: Collection[Due]) -> dict[str, dict[str, Any] | SecretUnreadable]:
        """Return what signs and addresses deliveries, by the ids of their jobs and batches."""
        opened = self._ledger.secrets.open_all({due.job_id for due in dues if due.batch is None}, WEBHOOK, ADDRESS)
        batches = {due.batch for due in dues if due.batch is not None}
        return {**opened, **self._ledger.batch_work.webhook_secrets(batches)} if batches else opened

    def _start(self, batch: list[_Result], until_s: float) -> None:
        thread = self._threads.acquire(batch[0].due.receiver)
        thread.carry(functools.partial(self._deliver, batch, thread, until_s))

    def _deliver(self, batch: list[_Result], thread: ConnectionThread, until_s: float) -> None:
        """Send the posts of a batch, in the thread of their connection.

        Parameters:
          batch: becomes what is reported; posts that come too late stay unsent in it.
        """
        is_free = False
        try:
            for position, unsent in enumerate(batch):
                batch[position] = replace(unsent, outcome=_unsent("not sent: internal error"))
                batch[position] = tried = self._tried(unsent, thread)
                if not tried.is_well or self._stops_at_s is not None or time.monotonic() >= until_s:
                    break
            is_free = True
        finally:
            self._inbox.put(_Report(thread=thread, results=batch, is_free=is_free))

    def _tried(self, unsent: _Result, thread: ConnectionThread) -> _Result:
        settings = self._settings
        try:
            post = replace(unsent.post, url=_address(unsent))
            headers = self._headers(unsent)
            connection = thread.connection(Policy.for_webhook(post.url, settings))
            told: dict[str, Any] = {"job_id": post.job_id, "tenant": post.tenant, "event": post.event}
            told["try"] = post.tries
            span = spans.begin("webhook", post.traceparent, **told)
            if span.traceparent is not None:
                headers = {**headers, TRACE_HEADER: span.traceparent}
            outcome = send(post, headers, connection, limit_s=min(post.timeout_s, settings.webhook_limit_s))
            # In words it may name places of the receiver's.
            is_lost = outcome.error is not None
            span.end(error="not_delivered" if is_lost else None, status_code=outcome.status_code)
        except ComfylineError as exc:
            return replace(unsent, outcome=_unsent(exc.message, is_final=not isinstance(exc, TransientError)))
        return replace(unsent, outcome=outcome, is_well=_is_well(outcome))

    def _headers(self, unsent: _Result) -> dict[str, str]:
        post, sealed = unsent.post, unsent.secrets
        if post.webhook.origin == ENVIRONMENT:
            sealed = {}
        if isinstance(sealed, SecretUnreadable):
            raise sealed
        signed = headers_for(
            post.body.encode(),
            message_id=post.id,
            timestamp_s=int(time.time()),
            secrets=secrets_for(post.webhook, sealed, self._settings.webhook_secret.get_secret_value()),
            contract=post.contract,
            private_key=self._private_key,
        )
        own = {"X-Webhook-Event": post.event, "X-Webhook-Sequence": str(post.seq)}
        return {**headers_of(post.webhook, sealed), **signed, **own}


def _fields(post: Post) -> dict[str, str | None]:
    return {"job_id": post.job_id, "tenant": post.tenant, "trace_id": trace_id_of(post.traceparent)}


def _address(unsent: _Result) -> str:
    """The whole URL. Raises SecretUnreadable: its query does not open."""
    shown, sealed = unsent.post.url, unsent.secrets
    if not has_sealed_query(shown):
        return shown
    if isinstance(sealed, SecretUnreadable):
        raise sealed
    return whole_url(shown, sealed)


def _write(write: Callable[[list[Item]], object], items: list[Item]) -> None:
    """Write all of this, and empty the list. One thing that cannot be written, whyever, does not keep the rest back.

    Raises: LedgerUnavailable - the list is as it was.
    """
    if not items or _is_written(write, items):
        items.clear()
    while items:
        _is_written(write, items[:1])
        del items[0]


def _is_written(write: Callable[[list[Item]], object], items: list[Item]) -> bool:
    error = failure_of(functools.partial(write, items), "webhooks")
    if isinstance(error, LedgerUnavailable):
        raise error
    return error is None


def _is_well(outcome: TryResult) -> bool:
    """Whether an outcome speaks for the receiver: a refusal of one event is an answer, silence and overload are not."""
    status_code = outcome.status_code
    return status_code is not None and status_code < SERVER_ERROR and status_code != TOO_MANY


def _unsent(error: str, *, is_final: bool = False) -> TryResult:
    return TryResult(at_ms=now_ms(), duration_ms=0, error=error, is_final=is_final)
