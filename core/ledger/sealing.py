"""Secrets at rest: AES-256-GCM under the first key of a ring, bound to what they belong to; every key of it opens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from core.errors import ConfigurationError

KEY_BYTES = 32
NONCE_BYTES = 12
#: The beginning of the SHA-256 of a key: enough to tell the keys of one ring apart, and of no use to anybody else.
KEY_ID_BYTES = 4
#: Where the keys of a machine are in its data directory, unless the setting has them.
KEY_FILE = "secret.key"


class Sealer:
    """Seals JSON values with the first of its keys, and opens what any of them has sealed.

    Raises:
      ValueError: there is no key.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys:
            raise ValueError("a sealer needs a key")
        self._ciphers = {key_id(key): AESGCM(key) for key in keys}
        self._keys = {key_id(key): key for key in keys}
        self._first = key_id(keys[0])

    def seal(self, value: dict[str, Any], *, bound_to: str) -> bytes:
        """Return key id, nonce and ciphertext. It opens only with the same `bound_to`."""
        nonce = os.urandom(NONCE_BYTES)
        cipher = self._ciphers[self._first]
        return self._first + nonce + cipher.encrypt(nonce, json.dumps(value).encode(), bound_to.encode())

    def open(self, sealed: bytes, *, bound_to: str) -> dict[str, Any]:
        """Open a value. Raises ConfigurationError when its key is not in the ring, or the row was changed or moved."""
        named = self._ciphers.get(sealed[:KEY_ID_BYTES])
        tries = [(named, sealed[KEY_ID_BYTES:])] if named else []
        # Rows of versions before key ids begin with their nonce, which may look like anything.
        tries += [(cipher, sealed) for cipher in self._ciphers.values()]
        for cipher, rest in tries:
            try:
                return _opened(cipher, rest, bound_to)
            except (InvalidTag, ValueError):
                continue
        raise ConfigurationError(
            "A sealed secret does not open: the key it was sealed with is not among those of COMFYLINE_SECRET_KEY "
            f"(sealed with {sealed[:KEY_ID_BYTES].hex()}, there are {self.names})."
        )

    @property
    def names(self) -> str:
        """Return the ids of the keys, for messages; the one that seals is the first."""
        return ", ".join(each.hex() for each in self._ciphers)

    def mark(self, digest: bytes) -> str:
        """Return a key id and an HMAC that recognise a value later, and say nothing of it without the key."""
        return f"{self._first.hex()}:{_mark(self._keys[self._first], digest)}"

    def is_mark(self, digest: bytes, mark: str) -> bool:
        """Return whether `mark` was made of this digest; False as well when its key is not in the ring any more."""
        name, _, made = mark.partition(":")
        key = next((key for known, key in self._keys.items() if known.hex() == name), None)
        return key is not None and hmac.compare_digest(made, _mark(key, digest))

    def has_sealing_mark(self, mark: str) -> bool:
        """Return whether `mark` names the key that seals."""
        return mark.partition(":")[0] == self._first.hex()


def key_id(key: bytes) -> bytes:
    """Return the name of a key in what it sealed, and in messages."""
    return hashlib.sha256(key).digest()[:KEY_ID_BYTES]


def load_keys(configured: str, data_dir: Path) -> list[bytes]:
    """Return the keys of the setting, else those kept in the data directory, where one is made at first use.

    Parameters:
      configured: keys in base64, the one that seals first; commas or white space stand between them.
    Raises:
      ConfigurationError: a key is not base64 of 32 bytes, or stands there twice.
    """
    if configured:
        return _decode(configured, "COMFYLINE_SECRET_KEY")
    path = data_dir / KEY_FILE
    if not path.exists():
        _create_once(path, make_key().encode())
    return _decode(path.read_text(), str(path))


def make_key() -> str:
    """Return a new key in the form of the setting."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def _mark(key: bytes, digest: bytes) -> str:
    # The name of the use keeps it apart from all else that is made with these keys.
    return hmac.new(key, b"comfyfleet:request:" + digest, hashlib.sha256).hexdigest()


def _opened(cipher: AESGCM, sealed: bytes, bound_to: str) -> dict[str, Any]:
    nonce, ciphertext = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
    value: dict[str, Any] = json.loads(cipher.decrypt(nonce, ciphertext, bound_to.encode()))
    return value


def _decode(text: str, origin: str) -> list[bytes]:
    keys = [_key(part, origin) for part in re.split(r"[,\s]+", text) if part]
    if not keys:
        raise ConfigurationError(f"{origin} holds no key: it must be base64 of {KEY_BYTES} bytes.")
    if len(set(keys)) < len(keys):
        raise ConfigurationError(f"{origin} holds a key twice.")
    return keys


def _key(text: str, origin: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
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
