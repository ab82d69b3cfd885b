"""The last hour of the fleet over HTTP, for operators' pages."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response
from pydantic import Field
from typing_extensions import TypedDict

from api.http.errors import json_response
from api.http.time_limits import bounded
from api.schema.described import SERVER, Described
from core.contracts.comfy_v2 import timestamp
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.metrics.last_hour import EVERY_MS, Sample


class SampleView(TypedDict):
    """The fleet at one moment."""

    at: Annotated[str, Field(description="When that was.", json_schema_extra={"format": "date-time"})]
    jobs_waiting: int
    jobs_running: Annotated[int, Field(description="Jobs on GPUs, those behind another one included.")]
    gpus: Annotated[int, Field(description="Healthy ones.")]
    gpus_busy: Annotated[int, Field(description="Of these, those that ran a job.")]
    wait_p95_s: Annotated[
        float | None,
        Field(
            description="How many seconds 95 of 100 jobs had waited at most that ended in the five minutes before. "
            "Null: none did."
        ),
    ]


class HistoryView(TypedDict):
    """The last hour."""

    every_s: Annotated[float, Field(description="Seconds between two samples, or a little more.")]
    samples: Annotated[list[SampleView], Field(description="The oldest first.")]


def history_blueprint(ledger: Ledger) -> Blueprint:
    """Return the route of the last hour: an extension, for operators."""
    blueprint = Blueprint("history", __name__, url_prefix="/api/v2")

    @blueprint.get("/history")
    @Described(
        summary="The last hour of the fleet in samples",
        tag=SERVER,
        scope="operate",
        answers={200: HistoryView},
        errors=(LedgerUnavailable,),
        text="Taken by the reconciler, so that there are none of a time in which it did not run. An extension.",
    )
    @bounded
    def history() -> Response:
        view: HistoryView = {"every_s": EVERY_MS / 1000, "samples": [_view(each) for each in ledger.history.read()]}
        return json_response(view)

    return blueprint


def _view(sample: Sample) -> SampleView:
    return {
        "at": timestamp(sample.at_ms),
        "jobs_waiting": sample.waiting,
        "jobs_running": sample.running,
        "gpus": sample.gpus,
        "gpus_busy": sample.busy,
        "wait_p95_s": sample.wait_p95_s,
    }
