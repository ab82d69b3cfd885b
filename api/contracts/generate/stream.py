"""`/generate/stream` over HTTP: one request whose answer tells the job's life, and ends with its result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response

from api.contracts.comfy_v2.events import (
    FAR_PLACE_S,
    KEEPALIVE,
    KEEPALIVE_S,
    MOVING,
    PLACE_S,
    REREAD_S,
    event_stream_response,
    frame,
)
from api.contracts.generate.request import parse_generate
from api.contracts.generate.results import (
    FinalEventView,
    StatusView,
    StreamEventView,
    full_result,
    queue_position,
    queue_sizes,
)
from api.contracts.generate.routes import HEADERS, outlives_its_client, submitted
from api.http.caller import caller, hang_up_check, links_for
from api.http.error_shapes import GENERATE_FAMILY, ContractBlueprint
from api.http.json_body import read_json
from api.http.time_limits import ledger_time_limit
from api.schema.bodies import GenerateBody
from api.schema.described import GENERATE, SUBMIT_ERRORS, Described
from api.service.estimates import Estimates, Place
from api.service.jobs import JobService
from api.service.waiting import CLIENT_CHECK_S, Hub, Watch
from core.clock import now_ms
from core.contracts.comfy_v2 import progress_view, timestamp
from core.contracts.generate import generate_result
from core.errors import LedgerUnavailable, NotFound, RequestIdReuse
from core.ledger import Ledger
from core.links import Links
from core.records.access import ALL_TENANTS
from core.records.job import QUEUED, Job
from core.settings import Settings
from workflows.templates.library import Library

log = logging.getLogger(__name__)

#: Shortest pause between two events, unless the second one is the last.
PAUSE_S = 0.5


def generate_stream_blueprint(
    settings: Settings, ledger: Ledger, service: JobService, hub: Hub, library: Library, estimates: Estimates
) -> Blueprint:
    """Return the blueprint of the streaming route of the `/generate` contract."""
    blueprint = ContractBlueprint("generate_stream", __name__, errors=GENERATE_FAMILY)

    @blueprint.post("/generate/stream")
    @Described(
        summary="Submit a request and follow it to its end",
        tag=GENERATE,
        body=GenerateBody,
        is_enveloped=True,
        scope="submit",
        answers={200: "text/event-stream"},
        errors=(*SUBMIT_ERRORS, RequestIdReuse),
        parameters=HEADERS,
        text="Events without a name, the result last. "
        "A client that hangs up cancels its job, unless the job has a webhook or a bucket.",
    )
    def generate_stream() -> Response:
        links = links_for(settings, ledger)
        parsed = parse_generate(read_json(settings), settings, links.base_url, library, service.check.documents)
        job, wanted = submitted(service, parsed)
        stream = GenerateStream(
            hub,
            job,
            estimates=estimates,
            links=links,
            is_gone=hang_up_check(),
            result_of=lambda ended: full_result(ended, settings, links, wanted),
            hang_up=service.hang_up,
            outlives_client=outlives_its_client(job, settings),
            sees=caller().sees,
        )
        return event_stream_response(stream.frames())

    return blueprint


class GenerateStream:
    """The events of one client.

    Parameters:
      job: as it was submitted.
      is_gone: whether the client has hung up.
      result_of: what `GET /result` answers for an ended job.
      hang_up: says that a caller of the job is gone.
      outlives_client: that is not said.
      sees: the tenant whose jobs are counted, for this client.
    """

    def __init__(
        self,
        hub: Hub,
        job: Job,
        *,
        estimates: Estimates,
        links: Links,
        is_gone: Callable[[], bool],
        result_of: Callable[[Job], StatusView],
        hang_up: Callable[[str], Job],
        outlives_client: bool,
        sees: str = ALL_TENANTS,
    ) -> None:
        self._hub = hub
        self._job = job
        self._estimates = estimates
        self._links = links
        self._is_gone = is_gone
        self._result_of = result_of
        self._hang_up = hang_up
        self._outlives_client = outlives_client
        self._sees = sees
        self._begun_s = time.monotonic()
        self._read_at_s = 0.0
        # What happened between the submission and our standing in line is in the ledger.
        self._is_behind = True
        self._place: Place | None = None
        self._placed_at_s = 0.0
        # The queue has, or may have, moved since we looked.
        self._has_moved = True

    def frames(self) -> Iterator[str]:
        """Yield an event at once, one at each change, the result last. A client that leaves takes its job with it."""
        try:
            with self._hub.watch(self._job.id, live=True) as watch:
                yield from self._until_end(watch)
        finally:
            # Also when the server stops, but then the client is still there, and its job goes on.
            if not self._job.is_terminal and not self._outlives_client and self._is_gone():
                self._give_up()

    def _until_end(self, watch: Watch) -> Iterator[str]:
        shown: tuple[Any, ...] = ()
        spoke_at_s = float("-inf")
        while not watch.is_gone:
            # Before its place is read: what moves from then on is heard.
            watch.is_in_line = self._job.status == QUEUED
            self._look(watch)
            if self._job.is_terminal:
                yield self._final()
                return
            now_s = time.monotonic()
            news = self._news()
            if news != shown and now_s - spoke_at_s >= PAUSE_S:
                shown, spoke_at_s = news, now_s
                yield self._event()
            elif now_s - spoke_at_s >= KEEPALIVE_S - CLIENT_CHECK_S:
                spoke_at_s = now_s
                yield KEEPALIVE
            is_held_back = news != shown
            woken = watch.wait(max(0.0, spoke_at_s + PAUSE_S - now_s) if is_held_back else CLIENT_CHECK_S)
            self._has_moved = self._has_moved or woken
            if self._is_gone():
                return

    def _look(self, watch: Watch) -> None:
        """Bring the job and its place up to date, as far as the ledger answers."""
        now_s = time.monotonic()
        progress = watch.take_progress()
        if progress is not None and self._job.status in MOVING:
            self._read_at_s = now_s
            self._job = replace(self._job, progress=progress)
        is_quiet = self._job.status in MOVING and now_s - self._read_at_s >= REREAD_S
        try:
            if self._is_behind or is_quiet or watch.seq > self._job.last_seq:
                self._is_behind = True
                self._job = self._hub.look(self._job.id)
                self._is_behind, self._read_at_s = False, now_s
            self._look_up_place(now_s)
        except LedgerUnavailable as exc:
            log.debug("a stream will look again: %s", exc)
        except NotFound:
            watch.tell_gone()

    def _look_up_place(self, now_s: float) -> None:
        if self._job.status != QUEUED:
            self._place = None
            return
        is_far = self._place is not None and self._place.is_far
        age_s = now_s - self._placed_at_s
        # Notices of moves may be lost, so it is looked up now and then without one.
        is_due = age_s >= (FAR_PLACE_S if is_far else PLACE_S) and (self._has_moved or age_s >= REREAD_S)
        if self._place is None or is_due:
            self._placed_at_s, self._has_moved = now_s, False
            self._place = self._estimates.place(self._job)

    def _news(self) -> tuple[Any, ...]:
        """What an event is worth sending for."""
        place = self._place
        why = None if place is None else (place.position, place.reason.code, place.reason.gpu)
        return (self._job.status, why, self._job.progress, len(self._job.outputs))

    def _event(self) -> str:
        job = self._job
        result = generate_result(job, links=self._links)
        sizes = self._sizes()
        data: StreamEventView = {
            "request_id": result["id"],
            "status": result["status"],
            "message": result["message"],
            "timestamp": timestamp(now_ms()),
            "elapsed_time": self._elapsed_s(),
            "queue_info": queue_sizes(sizes),
            "queue_position": queue_position(job, self._place, sizes.get(job.status, 0)),
            "output_count": len(job.outputs),
            "progress": progress_view(job),
        }
        return frame(None, data)

    def _sizes(self) -> dict[str, int]:
        try:
            with ledger_time_limit():
                return self._estimates.sizes(self._job, of=self._sees)
        except LedgerUnavailable:
            return {}

    def _final(self) -> str:
        result = self._result_of(self._job)
        data: FinalEventView = {
            "request_id": result["id"],
            "status": "final_result",
            "result": result,
            "elapsed_time": self._elapsed_s(),
        }
        return frame(None, data)

    def _elapsed_s(self) -> float:
        return round(time.monotonic() - self._begun_s, 3)

    def _give_up(self) -> None:
        try:
            self._hang_up(self._job.id)
        except (LedgerUnavailable, NotFound) as exc:
            log.info("job %s was not cancelled although its client is gone: %s", self._job.id, exc)
