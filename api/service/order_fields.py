"""What a body says beside its workflow, as fields of an order: the job's, and what is to become of its outputs."""

from __future__ import annotations

from typing import Any

from api.schema.blocks import WebhookBody
from api.schema.bodies import JobBody, OutputOptionsBody
from api.service.webhook_target import parse_webhook
from core.buckets.target import parse_s3
from core.contracts.registry import CONTRACT_V2
from core.settings.settings import Settings


def job_fields(body: JobBody, settings: Settings, base_url: str) -> dict[str, Any]:
    """What every submission that is answered by a Job may say, as fields of an `Order`.

    Raises:
      InvalidRequest: a block is incomplete, or holds what cannot be used.
    """
    delivery = delivery_fields(body, body.webhook, settings, base_url, has_defaults=False)
    extra = dict(body.extra_data or {})
    extra_pnginfo = extra.pop("extra_pnginfo", None)
    secrets = {**extra, **(delivery.pop("secrets") or {})}
    return {
        "contract": CONTRACT_V2,
        "priority": body.priority or 0,
        "timeout_s": body.timeout,
        "metadata": body.metadata,
        "secrets": secrets or None,
        "extra_pnginfo": extra_pnginfo or None,
        **delivery,
    }


def delivery_fields(
    wishes: OutputOptionsBody, webhook: WebhookBody | None, settings: Settings, base_url: str, *, has_defaults: bool
) -> dict[str, Any]:
    """`delivery`, `webhook`, `secrets` and `retention_s` of an `Order`.

    Parameters:
      base_url: scheme and host for links in the webhook's body.
      has_defaults: where the request names no bucket or no webhook, the operator's count, if there are any.
    Raises:
      InvalidRequest: a block is incomplete, or holds what cannot be used.
    """
    s3 = None if wishes.s3 is None or wishes.s3.is_blank else wishes.s3.model_dump(exclude_none=True)
    bucket = parse_s3(s3, settings) if s3 or has_defaults else None
    hook = parse_webhook(webhook, settings, base_url, has_default=has_defaults)
    delivery: dict[str, Any] = {}
    secrets: dict[str, Any] = {}
    if bucket:
        delivery["s3"] = bucket.target.to_json()
        if bucket.credentials:
            secrets["s3"] = bucket.credentials.to_json()
    if wishes.convert_output:
        delivery["convert"] = wishes.convert_output.model_dump(exclude_none=True)
    if wishes.strip_metadata:
        delivery["strip_metadata"] = True
    if hook:
        secrets |= hook.secrets
    return {
        "delivery": delivery or None,
        "webhook": hook.target if hook else None,
        "secrets": secrets or None,
        "retention_s": wishes.retention,
    }
