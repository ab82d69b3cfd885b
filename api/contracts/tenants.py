"""Tenants over HTTP: operators make, list and change them, and each tenant sees what it has left."""

from __future__ import annotations

from typing import Annotated

from flask import Blueprint, Response
from pydantic import Field
from typing_extensions import TypedDict

from api.http.caller import actor, caller
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.time_limits import ledger_time_limit
from api.schema.described import KEYS, Described
from api.schema.tenant_bodies import UNLIMITED_WORD, WEIGHT, TenantBody, TenantChangesBody
from api.schema.validation import read
from api.service.jobs import TurnPublisher, check_id
from api.service.tenant_use import Level, TenantUse
from core.contracts.comfy_v2 import timestamp
from core.errors import AlreadyExists, LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.records.access import ALL_TENANTS, Tenant
from core.records.tenant_limits import UNLIMITED, InUse
from core.settings import Settings


class LevelView(TypedDict):
    """How a tenant stands with one limit."""

    own: Annotated[float | str | None, Field(description='Set for it: a number, "unlimited"; null: the default.')]
    allowed: Annotated[float | None, Field(description="What holds; null: no limit.")]
    used: Annotated[float | None, Field(description="Null: not counted, for it is not limited.")]
    left: Annotated[float | None, Field(description="Null: no end of it.")]


class LevelsView(TypedDict):
    """Each limit by its name."""

    max_waiting: LevelView
    max_running: LevelView
    max_requests_per_minute: LevelView
    max_kept_bytes: LevelView
    max_gpu_s_per_day: LevelView


class TenantLimitsView(TypedDict):
    """What a tenant may have, and has."""

    tenant: str
    limits: LevelsView


class TenantView(TypedDict):
    """An owner of jobs, files and keys."""

    name: str
    weight: Annotated[float, Field(description=WEIGHT)]
    limits: LevelsView
    created_at: str


class TenantsView(TypedDict):
    tenants: list[TenantView]


def tenants_blueprint(settings: Settings, ledger: Ledger, use: TenantUse, publisher: TurnPublisher) -> Blueprint:
    """Return the routes under /api/v2/tenants, an extension for operators, and `GET /api/v2/limits`, for everybody."""
    blueprint = Blueprint("tenants", __name__, url_prefix="/api/v2")

    @blueprint.get("/tenants")
    @Described(summary="The tenants", tag=KEYS, scope="admin", answers={200: TenantsView}, errors=(LedgerUnavailable,))
    def every() -> Response:
        with ledger_time_limit():
            found = ledger.tenants.all()
        in_use = use.in_use(of=ALL_TENANTS)
        view: TenantsView = {"tenants": [_view(each, in_use.get(each.name, InUse())) for each in found]}
        return json_response(view)

    @blueprint.post("/tenants")
    @Described(
        summary="Make a tenant",
        tag=KEYS,
        scope="admin",
        body=TenantBody,
        answers={201: TenantView},
        errors=(AlreadyExists, LedgerUnavailable),
    )
    def create() -> Response:
        body = read(TenantBody, read_json(settings))
        with ledger_time_limit():
            tenant = ledger.tenants.create(body.name, weight=body.weight, limits=body.limits(), by=actor())
        return json_response(_view(tenant, InUse()), 201)

    @blueprint.patch("/tenants/<tenant>")
    @Described(
        summary="Change a tenant's share of a busy fleet, and its limits",
        tag=KEYS,
        scope="admin",
        body=TenantChangesBody,
        answers={200: TenantView},
        errors=(NotFound, LedgerUnavailable),
        text="In every API process within a second. What was taken before stays.",
    )
    def change(tenant: str) -> Response:
        body = read(TenantChangesBody, read_json(settings))
        with ledger_time_limit():
            changed = ledger.tenants.change(check_id(tenant), weight=body.weight, limits=body.changes(), by=actor())
        publisher.pass_gates()
        return json_response(_view(changed, use.in_use(of=changed.name)[changed.name]))

    @blueprint.get("/limits")
    @Described(
        summary="What your tenant may have, and has left",
        tag=KEYS,
        scope="any",
        answers={200: TenantLimitsView},
        errors=(NotFound, LedgerUnavailable),
    )
    def own() -> Response:
        with ledger_time_limit():
            tenant = ledger.tenants.get(caller().tenant)
        view: TenantLimitsView = {
            "tenant": tenant.name,
            "limits": _levels(tenant, use.in_use(of=tenant.name)[tenant.name]),
        }
        return json_response(view)

    def _view(tenant: Tenant, has: InUse) -> TenantView:
        return {
            "name": tenant.name,
            "weight": tenant.weight,
            "limits": _levels(tenant, has),
            "created_at": timestamp(tenant.created_at_ms),
        }

    def _levels(tenant: Tenant, has: InUse) -> LevelsView:
        found = use.levels(tenant.name, tenant.limits, tenant.limits.in_force(settings.tenant_limits), has)
        return {
            "max_waiting": _level(found["max_waiting"]),
            "max_running": _level(found["max_running"]),
            "max_requests_per_minute": _level(found["max_requests_per_minute"]),
            "max_kept_bytes": _level(found["max_kept_bytes"]),
            "max_gpu_s_per_day": _level(found["max_gpu_s_per_day"]),
        }

    return blueprint


def _level(level: Level) -> LevelView:
    own = UNLIMITED_WORD if level.own == UNLIMITED else level.own
    return {"own": own, "allowed": level.allowed, "used": level.used, "left": level.left}
