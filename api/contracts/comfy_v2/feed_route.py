"""All jobs' news as one stream of server-sent events, for pages that show many."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from flask import Blueprint, Response, stream_with_context

from api.contracts.comfy_v2.events import KEEPALIVE, KEEPALIVE_S, event_stream_response, frame
from api.contracts.comfy_v2.views import list_item
from api.http.caller import caller, links_for
from api.schema.described import JOBS, Described
from api.service.feed import Feed, Reader
from api.service.waiting import CLIENT_CHECK_S, Hub
from core.contracts.comfy_v2 import snapshot_view
from core.ledger import Ledger
from core.links import Links
from core.records.progress import Progress
from core.settings import Settings


def feed_blueprint(settings: Settings, ledger: Ledger, hub: Hub) -> Blueprint:
    """Return the route of the stream."""
    blueprint = Blueprint("feed", __name__, url_prefix="/api/v2")
    feed = Feed(hub, ledger.jobs.many, partial(ledger.jobs.page))

    @blueprint.get("/events")
    @Described(
        summary="Server-sent events of all jobs",
        tag=JOBS,
        scope="read",
        answers={200: "text/event-stream"},
        text="Events `job` (an item of the list of jobs, when it is new or its status is), `progress` (with its `id`) "
        "and `missed` (more has happened than is told: read the list again), about twice a second at most. It begins "
        "with what happens from then on, and ends with nobody's job. An extension.",
    )
    def events() -> Response:
        frames = _frames(feed, caller().sees, links_for(settings, ledger))
        # What a job's view shows depends on who asks.
        return event_stream_response(stream_with_context(frames))

    return blueprint


def _frames(feed: Feed, of: str, links: Links) -> Iterator[str]:
    with feed.reading(of) as reader:
        # So that a client knows that it is heard, and a proxy that there is an answer.
        yield KEEPALIVE
        spoke_at_s = time.monotonic()
        while True:
            if not reader.event.wait(CLIENT_CHECK_S):
                if time.monotonic() - spoke_at_s >= KEEPALIVE_S:
                    spoke_at_s = time.monotonic()
                    yield KEEPALIVE
                continue
            yield from _news(reader, links)
            spoke_at_s = time.monotonic()


def _news(reader: Reader, links: Links) -> Iterator[str]:
    jobs, progress, has_missed = reader.take()
    if has_missed:
        yield frame("missed", {})
    for job in jobs:
        yield frame("job", list_item(job, links))
    for job_id, snapshot in progress.items():
        yield frame("progress", {"id": job_id, **snapshot_view(Progress.from_json(dict(snapshot)))})
