"""Webhook deliveries over HTTP: what became of them and why, sending again, forgetting; and the fleet's public key."""

from __future__ import annotations

import re
from typing import Any

from flask import Blueprint, Response, request

from api.contracts.delivery_views import (
    STATES,
    DeliveryPageView,
    DeliveryView,
    PublicKeyView,
    PurgedView,
    delivery_view,
)
from api.http.caller import actor, caller
from api.http.errors import BadParameter, InvalidCursor, json_response
from api.http.json_body import has_body, read_json
from api.http.time_limits import bounded, ledger_time_limit
from api.schema import fields
from api.schema.bodies import ReplayBody
from api.schema.described import CURSOR, JOBS, WEBHOOKS, Described, Parameter, limit_of
from api.schema.validation import read
from api.service.jobs import TurnPublisher, check_id
from api.service.webhook_target import webhook_secrets
from core.errors import InvalidRequest, LedgerUnavailable, NotFound, SecretUnreadable
from core.ledger import Ledger
from core.ledger.secrets import WEBHOOK
from core.ledger.webhooks.deliveries import ENDED
from core.records.webhook_target import ONE_SECRET
from core.settings import Settings
from core.webhooks.signing import load_signing_key, public_key_text

#: How a replay brings what was wiped.
_SHAPES = {"secret": '"secret": "..."', "headers": '"headers": {"<name>": "<value>"}'}
_STATE = Parameter(
    name="state", place="query", description="Only these.", schema={"type": "string", "enum": list(STATES)}
)
_JOB = Parameter(name="job_id", place="query", description="Only those of this job.", schema={"type": "string"})
_ID_PREFIX = Parameter(
    name="id_prefix",
    place="query",
    description="Only deliveries whose id begins so.",
    schema={"type": "string", "minLength": 1, "maxLength": 36},
)
_ENDED = Parameter(
    name="state",
    place="query",
    description="Which; it must be said.",
    schema={"type": "string", "enum": list(ENDED)},
    is_required=True,
)
_OLDER_THAN = Parameter(
    name="older_than",
    place="query",
    description="Only those whose last change is at least so many seconds ago.",
    schema={"type": "integer", "minimum": 0, "default": 0},
)


def deliveries_blueprint(settings: Settings, ledger: Ledger, publisher: TurnPublisher) -> Blueprint:
    """Return the blueprint of `/webhooks/...` and of a job's deliveries. Raises ConfigurationError: a malformed key."""
    blueprint = Blueprint("deliveries", __name__)
    private_key = load_signing_key(settings.webhook_signing_key.get_secret_value())

    @blueprint.get("/webhooks/deliveries")
    @Described(
        summary="List deliveries, the newest first",
        tag=WEBHOOKS,
        scope="webhooks",
        answers={200: DeliveryPageView},
        errors=(NotFound, InvalidCursor, LedgerUnavailable),
        parameters=(_STATE, _JOB, _ID_PREFIX, limit_of("deliveries"), CURSOR),
        text="Each with its log of tries.",
    )
    @bounded
    def every() -> Response:
        job_id = request.args.get("job_id")
        ids = fields.id_bounds(request.args.get("id_prefix"))
        return _page(ledger, state=_state(STATES), job_id=None if job_id is None else check_id(job_id), ids=ids)

    @blueprint.get("/api/v2/jobs/<job_id>/deliveries")
    @Described(
        summary="The deliveries of a job's webhook, the newest first",
        tag=JOBS,
        scope="webhooks",
        answers={200: DeliveryPageView},
        errors=(NotFound, InvalidCursor, LedgerUnavailable),
        parameters=(limit_of("deliveries"), CURSOR),
    )
    @bounded
    def of_job(job_id: str) -> Response:
        return _page(ledger, state=None, job_id=ledger.jobs.get(check_id(job_id), of=caller().sees).id)

    @blueprint.get("/webhooks/deliveries/<delivery_id>")
    @Described(
        summary="A delivery with its log of tries",
        tag=WEBHOOKS,
        scope="webhooks",
        answers={200: DeliveryView},
        errors=(NotFound, LedgerUnavailable),
    )
    @bounded
    def one(delivery_id: str) -> Response:
        return json_response(delivery_view(ledger.deliveries.get(check_id(delivery_id), of=caller().sees)))

    @blueprint.post("/webhooks/deliveries/<delivery_id>/replay")
    @Described(
        summary="Send a delivery again, now",
        tag=WEBHOOKS,
        body=ReplayBody,
        is_optional=True,
        scope="webhooks",
        answers={202: DeliveryView},
        errors=(NotFound, LedgerUnavailable),
        text="With the same id and body, and from the beginning of its schedule. A secret or headers that came "
        "with the job are deleted after their last use, and must then come again.",
    )
    def replay(delivery_id: str) -> Response:
        body = read(ReplayBody, read_json(settings)) if has_body() else ReplayBody()
        with ledger_time_limit():
            delivery = ledger.deliveries.get(check_id(delivery_id), of=caller().sees)
            if delivery.batch is None:
                # Those of a batch are kept as long as the batch.
                _renew_secrets(ledger, delivery.job_id, webhook_secrets(body.secret, body.headers))
            replayed = ledger.deliveries.replay(delivery_id, by=actor())
        publisher.notify(delivery.job_id)
        return json_response(delivery_view(replayed), 202)

    @blueprint.delete("/webhooks/deliveries")
    @Described(
        summary="Forget deliveries that have ended",
        tag=WEBHOOKS,
        scope="webhooks",
        answers={200: PurgedView},
        errors=(LedgerUnavailable,),
        parameters=(_ENDED, _OLDER_THAN),
    )
    @bounded
    def purge() -> Response:
        state = _state(ENDED)
        if state is None:
            raise BadParameter(f"state is missing: it must be one of {', '.join(ENDED)}.")
        older_than_ms = _older_than_s() * 1000
        purged = ledger.deliveries.purge(state, older_than_ms=older_than_ms, of=caller().sees, by=actor())
        view: PurgedView = {"purged": purged}
        return json_response(view)

    @blueprint.get("/webhooks/public-key")
    @Described(
        summary="What receivers check v1a signatures with",
        tag=WEBHOOKS,
        scope="any",
        answers={200: PublicKeyView},
        errors=(NotFound,),
    )
    def public_key() -> Response:
        if private_key is None:
            raise NotFound("This server has no key of its own for webhooks: its operator sets one.")
        view: PublicKeyView = {"public_key": public_key_text(private_key)}
        return json_response(view)

    return blueprint


def _renew_secrets(ledger: Ledger, job_id: str, given: dict[str, Any]) -> None:
    """See to it that the webhook can be signed and let in. Raises InvalidRequest: something is gone, and did not come.

    Parameters:
      given: what the client sends now, by its names in the ledger.
    """
    try:
        kept = ledger.secrets.open(job_id, WEBHOOK)
    except SecretUnreadable as exc:
        webhook = ledger.jobs.get(job_id, of=caller().sees).webhook
        needed = ONE_SECRET if webhook is None else webhook.sealed
        missing = [name for name in needed if name not in given]
        if missing:
            raise InvalidRequest(_come_again(missing)) from exc
        kept = {}
    if given:
        ledger.secrets.renew(job_id, kept | given)


def _come_again(names: list[str]) -> str:
    words = [name.removeprefix("webhook_") for name in sorted(names, reverse=True)]
    fields_text = ", ".join(_SHAPES[word] for word in words)
    if words == ["secret"]:
        said = "The secret that came with the job was deleted after its last use: send it again"
    else:
        said = (
            f"The {' and the '.join(words)} that came with the job were deleted after their last use: send them again"
        )
    return f"{said}, as {{{fields_text}}} in the body."


def _page(ledger: Ledger, *, state: str | None, job_id: str | None, ids: tuple[str, str] | None = None) -> Response:
    limit = fields.limit(request.args.get("limit"))
    after = fields.decode_cursor(request.args.get("cursor"))
    # One more than is shown tells whether there is a next page.
    found = ledger.deliveries.page(of=caller().sees, state=state, job_id=job_id, ids=ids, limit=limit + 1, after=after)
    shown, rest = found[:limit], found[limit:]
    cursor = fields.encode_cursor(shown[-1].created_at_ms, shown[-1].id) if rest else None
    view: DeliveryPageView = {"deliveries": [delivery_view(each) for each in shown], "next_cursor": cursor}
    return json_response(view)


def _state(known: tuple[str, ...]) -> str | None:
    value = request.args.get("state")
    if value is not None and value not in known:
        raise BadParameter(f"Unknown state {value[:40]!a}; known are {', '.join(known)}.")
    return value


def _older_than_s() -> int:
    value = request.args.get("older_than", "0")
    if not re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
        raise BadParameter("older_than must be a whole number of seconds.")
    return int(value)
