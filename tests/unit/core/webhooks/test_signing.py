"""The headers of webhooks: the specification's own vectors, and its library as the receiver."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from core.errors import ConfigurationError
from core.records.webhook_target import ENVIRONMENT, REQUEST, WebhookOrigin, WebhookTarget
from core.webhooks.keys import hmac_key, secrets_for, seed, split_secrets
from core.webhooks.signing import headers_for, load_signing_key, public_key_text
from tests.paths import ROOT

BODY = b'{"type":"job.completed","data":{"name":"\xc3\xa9"}}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEWER = "whsec_" + base64.b64encode(bytes(range(32))).decode()
#: RFC 8032, section 7.1, test 1.
SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")


def signed(
    secrets: list[str], *, contract: str = "v2", key: str = "", timestamp_s: int | None = None
) -> dict[str, str]:
    return headers_for(
        BODY,
        message_id="msg-1",
        timestamp_s=timestamp_s or int(time.time()),
        secrets=secrets,
        contract=contract,
        private_key=load_signing_key(key),
    )


def verified(secret: str | bytes, headers: dict[str, str], body: bytes = BODY) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except WebhookVerificationError:
        return False
    return True


def test_a_known_signature() -> None:
    # The example of the libraries of the specification.
    headers = headers_for(
        b'{"test": 2432232314}',
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp_s=1614265330,
        secrets=[SECRET],
        contract="v2",
    )

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_the_library_of_the_specification_accepts_it_and_no_other() -> None:
    headers = signed([SECRET])

    assert verified(SECRET, headers)
    assert not verified(NEWER, headers)
    assert not verified(SECRET, headers, BODY + b" ")
    assert not verified(SECRET, headers | {"webhook-id": "msg-2"})
    assert not verified(SECRET, headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)})


def test_while_secrets_are_rotated_either_of_them_will_do() -> None:
    headers = signed([SECRET, NEWER])

    assert headers["webhook-signature"].count("v1,") == 2
    assert verified(SECRET, headers)
    assert verified(NEWER, headers)


def test_a_secret_of_another_form_is_the_key_itself() -> None:
    assert verified(b"shared-secret", signed(["shared-secret"]))


def test_the_generate_contract_signs_the_body_alone_as_well() -> None:
    for secret in ("shared-secret", SECRET):
        headers = signed([secret, NEWER], contract="generate")

        expected = hmac.new(secret.encode(), BODY, hashlib.sha256).hexdigest()
        assert headers["X-Webhook-Signature"] == f"sha256={expected}"
    assert "X-Webhook-Signature" not in signed([SECRET], contract="v2")


def test_nothing_to_sign_with_is_no_signature() -> None:
    assert set(signed([])) == set(signed([], contract="generate")) == {"webhook-id", "webhook-timestamp"}


@pytest.mark.parametrize("prefix", ["", "whsk_"])
def test_the_fleets_own_key_signs_beside_the_secrets(prefix: str) -> None:
    text = prefix + base64.b64encode(SEED).decode()
    headers = signed([SECRET], key=text)
    private_key = load_signing_key(text)
    assert private_key is not None

    assert public_key_text(private_key) == "whpk_" + base64.b64encode(PUBLIC).decode()
    first, second = headers["webhook-signature"].split(" ")
    assert first.startswith("v1,")
    assert second.startswith("v1a,")
    content = f"msg-1.{headers['webhook-timestamp']}.".encode() + BODY
    public_key = Ed25519PublicKey.from_public_bytes(PUBLIC)
    public_key.verify(base64.b64decode(second.removeprefix("v1a,")), content)
    with pytest.raises(InvalidSignature):
        public_key.verify(base64.b64decode(second.removeprefix("v1a,")), content + b" ")
    assert verified(SECRET, headers), "a receiver that knows only v1 passes over it"


@pytest.mark.parametrize("text", ["whsk_", "AAAA", base64.b64encode(bytes(33)).decode(), "not base64: \u00e9"])
def test_a_signing_key_that_is_none_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ConfigurationError, match="COMFYLINE_WEBHOOK_SIGNING_KEY must be base64 of 32 bytes") as caught:
        load_signing_key(text)
    assert text not in caught.value.message or text == "whsk_"


@pytest.mark.parametrize("secret", ["whsec_", "whsec_!!!", "whsec_YQ=b", "whsec_\u00e9"])
def test_a_secret_that_only_looks_like_one_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="must have base64 behind whsec_"):
        hmac_key(secret)


def test_padding_may_be_left_out() -> None:
    assert hmac_key("whsec_YQ") == hmac_key("whsec_YQ==") == b"a"
    assert seed(base64.b64encode(SEED).decode().rstrip("=")) == SEED


@pytest.mark.parametrize("secret", [SECRET, "shared-secret"])
def test_the_recipe_of_the_documentation_tells_genuine_from_forged(secret: str) -> None:
    text = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    code = re.search(r"^```python\n(.*?)^```$", text.partition("\n## Signatures\n")[2], re.MULTILINE | re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)
    is_genuine = names["is_genuine"]
    headers = signed([NEWER, secret], key=base64.b64encode(SEED).decode())

    assert is_genuine(secret, headers, BODY)
    assert not is_genuine(secret, headers, BODY + b" ")
    assert not is_genuine("another", headers, BODY)
    assert not is_genuine(secret, signed([secret], timestamp_s=int(time.time()) - 600), BODY)


@pytest.mark.parametrize(
    ("origin", "sealed", "secrets"),
    [
        (REQUEST, {}, ()),
        (REQUEST, {"webhook_secret": "a,b"}, ("a,b",)),
        (REQUEST, {"webhook_secret": ["a", "b"]}, ("a", "b")),
        (ENVIRONMENT, {"webhook_secret": "a"}, ("one", "two")),
    ],
)
def test_the_operators_secret_signs_nothing_for_others(
    origin: WebhookOrigin, sealed: dict[str, Any], secrets: tuple[str, ...]
) -> None:
    assert secrets_for(WebhookTarget(url="https://example.com/", origin=origin), sealed, "one, two") == secrets


@pytest.mark.parametrize(("text", "secrets"), [("", ()), ("a", ("a",)), (" a , b ", ("a", "b")), (",", ())])
def test_an_operators_setting_may_hold_two(text: str, secrets: tuple[str, ...]) -> None:
    assert split_secrets(text) == secrets
