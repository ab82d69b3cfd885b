"""`GET /metrics` on the API's own port: for operators' keys, or for everybody where nobody needs a key."""

from __future__ import annotations

from flask import Blueprint, Response

from api.schema.described import SERVER, Described
from api.server.metrics.scrape import Scraper
from api.server.metrics.text_format import CONTENT_TYPE


def metrics_blueprint(scraper: Scraper) -> Blueprint:
    """Return the blueprint of `/metrics`."""
    blueprint = Blueprint("metrics", __name__)

    @blueprint.get("/metrics")
    @Described(
        summary="Metrics of the whole fleet",
        tag=SERVER,
        scope="operate",
        answers={200: "text/plain"},
        text="In Prometheus' text format. Scrape one address of the fleet, not each process: each of them tells of "
        "all. COMFYLINE_METRICS_PORT serves the same without a key.",
    )
    def metrics() -> Response:
        return Response(scraper.answer(), content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})

    return blueprint
