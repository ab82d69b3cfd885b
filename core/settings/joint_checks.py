"""Checks of settings that belong together; pydantic's validators would put the secrets beside them into the message."""

from __future__ import annotations

import re
from itertools import combinations

from core.errors import ConfigurationError
from core.object_keys import DEFAULT_TEMPLATE
from core.settings.settings import Settings
from core.settings.value_types import names_a_host
from core.webhooks.keys import hmac_key, seed, split_secrets

#: What botocore takes for one.
_REGION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


def refuse_half_a_bucket(settings: Settings) -> None:
    """Raise ConfigurationError where a bucket is named in part."""
    needed = {
        "S3_ACCESS_KEY_ID": settings.s3_access_key_id,
        "S3_SECRET_ACCESS_KEY": settings.s3_secret_access_key.get_secret_value(),
        "S3_BUCKET_NAME": settings.s3_bucket_name,
    }
    others = (
        settings.s3_endpoint_url,
        settings.s3_session_token.get_secret_value(),
        settings.s3_prefix,
        settings.s3_key_template != DEFAULT_TEMPLATE,
        settings.s3_public_url,
        settings.s3_addressing,
    )
    absent = [name for name, value in needed.items() if not value]
    if absent and (len(absent) < len(needed) or any(others)):
        raise ConfigurationError(f"{', '.join(absent)} missing: set all of {', '.join(needed)}, or no S3_ variable.")


def refuse_half_a_storage(settings: Settings) -> None:
    """Raise ConfigurationError where one half of the storage's credentials is missing, or they are for no bucket."""
    halves = {
        "COMFYLINE_STORAGE_ACCESS_KEY_ID": settings.storage_access_key_id,
        "COMFYLINE_STORAGE_SECRET_ACCESS_KEY": settings.storage_secret_access_key.get_secret_value(),
    }
    absent = [name for name, value in halves.items() if not value]
    if len(absent) == 1:
        raise ConfigurationError(f"{absent[0]} missing: set both of {' and '.join(halves)}, or neither.")
    others = {
        **halves,
        "COMFYLINE_STORAGE_ENDPOINT_URL": settings.storage_endpoint_url,
        "COMFYLINE_STORAGE_REGION": settings.storage_region,
        "COMFYLINE_STORAGE_ADDRESSING": settings.storage_addressing,
    }
    given = [name for name, value in others.items() if value]
    if given and not settings.storage_url:
        raise ConfigurationError(f"COMFYLINE_STORAGE_URL missing: {given[0]} is for a bucket, s3://bucket/prefix.")
    if settings.storage_region and not _REGION.fullmatch(settings.storage_region):
        raise ConfigurationError("COMFYLINE_STORAGE_REGION must be letters, digits and '-', such as eu-west-1.")


def refuse_addresses_of_nothing(settings: Settings) -> None:
    """Raise ConfigurationError where the address of a server for files is no URL that names a host."""
    given = {
        "COMFYLINE_STORAGE_ENDPOINT_URL": settings.storage_endpoint_url,
        "COMFYLINE_MODELS_HUB_URL": settings.models_hub_url,
        "COMFYLINE_MODELS_S3_ENDPOINT_URL": settings.models_s3_endpoint_url,
    }
    for name, url in given.items():
        if url and not names_a_host(url):
            raise ConfigurationError(f"{name} must begin with http:// or https:// and name a host: https://host:port.")


def refuse_shared_ports(settings: Settings) -> None:
    """Raise ConfigurationError where something would take the place of the API, or of something else beside it."""
    ports = {
        "COMFYLINE_API_PORT": settings.api_port,
        "COMFYLINE_METRICS_PORT": settings.metrics_port,
        "COMFYLINE_COMFYUI_PORT": settings.comfyui_port,
    }
    for (name, port), (other, another) in combinations(ports.items(), 2):
        if port is not None and port == another:
            raise ConfigurationError(f"{other} and {name} are both {port}; change one.")


def refuse_malformed_keys(settings: Settings) -> None:
    """Raise ConfigurationError for a signing secret or key that cannot be read."""
    try:
        name = "WEBHOOK_SECRET"
        for secret in split_secrets(settings.webhook_secret.get_secret_value()):
            hmac_key(secret)
        name = "COMFYLINE_AUTOSCALE_WEBHOOK_SECRET"
        for secret in split_secrets(settings.autoscale_webhook_secret.get_secret_value()):
            hmac_key(secret)
        name = "COMFYLINE_WEBHOOK_SIGNING_KEY"
        if signing_key := settings.webhook_signing_key.get_secret_value():
            seed(signing_key)
    except ValueError as exc:
        raise ConfigurationError(f"{name} {exc}.") from exc


def refuse_malformed_tokens(settings: Settings) -> None:
    """Raise ConfigurationError for tokens without a name, or names without a token."""
    for name, token in settings.named_tokens.items():
        if not name or not token or not (token.isascii() and token.isprintable()):
            raise ConfigurationError("COMFYLINE_MODELS_TOKENS must be name=token, several of them separated by commas.")


def refuse_telling_of_nothing(settings: Settings) -> None:
    """Raise ConfigurationError where somebody is to be told what pools want, and none is scaled."""
    told = {
        "COMFYLINE_AUTOSCALE_COMMAND": settings.autoscale_command,
        "COMFYLINE_AUTOSCALE_WEBHOOK_URL": settings.autoscale_webhook_url,
    }
    given = [name for name, value in told.items() if value]
    if given and not settings.autoscale_pools:
        raise ConfigurationError(
            f"COMFYLINE_AUTOSCALE_POOLS missing: {given[0]} is told when a pool that is scaled wants another number of "
            "GPUs. Name the pools, for instance -=0-8."
        )
