"""A job's life as server-sent events, told from its event log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping

from flask import Response

from api.contracts.comfy_v2.views import StatusEventView, place_view
from api.http.time_limits import ledger_time_limit
from api.service.estimates import Estimates, Place
from api.service.waiting import Hub, Watch
from core.contracts.comfy_v2 import SHOWN, ProgressView, output_view, progress_view, snapshot_view
from core.errors import LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.ledger.event_log import JobEvent
from core.links import Links
from core.records.job import DELIVERING, QUEUED, RUNNING, TERMINAL, Job, Status

#: Silence after which a comment is sent; the official SDK gives up after 45 s without a byte.
KEEPALIVE_S = 15.0
#: A running job that nobody reported on for this long is read again: notices may be lost.
REREAD_S = 5.0
#: Shortest pause between two frames of a waiting job's place; far behind, where each costs a query, and matters little.
PLACE_S = 1.0
FAR_PLACE_S = 10.0
#: A wait is told again when it differs from what was told, less the time since, by more than this and this share of it.
WAIT_NEWS_S = 1.0
WAIT_NEWS_SHARE = 0.1
#: Of what ComfyUI printed: it does not say which of it is worse.
LEVEL = "info"
#: Pause before a ledger that was away is asked again.
RETRY_S = 1.0

KEEPALIVE = ": keepalive\n\n"
#: Statuses in which there may be news of how far it is, or why it does not go on.
MOVING = (RUNNING, DELIVERING)
#: A proxy that gathered events would hold them back.
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event_stream_response(frames: Iterator[str]) -> Response:
    """Return an answer that is sent frame by frame."""
    return Response(frames, content_type="text/event-stream", headers=_HEADERS)


def frame(event: str | None, data: Mapping[str, object], seq: int | None = None) -> str:
    """Return one event of a stream, named or not. `json.dumps` escapes all but ASCII: clients split lines at U+2028."""
    head = "" if seq is None else f"id: {seq}\n"
    name = "" if event is None else f"event: {event}\n"
    return f"{head}{name}data: {json.dumps(data)}\n\n"


class EventStream:
    """The frames of one client's stream.

    Parameters:
      job: as it was when the client asked.
      after_seq: the `Last-Event-ID` of a client that comes back; None starts with a snapshot.
    """

    def __init__(
        self,
        ledger: Ledger,
        hub: Hub,
        job: Job,
        *,
        estimates: Estimates,
        links: Links,
        after_seq: int | None = None,
    ) -> None:
        self._jobs, self._printed = ledger.jobs, ledger.job_logs
        #: Up to which piece of what ComfyUI printed it is told; None: it begins with the next one.
        self._printed_to: int | None = None
        self._estimates = estimates
        self._hub = hub
        self._job = job
        self._links = links
        self._is_resumed = after_seq is not None and after_seq <= job.last_seq
        self._seq = after_seq if after_seq is not None and self._is_resumed else job.last_seq
        self._shown_status = ""
        self._shown_progress: ProgressView | None = None
        self._sent_assets: set[str] = set()
        self._shown_place: Place | None = None
        self._placed_at_s = 0.0
        # The queue has moved, too soon after the last frame to say so.
        self._is_held_back = False
        self._is_over = False
        # What happened between the caller's look and our standing in line is in the log.
        self._is_behind = True

    def frames(self) -> Iterator[str]:
        """Yield the status first, then outputs, last the terminal status. Waits for a ledger that is away."""
        with self._hub.watch(self._job.id, live=True) as watch:
            # Before the first place is read: what moves from then on is heard.
            watch.is_in_line = self._job.status == QUEUED
            yield from self._beginning()
            spoke_at_s = read_at_s = time.monotonic()
            while not self._is_over:
                for text in self._news(watch):
                    spoke_at_s = read_at_s = time.monotonic()
                    yield text
                if self._is_over:
                    return
                watch.is_in_line = self._job.status == QUEUED
                watch.wait(self._pause_s())
                now_s = time.monotonic()
                if self._job.status in MOVING and now_s - read_at_s >= REREAD_S:
                    read_at_s = now_s
                    yield from self._progress_from_ledger()
                if (moved := self._moved()) is not None:
                    spoke_at_s = now_s
                    yield moved
                if now_s - spoke_at_s >= KEEPALIVE_S - 1.0:
                    spoke_at_s = now_s
                    yield KEEPALIVE

    def _pause_s(self) -> float:
        """How long to wait for news."""
        if self._is_behind:
            return RETRY_S
        return PLACE_S if self._is_held_back else REREAD_S

    def _beginning(self) -> Iterator[str]:
        job = self._job
        if self._is_resumed and self._seq < job.last_seq:
            return
        if job.is_terminal:
            yield from self._outputs(job)
        yield self._status(job.status, job.last_seq)
        if not job.is_terminal and (progress := progress_view(job)) is not None:
            yield self._progress(progress)

    def _news(self, watch: Watch) -> Iterator[str]:
        """What the log holds beyond what was told, then the newest progress and preview."""
        if watch.is_gone:
            self._is_over = True
            return
        # Before an end, after which there is nothing.
        if (number := watch.take_printed()) is not None:
            yield from self._lines(number)
        if self._is_behind or watch.seq > self._seq:
            for event in self._log(watch):
                yield from self._event(event)
                if self._is_over:
                    return
        if (progress := watch.take_progress()) is not None:
            yield self._progress(snapshot_view(progress))
        if (preview := watch.take_preview()) is not None:
            yield frame("preview", preview)

    def _lines(self, number: int) -> Iterator[str]:
        """What ComfyUI printed up to this piece. Not from the log, so without an id."""
        after = number - 1 if self._printed_to is None else self._printed_to
        try:
            with ledger_time_limit():
                printed = self._printed.read(self._job.id, after=after, of=self._job.tenant)
        except (LedgerUnavailable, NotFound):
            # The next hint brings it as well.
            return
        self._printed_to = after if printed is None else printed.number
        for line in () if printed is None else printed.lines:
            yield frame("log", {"level": LEVEL, "message": line, "number": self._printed_to})

    def _log(self, watch: Watch) -> list[JobEvent]:
        try:
            # A thousand streams that begin together are all behind, and mostly nothing has happened.
            if self._is_behind and self._hub.look(self._job.id).last_seq <= self._seq:
                events = []
            else:
                with ledger_time_limit():
                    events = self._jobs.events(self._job.id, after_seq=self._seq)
                if events:
                    self._job = self._hub.look(self._job.id)
        except LedgerUnavailable:
            self._is_behind = True
            return []
        except NotFound:
            watch.tell_gone()
            return []
        self._is_behind = False
        return events

    def _event(self, event: JobEvent) -> Iterator[str]:
        self._seq = event.seq
        if event.type == "output":
            yield from self._outputs(self._job, only=event.data["asset_id"], seq=event.seq)
        elif event.type == "status" and SHOWN[event.data["status"]] != self._shown_status:
            yield self._status(event.data["status"], event.seq)

    def _status(self, status: Status, seq: int) -> str:
        self._shown_status = SHOWN[status]
        self._is_over = status in TERMINAL
        data: StatusEventView = {"status": SHOWN[status]}
        if (place := self._place(status)) is not None:
            self._shown_place, self._placed_at_s = place, time.monotonic()
            data = {"status": SHOWN[status], **place_view(place)}
        return frame("status", data, seq)

    def _moved(self) -> str | None:
        """The place of a job that waits, if it is news. Not from the log, so without an id."""
        if self._job.status != QUEUED or self._shown_status != QUEUED:
            return None
        shown, age_s = self._shown_place, time.monotonic() - self._placed_at_s
        is_far = shown is not None and shown.is_far
        self._is_held_back = age_s < PLACE_S
        if self._is_held_back or (is_far and age_s < FAR_PLACE_S):
            return None
        try:
            place = self._estimates.place(self._job)
        except LedgerUnavailable:
            return None
        if place is None or not _is_news(place, shown, age_s):
            return None
        self._shown_place, self._placed_at_s = place, time.monotonic()
        data: StatusEventView = {"status": SHOWN[QUEUED], **place_view(place)}
        return frame("status", data)

    def _place(self, status: Status) -> Place | None:
        if status != self._job.status:
            return None
        try:
            return self._estimates.place(self._job)
        except LedgerUnavailable:
            return None

    def _progress(self, progress: ProgressView) -> str:
        self._shown_progress = progress
        return frame("progress", progress)

    def _progress_from_ledger(self) -> Iterator[str]:
        try:
            self._job = self._hub.look(self._job.id)
        except (LedgerUnavailable, NotFound):
            return
        progress = progress_view(self._job)
        if self._job.status in MOVING and progress is not None and progress != self._shown_progress:
            yield self._progress(progress)

    def _outputs(self, job: Job, *, only: str | None = None, seq: int | None = None) -> Iterator[str]:
        for output in job.outputs:
            if output.id not in self._sent_assets and only in (None, output.id):
                self._sent_assets.add(output.id)
                yield frame("output", output_view(output, self._links, job.files_expire_at_ms), seq)


def _is_news(place: Place, shown: Place | None, age_s: float) -> bool:
    """Whether a place says more than the one that was shown so long ago: a reader counts the wait down by itself."""
    if shown is None or place.position != shown.position or _cause(place) != _cause(shown):
        return True
    if place.starts_in_s is None or shown.starts_in_s is None:
        return place.starts_in_s is not shown.starts_in_s
    expected_s = max(0.0, shown.starts_in_s - age_s)
    return abs(place.starts_in_s - expected_s) > max(WAIT_NEWS_S, WAIT_NEWS_SHARE * expected_s)


def _cause(place: Place) -> tuple[str, str | None]:
    """What it waits for, apart from how long: the sentence changes with the time alone."""
    return place.reason.code, place.reason.gpu
