"""ComfyUI's own protocol over HTTP: prompts, the queue, the history, and jobs. This blueprint only translates."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response

from api.contracts.comfyui.answers import MAX_IDS, ComfyuiAnswerView, body_object, empty, ids_in, whole_number
from api.contracts.comfyui.entries import ACTIVE, IN_PROGRESS, WAITING, number_of, prompt_id_of
from api.contracts.comfyui.paths import ONLY_THERE
from api.contracts.comfyui.prompt_lists import MAX_SHOWN, Prompts
from api.contracts.comfyui.refused import COMFYUI, ComfyuiErrorView
from api.contracts.comfyui.stored_results import StoredResults
from api.contracts.comfyui.submission import asked, is_prompt_id, submitted
from api.http.error_shapes import ContractBlueprint
from api.http.errors import json_response
from api.http.time_limits import bounded
from api.schema.described import BODY_ERRORS, SUBMIT_ERRORS, Described
from api.schema.described import COMFYUI as TAG
from api.service.jobs import JobService
from core.errors import LedgerUnavailable, RequestIdReuse
from core.ledger import Ledger
from core.ledger.job_pages import MAX_JOBS
from core.messaging.notices import Notice
from core.settings import Settings


def prompts_blueprint(
    settings: Settings,
    ledger: Ledger,
    service: JobService,
    results: StoredResults,
    announce: Callable[[Notice], None],
) -> ContractBlueprint:
    """Return the routes of prompts.

    Parameters:
      announce: tells all API processes that a client has a new job.
    """
    blueprint = ContractBlueprint("comfyui_prompts", __name__, errors=COMFYUI)
    prompts = Prompts(ledger, service, results)

    @blueprint.get("/comfyui/prompt")
    @Described(
        summary="How many prompts wait or run",
        tag=TAG,
        scope="read",
        answers={200: ComfyuiAnswerView},
        errors=(LedgerUnavailable,),
    )
    @bounded
    def remaining() -> Response:
        return json_response({"exec_info": {"queue_remaining": prompts.remaining()}})

    @blueprint.post("/comfyui/prompt")
    @Described(
        summary="Submit a prompt",
        tag=TAG,
        scope="submit",
        answers={200: ComfyuiAnswerView, 400: ComfyuiErrorView},
        errors=(*BODY_ERRORS, *SUBMIT_ERRORS, RequestIdReuse),
        text="A job like any other: see docs/comfyui.md.",
    )
    def prompt() -> Response:
        wanted = asked(body_object(settings), settings)
        if isinstance(wanted, Response):
            return wanted
        job, node_errors = submitted(wanted.request, service)
        if wanted.client_id is not None:
            who = {"tenant": job.tenant, "client_id": wanted.client_id}
            announce(Notice(job_id=job.id, kind="submitted", data=who))
        told = {"prompt_id": prompt_id_of(job), "number": number_of(job), "node_errors": node_errors}
        return json_response(told)

    @blueprint.get("/comfyui/queue")
    @Described(
        summary="The prompts that run and wait",
        tag=TAG,
        scope="read",
        answers={200: ComfyuiAnswerView},
        errors=(LedgerUnavailable,),
    )
    @bounded
    def queue() -> Response:
        return json_response(prompts.queue())

    @blueprint.post("/comfyui/queue")
    @Described(
        summary="Cancel prompts that wait",
        tag=TAG,
        scope="cancel",
        answers={200: None},
        errors=(*BODY_ERRORS, LedgerUnavailable),
    )
    def change_queue() -> Response:
        body = body_object(settings)
        if body.get("clear"):
            prompts.cancel_all(WAITING)
        for name in ids_in(body, "delete"):
            prompts.cancel(name, WAITING)
        return empty()

    @blueprint.post("/comfyui/interrupt")
    @Described(
        summary="Cancel the prompts that run, or one of them",
        tag=TAG,
        scope="cancel",
        answers={200: None},
        errors=(*BODY_ERRORS, LedgerUnavailable),
    )
    def interrupt() -> Response:
        body = body_object(settings, is_optional=True)
        name = body.get("prompt_id")
        if name is None:
            prompts.cancel_all(IN_PROGRESS)
        else:
            prompts.cancel(str(name), IN_PROGRESS)
        return empty()

    @blueprint.post("/comfyui/free")
    @Described(
        summary="Nothing: when models are unloaded, the fleet decides", tag=TAG, scope="read", answers={200: None}
    )
    def free() -> Response:
        return empty()

    @blueprint.get("/comfyui/history")
    @Described(
        summary="The prompts that have ended, the oldest first",
        tag=TAG,
        scope="read",
        answers={200: ComfyuiAnswerView},
        errors=(LedgerUnavailable,),
    )
    def history() -> Response:
        return json_response(prompts.history(whole_number("max_items", MAX_SHOWN), whole_number("offset", MAX_JOBS)))

    @blueprint.get("/comfyui/history/<prompt_id>")
    @Described(
        summary="One prompt, if it has ended",
        tag=TAG,
        scope="read",
        answers={200: ComfyuiAnswerView},
        errors=(LedgerUnavailable,),
    )
    def one_entry(prompt_id: str) -> Response:
        job = prompts.named(prompt_id)
        return json_response({} if job is None or not job.is_terminal else prompts.entries([job]))

    @blueprint.post("/comfyui/history")
    @Described(
        summary="Take prompts out of the history; the jobs and their files stay",
        tag=TAG,
        scope="cancel",
        answers={200: None},
        errors=(*BODY_ERRORS, LedgerUnavailable),
    )
    def change_history() -> Response:
        body = body_object(settings)
        prompts.hide(ids_in(body, "delete"), all_of_them=bool(body.get("clear")))
        return empty()

    @blueprint.get(ONLY_THERE)
    @Described(
        summary="The same as a list of jobs",
        tag=TAG,
        scope="read",
        answers={200: ComfyuiAnswerView, 400: ComfyuiAnswerView},
        errors=(LedgerUnavailable,),
    )
    @bounded
    def jobs() -> Response:
        return prompts.job_list()

    @blueprint.get(f"{ONLY_THERE}/<prompt_id>")
    @Described(
        summary="One job",
        tag=TAG,
        scope="read",
        answers={200: ComfyuiAnswerView, 404: ComfyuiAnswerView},
        errors=(LedgerUnavailable,),
    )
    def one_job(prompt_id: str) -> Response:
        found = prompts.whole(prompt_id)
        return json_response({"error": "Job not found"}, 404) if found is None else json_response(found)

    @blueprint.post(f"{ONLY_THERE}/<prompt_id>/cancel")
    @Described(
        summary="Cancel a job",
        tag=TAG,
        scope="cancel",
        answers={200: ComfyuiAnswerView},
        errors=(LedgerUnavailable,),
    )
    def cancel_job(prompt_id: str) -> Response:
        return json_response({"cancelled": prompts.cancel(prompt_id, ACTIVE)})

    @blueprint.post(f"{ONLY_THERE}/cancel")
    @Described(
        summary="Cancel jobs",
        tag=TAG,
        scope="cancel",
        answers={200: ComfyuiAnswerView, 400: ComfyuiAnswerView},
        errors=(*BODY_ERRORS, LedgerUnavailable),
    )
    def cancel_jobs() -> Response:
        body = body_object(settings)
        if not isinstance(body.get("job_ids"), list):
            return json_response({"error": "job_ids must be a list"}, 400)
        if wrong := [name for name in body["job_ids"][:MAX_IDS] if not is_prompt_id(name)]:
            # All or none: a client that errs in one of its ids may err in others.
            told = [str(name) for name in wrong]
            return json_response({"error": "job_ids contains invalid id(s)", "invalid_ids": told}, 400)
        cancelled = [prompts.cancel(name, ACTIVE) for name in ids_in(body, "job_ids")]
        return json_response({"cancelled": any(cancelled)})

    return blueprint
