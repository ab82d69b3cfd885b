"""What holds a secret does not show it: not by `repr`, and not where its value is refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from api.schema.bodies import SubmitBody
from api.schema.validation import read
from api.service.webhook_target import Webhook
from core.errors import ConfigurationError
from core.records.bucket_target import Credentials
from core.records.job_request import JobRequest
from core.records.webhook_target import WebhookTarget
from core.settings import Settings, load_settings

SECRET = "c4nary-7Yx"
S3 = {"access_key_id": SECRET, "secret_access_key": SECRET, "session_token": SECRET, "bucket_name": "bucket"}
#: Settings that hold a secret, or a URL in which one may stand.
SETTINGS: dict[str, Any] = {
    "api_keys": (SECRET,),
    "database_url": f"postgresql://fleet:{SECRET}@host/fleet",
    "broker_url": f"redis://:{SECRET}@host",
    "comfyui_urls": (f"http://user:{SECRET}@host",),
    "webhook_url": f"https://host/{SECRET}",
    "s3_access_key_id": SECRET,
    **{name: SecretStr(SECRET) for name, field in Settings.model_fields.items() if field.annotation is SecretStr},
}


@pytest.mark.parametrize(
    "holder",
    [
        Settings(**SETTINGS),
        JobRequest(contract="v2", graph={}, secrets={"s3": S3}),
        Credentials(access_key_id=SECRET, secret_access_key=SECRET, session_token=SECRET),
        Webhook(target=WebhookTarget(url=""), secrets={"webhook_secret": [SECRET]}),
        read(
            SubmitBody,
            {
                "s3": {**S3, "put_urls": [SECRET]},
                "webhook": {"url": "https://host/", "secret": SECRET, "headers": {"Authorization": SECRET}},
                "extra_data": {"api_key_comfy_org": SECRET},
            },
        ),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_it_shows_no_secret(holder: object) -> None:
    assert SECRET not in f"{holder!r} {holder}"


@pytest.mark.parametrize(
    ("name", "value"),
    [("COMFYLINE_BROKER_URL", f"reddis://:{SECRET}@host"), ("COMFYLINE_COMFYUI_URLS", f"ftp://user:{SECRET}@host")],
)
def test_a_refused_url_is_not_repeated(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=name) as caught:
        load_settings()

    assert SECRET not in f"{caught.value} {caught.value.__cause__}"
