"""Where a source of the manifest is got from this host, and with which token."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

from comfy.model_files.remote import Address
from core.buckets.dialect import dialect
from core.errors import ConfigurationError, InvalidRequest, ModelRefused, ModelUnavailable
from core.model_files.entries import Rules, check_entry
from core.model_files.sources import Source, parse_source
from core.outbound import Policy
from core.records.model_file import ModelFile
from core.settings import Settings

#: A signed URL is used at once, and made anew for each range.
SIGNED_S = 900


#: Opens a token by its name; None: there is none.
TokenOf: TypeAlias = Callable[[str], str | None]


def address_of(entry: ModelFile, settings: Settings, token_of: TokenOf = lambda _name: None) -> Address:
    """Return where to get a file.

    Parameters:
      token_of: opens the tokens that were entered; those of this host's settings go before.
    Raises:
      ModelRefused: this host's settings do not allow it, or its token or the credentials are missing.
      LedgerUnavailable: the token cannot be asked for now.
    """
    try:
        # The host's own word counts, whatever an API of other settings has let in.
        check_entry(entry, Rules.of(settings))
        source = parse_source(entry.source, allow_http=settings.models_allow_http)
    except InvalidRequest as exc:
        raise ModelRefused(exc.message) from exc
    token = None if entry.token is None else _token(entry.token, settings, token_of)
    if source.kind == "s3":
        return _signed(entry, source, settings)
    url = source.name if source.kind == "http" else source.hub_url(settings.models_hub_url)
    return Address(
        url=lambda: url,
        shown=entry.source,
        token=token,
        allow_http=settings.models_allow_http or url.startswith("http://"),
        policy=Policy.of_operator(settings),
    )


def _token(name: str, settings: Settings, token_of: TokenOf) -> str:
    own = settings.named_tokens.get(name)
    try:
        found = token_of(name) if own is None else own
    except ConfigurationError as exc:
        raise ModelRefused(
            f"The token {name} was sealed with another COMFYLINE_SECRET_KEY: enter it again with comfyline models "
            f"tokens set {name}."
        ) from exc
    if found is None:
        raise ModelRefused(
            f"There is no token {name}: enter it with comfyline models tokens set {name}, or have it in "
            "COMFYLINE_MODELS_TOKENS of this host."
        )
    return found


def _signed(entry: ModelFile, source: Source, settings: Settings) -> Address:
    endpoint = settings.models_s3_endpoint_url or None
    # No certificate is good for a host name with the dots of a bucket's name in it.
    addressing = "path" if "." in source.container else None
    try:
        # Credentials and region by the usual chain: environment, profile, the machine's role.
        client = boto3.Session().client(
            "s3", endpoint_url=endpoint, config=Config(**dialect(addressing=addressing, endpoint_url=endpoint))
        )
        sign = partial(
            client.generate_presigned_url,
            "get_object",
            Params={"Bucket": source.container, "Key": source.name},
            ExpiresIn=SIGNED_S,
        )
        sign()
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as exc:
        raise ModelRefused(
            f"{entry.source} cannot be asked for: boto3 finds no credentials on this host ({type(exc).__name__}); see "
            "AWS_ACCESS_KEY_ID and AWS_PROFILE."
        ) from exc
    except (BotoCoreError, ValueError) as exc:
        raise ModelRefused(f"{entry.source} cannot be asked for: {type(exc).__name__}.") from exc

    def url() -> str:
        try:
            return str(sign())
        except BotoCoreError as exc:
            raise ModelUnavailable(f"{entry.source} cannot be asked for now: {type(exc).__name__}.") from exc

    return Address(
        url=url,
        shown=entry.source,
        allow_http=settings.models_allow_http or (endpoint or "").startswith("http://"),
        policy=Policy.of_operator(settings),
    )
