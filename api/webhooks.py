"""The webhook of a job: the request's, or the operator's, as far as it can be judged before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from api.bodies import WebhookBody
from core.outbound import Policy, check_url
from core.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where the end of a job is to be told."""

    #: `{"url", "extra_params", "timeout_s", "base_url"}`, as the ledger keeps it.
    target: dict[str, Any]
    secret: str | None


def parse_webhook(block: WebhookBody | None, settings: Settings, base_url: str, *, has_default: bool) -> Webhook | None:
    """The request's webhook, else the operator's if that is the default, else None. Raises InvalidRequest.

    Parameters:
      block: None, or a blank url, is no webhook of its own.
      base_url: scheme and host for links in the webhook's body.
    """
    if block is None or not block.url:
        if not has_default or not settings.webhook_url:
            return None
        # As a whole: nothing of a request is mixed with what the operator set, and nobody else's receiver is shown
        # what the operator's secret signs.
        secret = settings.webhook_secret.get_secret_value() or None
        block = WebhookBody.model_construct(url=settings.webhook_url, secret=secret)
    target = {
        "url": check_url(block.url, "webhook.url", Policy.for_webhook(block.url, settings)),
        "extra_params": block.extra_params or {},
        "timeout_s": block.timeout or settings.webhook_timeout_s,
        "base_url": base_url,
    }
    return Webhook(target=target, secret=block.secret)
