"""The webhook of a job: the request's, or the operator's, as far as it can be judged before anything is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from api.schema.blocks import WebhookBody
from core.outbound import Policy, check_url
from core.records.webhook_target import ENVIRONMENT, ONE_SECRET, REQUEST, WebhookOrigin, WebhookTarget
from core.settings import Settings
from core.webhooks.urls import split_query


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where the events of a job are to be told."""

    target: WebhookTarget
    #: By their names in the ledger. The operator's secret is not among a job's: it is read when it is needed.
    secrets: dict[str, Any] = field(repr=False)


def parse_webhook(block: WebhookBody | None, settings: Settings, base_url: str, *, has_default: bool) -> Webhook | None:
    """Return the request's webhook, else the operator's if that is the default, else None. Raises InvalidRequest.

    Parameters:
      block: None, or a blank url, is no webhook of its own.
      base_url: scheme and host for links in the webhook's body.
    """
    origin: WebhookOrigin = REQUEST
    if block is None or not block.url:
        if not has_default or not settings.webhook_url:
            return None
        # As a whole: nothing of a request is mixed with what the operator set, and nobody else's receiver is shown
        # what the operator's secret signs.
        origin, block = ENVIRONMENT, WebhookBody.model_construct(url=settings.webhook_url)
    secrets = webhook_secrets(block.secret, block.headers)
    url = check_url(block.url, "webhook.url", Policy.for_webhook(block.url, settings))
    shown, query = split_query(url)
    target = WebhookTarget(
        url=shown,
        events=tuple(block.events or ()),
        extra_params=block.extra_params or {},
        timeout_s=block.timeout or settings.webhook_timeout_s,
        base_url=base_url,
        origin=origin,
        # What has to come again when it is to be sent again and the sealed row has been wiped.
        sealed=tuple(sorted(secrets)) if "webhook_headers" in secrets else ONE_SECRET,
    )
    return Webhook(target=target, secrets=secrets | query)


def webhook_secrets(secret: str | list[str] | None, headers: dict[str, str] | None) -> dict[str, Any]:
    """Return what is sealed of a webhook, by its names in the ledger; a secret is one, or two while it is rotated."""
    return {
        **({"webhook_secret": secret} if secret else {}),
        **({"webhook_headers": headers} if headers else {}),
    }
