"""Whether a request comes from the platform's router, and for the first time.

The router signs what it says of a request (RSA, PKCS #1 v1.5, SHA-256) as JSON with sorted keys, indented by four.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

#: What is signed, and the type of each.
SIGNED: Final[Mapping[str, tuple[type, ...]]] = {
    "cost": (str, int, float),
    "endpoint": (str,),
    "reqnum": (int,),
    "request_idx": (int,),
    "url": (str,),
}
#: A request whose number is smaller than the highest by more than that is refused. All others are remembered: were it
#: so many requests, one could be let in again once as many had come after it.
REMEMBERED = 100


class Signatures:
    """Checks requests, one at a time; remembers those it let in, until its process ends."""

    def __init__(self, key: RSAPublicKey) -> None:
        self._key = key
        self._highest = -1
        #: By number, the messages of those that were let in.
        self._seen: dict[int, set[str]] = {}

    def admit(self, auth_data: Mapping[str, Any]) -> bool:
        """Return whether a request is let in: signed, not seen before, and not too old. `missing_of` comes first."""
        message = json.dumps({name: auth_data[name] for name in SIGNED}, indent=4, sort_keys=True)
        number: int = auth_data["reqnum"]
        if number < self._highest - REMEMBERED or message in self._seen.get(number, ()):
            return False
        try:
            signature = base64.b64decode(auth_data["signature"], validate=True)
            self._key.verify(signature, message.encode(), padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        self._seen.setdefault(number, set()).add(message)
        if number > self._highest:
            self._highest = number
            self._seen = {each: seen for each, seen in self._seen.items() if each >= number - REMEMBERED}
        return True


def missing_of(auth_data: Any) -> dict[str, str]:
    """Return what is wrong with `auth_data`, by its fields; empty if nothing is."""
    if not isinstance(auth_data, dict):
        return {"auth_data": "field missing"}
    wrong = {name: "missing parameter" for name in ("signature", *SIGNED) if name not in auth_data}
    for name, types in {"signature": (str,), **SIGNED}.items():
        value = auth_data.get(name)
        if name not in wrong and (not isinstance(value, types) or isinstance(value, bool)):
            wrong[name] = "wrong type"
    return wrong


def read_key(text: str) -> RSAPublicKey:
    """Return the platform's public key. Raises ValueError: it is none of RSA."""
    content = text.strip().encode()
    try:
        key = load_ssh_public_key(content) if content.startswith(b"ssh-") else load_pem_public_key(content)
    except UnsupportedAlgorithm as exc:
        raise ValueError("it is of an unknown kind") from exc
    if not isinstance(key, RSAPublicKey):
        raise ValueError("it is no RSA key")
    return key
