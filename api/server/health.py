"""Is this process alive, and can the fleet take and run jobs?"""

from __future__ import annotations

from typing import Literal

from flask import Blueprint, Response
from typing_extensions import TypedDict

from api.http.auth import Guard
from api.http.cached import CachedValue
from api.http.errors import json_response
from api.schema.described import SERVER, Described
from api.server.readiness import ReadinessView, readiness
from core.ledger import Ledger
from core.settings import Settings
from core.storage.marker import StorageMarker

#: Supervisors ask often; nothing behind us is asked more often than this.
MAX_AGE_S = 1.0


class HealthView(TypedDict):
    status: Literal["healthy"]


def health_blueprint(settings: Settings, ledger: Ledger, guard: Guard, marker: StorageMarker) -> Blueprint:
    """Return the blueprint of `/health`, `/api/v2/health` and `/ready`."""
    blueprint = Blueprint("health", __name__)
    state = CachedValue(lambda: readiness(settings, ledger, marker), max_age_s=MAX_AGE_S)

    @blueprint.get("/health")
    @blueprint.get("/api/v2/health")
    @Described(summary="Whether this process answers", tag=SERVER, scope="any", answers={200: HealthView})
    def health() -> Response:
        view: HealthView = {"status": "healthy"}
        return json_response(view)

    @blueprint.get("/ready")
    @Described(
        summary="Whether jobs can run",
        tag=SERVER,
        scope="any",
        answers={200: ReadinessView, 503: ReadinessView},
        text="With an operator's key (scope operate or admin), or without keys, every instance is listed.",
    )
    def ready() -> Response:
        body = state.get()
        status = 200 if body["ready"] else 503
        headers = None if body["ready"] else {"Retry-After": "2"}
        # All others learn whether, not what: instance and host names are the operator's.
        view: ReadinessView = body if guard.is_operator() else {"ready": body["ready"]}
        return json_response(view, status, headers)

    return blueprint
