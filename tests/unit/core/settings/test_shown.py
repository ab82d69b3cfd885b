"""Settings in the book of acts: those that were set, and nothing that is secret."""

from __future__ import annotations

from core.settings import Settings, load_settings
from core.settings.shown import MASK, shown_settings

#: Values of settings that hold a secret, or may.
SECRETS = {
    "api_keys": ("hush-hush-hush",),
    "database_url": "postgresql://u:hush@h/n",
    "broker_url": "redis://:hush@h/0",
    "secret_key": "hush",
    "webhook_signing_key": "hush",
    "flower_basic_auth": "u:hush",
    "models_tokens": "hub=hush",
    "storage_access_key_id": "hush",
    "storage_secret_access_key": "hush",
    "comfyui_urls": ("http://u:hush@h:1",),
    "comfyui_args": "--token hush",
    "simulator_args": "--token hush",
    "autoscale_command": "scale --token hush",
    "upgrade_command": "upgrade --token hush",
    "autoscale_webhook_url": "https://h.example/hush",
    "autoscale_webhook_secret": "hush",
    "webhook_url": "https://h.example/hush",
    "webhook_secret": "hush",
    "s3_access_key_id": "hush",
    "s3_secret_access_key": "hush",
    "s3_session_token": "hush",
    "comfy_api_key": "hush",
}


def test_what_was_not_set_is_not_shown() -> None:
    assert shown_settings(Settings()) == {}
    assert shown_settings(load_settings(api_port=1234, lease_s=30.0)) == {
        "COMFYLINE_API_PORT": "1234",
        "COMFYLINE_LEASE_S": "30.0",
    }


def test_of_secrets_only_that_they_are_set() -> None:
    shown = shown_settings(Settings(**SECRETS))  # type: ignore[arg-type]
    assert set(shown.values()) == {MASK}
    assert len(shown) == len(SECRETS)


def test_every_secret_is_among_them() -> None:
    """A new setting whose value is hidden, or sealed, is hidden here too."""
    hidden = {
        name for name, field in Settings.model_fields.items() if not field.repr or "SecretStr" in str(field.annotation)
    }
    assert hidden <= SECRETS.keys()


def test_users_in_urls_are_left_out() -> None:
    shown = shown_settings(Settings(public_url="https://u:hush@api.example"))
    assert shown == {"COMFYLINE_PUBLIC_URL": "https://***@api.example"}
