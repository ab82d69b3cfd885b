"""Secrets at rest: AES-256-GCM, bound to the job they belong to."""

from __future__ import annotations

import base64
import json
import os
import uuid
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import ConfigurationError

KEY_BYTES = 32
NONCE_BYTES = 12


class Sealer:
    """Seals and opens JSON values with one key."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, value: dict[str, Any], *, bound_to: str) -> bytes:
        """Nonce and ciphertext. It opens only with the same `bound_to`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, json.dumps(value).encode(), bound_to.encode())

    def open(self, sealed: bytes, *, bound_to: str) -> dict[str, Any]:
        """The value. Raises ConfigurationError when the key is another one, or the row was moved."""
        nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            value: dict[str, Any] = json.loads(self._cipher.decrypt(nonce, ciphertext, bound_to.encode()))
        except InvalidTag as exc:
            raise ConfigurationError(
                "A sealed secret does not open: FLEET_SECRET_KEY is not the key it was sealed with."
            ) from exc
        return value


def load_key(configured: str, data_dir: Path) -> bytes:
    """The key from the setting, else the one kept in the data directory, made at first use.

    Raises:
      ConfigurationError: FLEET_SECRET_KEY is not base64 of 32 bytes.
    """
    if configured:
        return _decode(configured, "FLEET_SECRET_KEY")
    path = data_dir / "secret.key"
    if not path.exists():
        _create_once(path, base64.b64encode(os.urandom(KEY_BYTES)))
    return _decode(path.read_text(), str(path))


def _decode(text: str, origin: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError as exc:  # Also what `binascii.Error` is: characters outside ASCII raise the plain one.
        raise ConfigurationError(f"{origin} is not base64.") from exc
    if len(key) != KEY_BYTES:
        raise ConfigurationError(f"{origin} must be base64 of {KEY_BYTES} bytes, not {len(key)}.")
    return key


def _create_once(path: Path, content: bytes) -> None:
    """Write a private file whole or not at all; the first of several processes wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not named after the process: threads share its number, and so do containers that share the directory.
    draft = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
