"""Comfy API v2 over HTTP: jobs. This blueprint only translates."""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

from api import fields
from api.body import read_json
from api.client import base_url
from api.errors import json_response
from api.patience import bounded, ledger_patience
from api.streams import EventStream
from api.submit import Order, Service, check_id
from api.views import job_view, list_item
from api.waiting import Hub
from core.errors import InvalidRequest
from core.job import Job
from core.ledger import Ledger
from core.settings import Settings

STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def v2_blueprint(settings: Settings, ledger: Ledger, service: Service, hub: Hub) -> Blueprint:
    """Routes of jobs under /api/v2."""
    blueprint = Blueprint("v2", __name__, url_prefix="/api/v2")

    @blueprint.post("/jobs")
    def submit() -> Response:
        job = service.submit(_order(settings))
        return json_response(job_view(job, base_url(settings)), 201)

    @blueprint.get("/jobs")
    @bounded
    def list_jobs() -> Response:
        return _page(settings, ledger)

    @blueprint.get("/jobs/<job_id>")
    @bounded
    def get(job_id: str) -> Response:
        job = ledger.jobs.get(check_id(job_id))
        return json_response(job_view(job, base_url(settings), queue_position=ledger.jobs.queue_position(job)))

    @blueprint.post("/jobs/<job_id>/cancel")
    def cancel(job_id: str) -> Response:
        return json_response(job_view(service.cancel(job_id), base_url(settings)))

    @blueprint.get("/jobs/<job_id>/workflow")
    @bounded
    def workflow(job_id: str) -> Response:
        graph = ledger.jobs.graph(check_id(job_id))
        # The graph is JSON text already, with every digit its client sent.
        return Response(f'{{"workflow":{graph},"format":"api"}}', content_type="application/json")

    @blueprint.get("/jobs/<job_id>/events")
    def events(job_id: str) -> Response:
        with ledger_patience():
            job = ledger.jobs.get(check_id(job_id))
        stream = EventStream(ledger, hub, job, base_url=base_url(settings), after_seq=_last_event_id())
        return Response(stream.frames(), content_type="text/event-stream", headers=STREAM_HEADERS)

    return blueprint


def _order(settings: Settings) -> Order:
    key = fields.idempotency_key(request.headers.get("Idempotency-Key"))
    body = read_json(settings)
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be an object with a workflow.")
    fields.check_reserved(body)
    return Order(workflow=body.get("workflow"), idempotency_key=key, **fields.order_fields(body))


def _page(settings: Settings, ledger: Ledger) -> Response:
    limit = fields.limit(request.args.get("limit"))
    page: list[Job] = ledger.jobs.page(
        statuses=fields.statuses(request.args.get("status")),
        labels=fields.label_filters(request.args.items(multi=True)),
        after=fields.decode_cursor(request.args.get("cursor")),
        # One more than is shown tells whether there is a next page.
        limit=limit + 1,
    )
    shown, rest = page[:limit], page[limit:]
    cursor = fields.encode_cursor(shown[-1].created_at_ms, shown[-1].id) if rest else None
    base = base_url(settings)
    return json_response(
        {"jobs": [list_item(job, base) for job in shown], "next_cursor": cursor, "truncated": False},
    )


def _last_event_id() -> int | None:
    value = request.headers.get("Last-Event-ID", "")
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value, re.ASCII) else None
