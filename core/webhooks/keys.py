"""Webhook secrets and the fleet's signing key: what they look like as text, and which bytes they mean."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from core.records.webhook_target import ENVIRONMENT, WebhookTarget

SECRET_PREFIX, PRIVATE_PREFIX, PUBLIC_PREFIX = "whsec_", "whsk_", "whpk_"
#: Of an ed25519 private key.
SEED_BYTES = 32


def hmac_key(secret: str) -> bytes:
    """Return the HMAC key of a secret: what `whsec_<base64>` encodes; any other text is the key itself.

    Raises:
      ValueError: what stands behind `whsec_` is empty or not base64. The message does not repeat the secret.
    """
    if not secret.startswith(SECRET_PREFIX):
        return secret.encode()
    key = _decoded(secret[len(SECRET_PREFIX) :])
    if not key:
        raise ValueError(f"must have base64 behind {SECRET_PREFIX}")
    return key


def seed(text: str) -> bytes:
    """Return the ed25519 seed of a private key, 32 bytes from `whsk_<base64>` or the base64 alone.

    Raises:
      ValueError: it is not base64 of 32 bytes. The message does not repeat the key.
    """
    found = _decoded(text.removeprefix(PRIVATE_PREFIX))
    if found is None or len(found) != SEED_BYTES:
        raise ValueError(f"must be base64 of {SEED_BYTES} bytes, with or without {PRIVATE_PREFIX} before it")
    return found


def split_secrets(text: str) -> tuple[str, ...]:
    """Return the secrets of an operator's setting: none, one, or two, separated by a comma, while they are rotated."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def secrets_for(webhook: WebhookTarget, sealed: Mapping[str, Any], operators: str) -> tuple[str, ...]:
    """Return what a job's events are signed with: never the operator's secret for a URL that a request named.

    Parameters:
      sealed: the job's secrets, opened.
      operators: the setting WEBHOOK_SECRET.
    """
    if webhook.origin == ENVIRONMENT:
        return split_secrets(operators)
    found = sealed.get("webhook_secret") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def headers_of(webhook: WebhookTarget, sealed: Mapping[str, Any]) -> dict[str, str]:
    """Return the client's own headers for the events of a job. Parameters as of `secrets_for`."""
    if webhook.origin == ENVIRONMENT:
        return {}
    return dict(sealed.get("webhook_headers") or {})


def _decoded(text: str) -> bytes | None:
    # Padding may be left out, as the specification's own libraries take it.
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
