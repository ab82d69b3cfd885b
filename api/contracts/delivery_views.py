"""Deliveries as operators and clients see them: what each answer holds, and how it is built."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field
from typing_extensions import NotRequired, TypedDict

from core.contracts.comfy_v2 import maybe_timestamp, timestamp
from core.ledger.webhooks.deliveries import ENDED, Delivery, Try
from core.ledger.webhooks.outbox_writer import PENDING, SENDING

STATES = (PENDING, SENDING, *ENDED)


class DeliveryAttemptView(TypedDict):
    """One try at a delivery."""

    number: int
    at: str
    duration_ms: int
    status_code: Annotated[int | None, Field(description="Of the receiver's answer; null when there was none.")]
    error: Annotated[str | None, Field(description="Why it counts as failed.")]


class DeliveryView(TypedDict):
    """One event for one webhook."""

    id: Annotated[str, Field(description="The webhook-id of every try.")]
    job_id: str
    batch_id: NotRequired[
        Annotated[str, Field(description="The batch that it tells of; job_id is the job whose end it came with.")]
    ]
    event: str
    sequence: int
    state: Annotated[str, Field(json_schema_extra={"enum": list(STATES)})]
    url: Annotated[str, Field(description="Without query.")]
    tries: int
    created_at: str
    updated_at: str
    next_try_at: str | None
    attempts: list[DeliveryAttemptView]


class DeliveryPageView(TypedDict):
    deliveries: list[DeliveryView]
    next_cursor: str | None


class PurgedView(TypedDict):
    purged: Annotated[int, Field(description="How many deliveries were forgotten.")]


class PublicKeyView(TypedDict):
    public_key: Annotated[str, Field(description="whpk_ and the base64 of an ed25519 public key.")]


def delivery_view(delivery: Delivery) -> DeliveryView:
    """Return the Delivery object."""
    view: DeliveryView = {
        "id": delivery.id,
        "job_id": delivery.job_id,
        "event": delivery.event,
        "sequence": delivery.seq,
        "state": delivery.state,
        "url": shown_url(delivery.url),
        "tries": delivery.tries,
        "created_at": timestamp(delivery.created_at_ms),
        "updated_at": timestamp(delivery.updated_at_ms),
        "next_try_at": maybe_timestamp(delivery.next_try_at_ms) if delivery.state == PENDING else None,
        "attempts": [_try_view(each) for each in delivery.log],
    }
    if delivery.batch is not None:
        view["batch_id"] = delivery.batch
    return view


def shown_url(url: str) -> str:
    """Return scheme, host and path of a URL: what else it holds may be somebody's secret."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _try_view(each: Try) -> DeliveryAttemptView:
    return {
        "number": each.number,
        "at": timestamp(each.at_ms),
        "duration_ms": each.duration_ms,
        "status_code": each.status_code,
        "error": each.error,
    }
