"""Rollouts over HTTP: the fleet's processes renewed, host after host, for operators."""

from __future__ import annotations

from typing import Annotated, get_args

from flask import Blueprint, Response, request
from pydantic import Field
from typing_extensions import TypedDict

from api.http.caller import actor
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.time_limits import bounded, ledger_time_limit
from api.schema import fields
from api.schema.described import SERVER, Described, limit_of
from api.schema.rollout_bodies import RolloutBody
from api.schema.validation import read
from api.service.jobs import check_id
from core.errors import AlreadyExists, InvalidRequest, LedgerUnavailable, NotFound
from core.ledger import Ledger
from core.records.rollout import HostState, Rollout, RolloutHost, RolloutState
from core.settings import Settings

_ERRORS = (NotFound, InvalidRequest, AlreadyExists, LedgerUnavailable)


class RolloutHostView(TypedDict):
    """One host of a rollout."""

    host: str
    state: Annotated[str, Field(json_schema_extra={"enum": list(get_args(HostState))})]
    reason: Annotated[str | None, Field(description="Why it has failed, or was skipped.")]
    began_at_ms: int | None
    ended_at_ms: int | None


class RolloutView(TypedDict):
    """A rollout."""

    id: str
    kind: Annotated[str, Field(json_schema_extra={"enum": ["restart", "upgrade"]})]
    version: str | None
    state: Annotated[str, Field(json_schema_extra={"enum": list(get_args(RolloutState))})]
    reason: Annotated[str | None, Field(description="Why it was stopped.")]
    at_once: int
    timeout_s: float
    max_failures: float
    watch_s: float
    created_at_ms: int
    looked_at_ms: Annotated[int, Field(description="When an io worker went on with it last.")]
    ended_at_ms: int | None
    hosts: list[RolloutHostView]


class RolloutsView(TypedDict):
    rollouts: list[RolloutView]


def rollouts_blueprint(settings: Settings, ledger: Ledger) -> Blueprint:
    """Return the routes under /api/v2/rollouts: an extension, for operators."""
    blueprint = Blueprint("rollouts", __name__, url_prefix="/api/v2/rollouts")

    @blueprint.get("")
    @Described(
        summary="The rollouts, the newest first",
        tag=SERVER,
        scope="operate",
        answers={200: RolloutsView},
        errors=(LedgerUnavailable,),
        parameters=(limit_of("rollouts"),),
    )
    @bounded
    def every() -> Response:
        found = ledger.rollouts.newest(limit=fields.limit(request.args.get("limit")))
        view: RolloutsView = {"rollouts": [_view(each) for each in found]}
        return json_response(view)

    @blueprint.post("")
    @Described(
        summary="Renew the processes of all hosts, one host after the other",
        tag=SERVER,
        scope="operate",
        body=RolloutBody,
        answers={201: RolloutView},
        errors=(AlreadyExists, LedgerUnavailable),
        text="It is noted, and the fleet goes on with it by itself. GPUs finish their jobs first. It stops where a "
        "host does not come back healthy, or jobs fail on those that have.",
    )
    def begin() -> Response:
        body = read(RolloutBody, read_json(settings))
        with ledger_time_limit():
            return json_response(_view(ledger.rollouts.begin(**body.model_dump(), by=actor())), 201)

    @blueprint.get("/<rollout_id>")
    @Described(
        summary="One rollout",
        tag=SERVER,
        scope="operate",
        answers={200: RolloutView},
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def one(rollout_id: str) -> Response:
        return json_response(_view(ledger.rollouts.get(check_id(rollout_id))))

    @blueprint.post("/<rollout_id>/resume")
    @Described(
        summary="Go on with a rollout that was stopped or aborted",
        tag=SERVER,
        scope="operate",
        answers={200: RolloutView},
        errors=_ERRORS,
        text="Hosts that have failed get another turn.",
    )
    def resume(rollout_id: str) -> Response:
        with ledger_time_limit():
            return json_response(_view(ledger.rollouts.resume(check_id(rollout_id), by=actor())))

    @blueprint.post("/<rollout_id>/abort")
    @Described(
        summary="Abort a rollout",
        tag=SERVER,
        scope="operate",
        answers={200: RolloutView},
        errors=_ERRORS,
        text="What has been renewed stays so; GPUs that were draining take jobs again.",
    )
    def abort(rollout_id: str) -> Response:
        with ledger_time_limit():
            return json_response(_view(ledger.rollouts.abort(check_id(rollout_id), by=actor())))

    return blueprint


def _view(rollout: Rollout) -> RolloutView:
    return {
        "id": rollout.id,
        "kind": rollout.kind,
        "version": rollout.version,
        "state": rollout.state,
        "reason": rollout.reason,
        "at_once": rollout.at_once,
        "timeout_s": rollout.timeout_s,
        "max_failures": rollout.max_failures,
        "watch_s": rollout.watch_s,
        "created_at_ms": rollout.created_at_ms,
        "looked_at_ms": rollout.looked_at_ms,
        "ended_at_ms": rollout.ended_at_ms,
        "hosts": [_host_view(each) for each in rollout.hosts],
    }


def _host_view(host: RolloutHost) -> RolloutHostView:
    return {
        "host": host.host,
        "state": host.state,
        "reason": host.reason,
        "began_at_ms": host.began_at_ms,
        "ended_at_ms": host.ended_at_ms,
    }
