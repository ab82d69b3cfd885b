"""The headers of one try at a webhook: its id, its time, and its signatures after Standard Webhooks.

Source: https://www.standardwebhooks.com, version 1.0.0, "Signature scheme" and "Webhook headers".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from core.contracts.registry import contract_of
from core.errors import ConfigurationError
from core.webhooks.keys import PUBLIC_PREFIX, hmac_key, seed


def headers_for(
    body: bytes,
    *,
    message_id: str,
    timestamp_s: int,
    secrets: Sequence[str],
    contract: str,
    private_key: Ed25519PrivateKey | None = None,
) -> dict[str, str]:
    """Return the headers that identify and sign a body, exactly as it is sent.

    Parameters:
      message_id: the same for every try at one event; without a full stop, which separates what is signed.
      timestamp_s: when this try is made, in seconds since 1970.
      secrets: each makes one signature; the first also the headers that the contract has beside these.
      contract: its name, see `core.contracts.registry`.
      private_key: the fleet's; adds a signature that anybody can check who has the public key.
    Returns: `webhook-id`, `webhook-timestamp`, and `webhook-signature` where there is anything to sign with.
    Raises:
      ValueError: a secret is malformed; requests and settings with such a one are refused before.
    """
    headers = {"webhook-id": message_id, "webhook-timestamp": str(timestamp_s)}
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp_s, body)
    signatures = [f"v1,{_base64(_hmac(hmac_key(secret), signed).digest())}" for secret in secrets]
    if private_key is not None:
        signatures.append(f"v1a,{_base64(private_key.sign(signed))}")
    if signatures:
        headers["webhook-signature"] = " ".join(signatures)
    if secrets:
        headers |= contract_of(contract).signature_headers(body, secrets[0])
    return headers


def load_signing_key(text: str) -> Ed25519PrivateKey | None:
    """Return the key of COMFYLINE_WEBHOOK_SIGNING_KEY; None where it is empty. Raises ConfigurationError."""
    if not text:
        return None
    try:
        return Ed25519PrivateKey.from_private_bytes(seed(text))
    except ValueError as exc:
        raise ConfigurationError(f"COMFYLINE_WEBHOOK_SIGNING_KEY {exc}.") from exc


def public_key_text(private_key: Ed25519PrivateKey) -> str:
    """Return `whpk_<base64>`: what receivers check `v1a` signatures with."""
    return PUBLIC_PREFIX + _base64(private_key.public_key().public_bytes_raw())


def _hmac(key: bytes, content: bytes) -> hmac.HMAC:
    return hmac.new(key, content, hashlib.sha256)


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
