"""Requests of the platform are let in once; all others are not."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cli.vast.signatures import REMEMBERED, Signatures, missing_of, read_key

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def signed(reqnum: int = 1, **fields: Any) -> dict[str, Any]:
    """What the router says of a request, as the published SDK checks it: JSON with sorted keys, indented by four."""
    said = {"cost": "100", "endpoint": "e", "reqnum": reqnum, "request_idx": reqnum, "url": "http://w:1", **fields}
    text = json.dumps(said, indent=4, sort_keys=True)
    signature = KEY.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    return {**said, "signature": base64.b64encode(signature).decode()}


@pytest.fixture
def signatures() -> Signatures:
    return Signatures(KEY.public_key())


def test_a_signed_request_is_let_in_once(signatures: Signatures) -> None:
    request = signed()
    assert signatures.admit(request)
    assert not signatures.admit(request)
    assert signatures.admit(signed(2))
    assert signatures.admit(signed(3, cost=7.5))


@pytest.mark.parametrize("field", ["cost", "endpoint", "reqnum", "request_idx", "url"])
def test_whoever_changes_anything_is_not(signatures: Signatures, field: str) -> None:
    request = signed()
    request[field] = 5 if isinstance(request[field], int) else "other"
    assert not signatures.admit(request)
    # It was not let in, so it is not remembered.
    assert signatures.admit(signed())


@pytest.mark.parametrize("signature", ["", "x", "AAAA", "é"])
def test_what_is_no_signature(signatures: Signatures, signature: str) -> None:
    assert not signatures.admit({**signed(), "signature": signature})


def test_the_order_of_fields_and_further_ones_do_not_matter(signatures: Signatures) -> None:
    request = signed()
    assert signatures.admit({"__request_id": "x", **dict(reversed(request.items()))})


def test_what_is_too_old_to_be_remembered_is_refused(signatures: Signatures) -> None:
    assert signatures.admit(signed(1_000))
    assert signatures.admit(signed(1_000 - REMEMBERED))
    assert not signatures.admit(signed(1_000 - REMEMBERED - 1))


@pytest.mark.parametrize(
    "later",
    [
        pytest.param([{"reqnum": number} for number in range(2, REMEMBERED + 2)], id="of numbers that follow"),
        pytest.param([{"reqnum": 1, "request_idx": each} for each in range(500, 700)], id="of one number"),
    ],
)
def test_none_is_let_in_again_however_many_came_after_it(signatures: Signatures, later: list[dict[str, int]]) -> None:
    request = signed()
    assert signatures.admit(request)
    for fields in later:
        assert signatures.admit(signed(**fields))

    assert not signatures.admit(request)


def test_what_is_missing_is_named() -> None:
    assert missing_of(None) == {"auth_data": "field missing"}
    assert missing_of({**signed(), "reqnum": True}) == {"reqnum": "wrong type"}
    assert set(missing_of({})) == {"signature", "cost", "endpoint", "reqnum", "request_idx", "url"}
    assert missing_of(signed()) == {}


def test_keys() -> None:
    public = KEY.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    ssh = public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    for text in (pem, f"\n{pem}\n", ssh):
        assert read_key(text).public_numbers() == public.public_numbers()
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    for text in ("", "x", other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()):
        with pytest.raises(ValueError, match=r"."):
            read_key(text)
