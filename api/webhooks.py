"""The webhook of a job: the request's, or the operator's, as far as it can be judged before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from api.bodies import WebhookBody
from core.outbound import Policy, check_url
from core.settings import Settings
from core.webhooks.keys import ENVIRONMENT, REQUEST


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where the events of a job are to be told."""

    #: `{"url", "events"?, "extra_params", "timeout_s", "base_url", "origin"}`, as the ledger keeps it.
    target: dict[str, Any]
    #: One, or two while they are rotated. The operator's is not among a job's: it is read when it is needed.
    secret: str | list[str] | None = field(repr=False)


def parse_webhook(block: WebhookBody | None, settings: Settings, base_url: str, *, has_default: bool) -> Webhook | None:
    """The request's webhook, else the operator's if that is the default, else None. Raises InvalidRequest.

    Parameters:
      block: None, or a blank url, is no webhook of its own.
      base_url: scheme and host for links in the webhook's body.
    """
    origin = REQUEST
    if block is None or not block.url:
        if not has_default or not settings.webhook_url:
            return None
        # As a whole: nothing of a request is mixed with what the operator set, and nobody else's receiver is shown
        # what the operator's secret signs.
        origin, block = ENVIRONMENT, WebhookBody.model_construct(url=settings.webhook_url)
    target = {
        "url": check_url(block.url, "webhook.url", Policy.for_webhook(block.url, settings)),
        "extra_params": block.extra_params or {},
        "timeout_s": block.timeout or settings.webhook_timeout_s,
        "base_url": base_url,
        "origin": origin,
        **({"events": block.events} if block.events else {}),
    }
    return Webhook(target=target, secret=block.secret)
