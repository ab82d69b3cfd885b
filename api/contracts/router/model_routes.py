"""The router contract over HTTP. Nothing here has a queue of its own: a run is a job of a template."""

from __future__ import annotations

import time
from typing import Final

from flask import Blueprint, Response, request
from typing_extensions import TypedDict

from api.contracts.router.catalogue import PROVIDER, Catalogue, ModelsView, model_document, model_id
from api.contracts.router.failures import (
    ROUTER,
    NoResultYet,
    RouterErrorView,
    RunEnded,
    RunGoesOn,
    UnknownModel,
    UnknownRequest,
    without_result,
)
from api.contracts.router.requests import (
    RequestView,
    ResultView,
    failure_of,
    request_view,
    result_view,
    run_request,
)
from api.http.caller import base_url, caller, links_for
from api.http.error_shapes import ContractBlueprint
from api.http.errors import BadParameter, InvalidCursor, json_response
from api.http.json_body import read_json
from api.http.request_log import reference
from api.http.time_limits import bounded
from api.schema import fields
from api.schema.bodies import ModelInputBody
from api.schema.described import CURSOR, MODELS, SUBMIT_ERRORS, Described, Parameter
from api.service.estimates import Estimates
from api.service.jobs import JobService, check_id
from api.service.waiting import Hub
from core.errors import LedgerUnavailable, NotFound, RequestIdReuse
from core.ledger import Ledger
from core.records.job import CANCELED, CANCELING, Job
from core.settings import Settings
from workflows.templates.library import Library
from workflows.templates.template import Template

#: How long a run is waited for: the official SDK hangs up after ten minutes.
WAIT_S: Final = 540.0
REQUEST_ID: Final = "X-Comfy-Request-Id"
KEY = Parameter(
    name="Idempotency-Key",
    place="header",
    description="The same key with the same body is the same run, for as long as its job is kept.",
    schema={"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
)
TAG = Parameter(name="If-None-Match", place="header", description="An ETag of before.", schema={"type": "string"})
LIMIT = Parameter(
    name="limit",
    place="query",
    description="How many at most; more than 100 are taken for 100.",
    schema={"type": "integer", "minimum": 1, "default": 20},
)


#: What the contract's own router may choose, and this server has no choice of.
_CONTROLS = {"model_provider": PROVIDER}
#: What a run answers that has no result: cancelled or not ended, failed, never begun or still going on.
WITHOUT_RESULT = dict.fromkeys((409, 502, 504), RouterErrorView)
_GOING = (CANCELED, CANCELING)


class CancelView(TypedDict):
    status: str


def router_blueprint(
    settings: Settings, ledger: Ledger, service: JobService, hub: Hub, library: Library, estimates: Estimates
) -> Blueprint:
    """Return the routes of `/v2/models`."""
    blueprint = ContractBlueprint("router", __name__, errors=ROUTER)
    blueprint.register_error_handler(RunEnded, without_result)
    models = Catalogue(library)

    @blueprint.after_request
    def name_request(response: Response) -> Response:
        response.headers[REQUEST_ID] = reference() or ""
        return response

    @blueprint.get("/v2/models")
    @Described(
        summary="The models there are",
        tag=MODELS,
        scope="read",
        answers={200: ModelsView},
        errors=(BadParameter, InvalidCursor),
        parameters=(CURSOR, LIMIT),
    )
    def every() -> Response:
        allowed = caller().limits.templates
        return json_response(models.page(request.args.get("cursor"), request.args.get("limit"), allowed))

    @blueprint.get("/v2/models/<provider>/<model>/openapi.json")
    @Described(
        summary="What a model takes and gives",
        tag=MODELS,
        scope="read",
        answers={200: "application/json", 304: None},
        errors=(UnknownModel,),
        parameters=(TAG,),
    )
    def document(provider: str, model: str) -> Response:
        content, tag = model_document(models.find(provider, model))
        answer = json_response(content)
        answer.set_etag(tag)
        answer.headers["Cache-Control"] = "private, no-cache"
        answer.make_conditional(request)
        return answer

    @blueprint.post("/v2/models/<provider>/<model>")
    @Described(
        summary="Run a model and wait for what it makes",
        tag=MODELS,
        body=ModelInputBody,
        scope="submit",
        answers={200: ResultView, **WITHOUT_RESULT},
        errors=(UnknownModel, *SUBMIT_ERRORS, RequestIdReuse),
        parameters=(KEY,),
        text="Who hangs up does not cancel it: the same key collects what it makes.",
    )
    def run(provider: str, model: str) -> Response:
        job, is_known = submitted(models.find(provider, model))
        deadline_s = time.monotonic() + WAIT_S
        ended = hub.until_done(lambda: hub.look(job.id), job, is_abandoned=lambda: time.monotonic() > deadline_s)
        if ended is None:
            raise RunGoesOn(f"After {WAIT_S:g} s it still goes on: ask again with the same Idempotency-Key.")
        return result(ended, is_known=is_known)

    @blueprint.post("/v2/models/<provider>/<model>/requests")
    @Described(
        summary="Run a model without waiting",
        tag=MODELS,
        body=ModelInputBody,
        scope="submit",
        answers={202: RequestView},
        errors=(UnknownModel, *SUBMIT_ERRORS, RequestIdReuse),
        parameters=(KEY,),
    )
    def submit(provider: str, model: str) -> Response:
        job, is_known = submitted(models.find(provider, model))
        return json_response(shown(job, provider), 202, _replayed(is_known))

    @blueprint.get("/v2/models/<provider>/<model>/requests/<request_id>/status")
    @Described(
        summary="How far a run is",
        tag=MODELS,
        scope="read",
        answers={200: RequestView},
        errors=(UnknownRequest, LedgerUnavailable),
    )
    @bounded
    def status(provider: str, model: str, request_id: str) -> Response:
        return json_response(shown(found(provider, model, request_id), provider))

    @blueprint.get("/v2/models/<provider>/<model>/requests/<request_id>")
    @Described(
        summary="What a run made",
        tag=MODELS,
        scope="read",
        answers={200: ResultView, **WITHOUT_RESULT},
        errors=(UnknownRequest, LedgerUnavailable),
    )
    @bounded
    def collect(provider: str, model: str, request_id: str) -> Response:
        job = found(provider, model, request_id)
        if not job.is_terminal:
            raise NoResultYet("The request has not ended: its status says how far it is.")
        return result(job, is_known=False)

    @blueprint.put("/v2/models/<provider>/<model>/requests/<request_id>/cancel")
    @Described(
        summary="Ask for a run's end",
        tag=MODELS,
        scope="cancel",
        answers={202: CancelView, 409: CancelView},
        errors=(UnknownRequest, LedgerUnavailable),
    )
    def cancel(provider: str, model: str, request_id: str) -> Response:
        job = found(provider, model, request_id)
        if job.is_terminal or service.cancel(job.id).status not in _GOING:
            return json_response({"status": "ALREADY_COMPLETED"}, 409)
        return json_response({"status": "CANCELLATION_REQUESTED"}, 202)

    def submitted(template: Template) -> tuple[Job, bool]:
        for name, only in _CONTROLS.items():
            if request.args.get(name, only) != only:
                raise BadParameter(f"{name} can be nothing but {only} here: the fleet itself runs its models.")
        key = fields.idempotency_key(request.headers.get("Idempotency-Key"))
        return service.submit_once(run_request(template, read_json(settings), key))

    def found(provider: str, model: str, request_id: str) -> Job:
        try:
            job = ledger.jobs.get(check_id(request_id), of=caller().sees)
        except NotFound:
            job = None
        if job is None or job.template is None or model_id(job.template) != f"{provider}/{model}":
            raise UnknownRequest("This model has no request of that id.")
        return job

    def shown(job: Job, provider: str) -> RequestView:
        url = f"{base_url(settings)}/v2/models/{provider}/{job.template}/requests/{job.id}"
        return request_view(job, url, estimates.place(job))

    def result(job: Job, *, is_known: bool) -> Response:
        failure = failure_of(job)
        if failure is not None:
            raise failure
        return json_response(result_view(job, links_for(settings, ledger)), 200, _replayed(is_known))

    return blueprint


def _replayed(is_known: bool) -> dict[str, str]:
    return {"Idempotent-Replayed": "true"} if is_known else {}
