"""Where a source of the manifest is got from this host, and with which token."""

from __future__ import annotations

from functools import partial

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError, PartialCredentialsError, ProfileNotFound

from comfy.model_files.remote import Address
from core.buckets.dialect import dialect
from core.errors import InvalidRequest, ModelRefused, ModelUnavailable
from core.model_files.entries import Rules, check_entry
from core.model_files.sources import Source, parse_source
from core.outbound import Policy
from core.records.model_file import ModelFile
from core.settings import Settings

#: A signed URL is used at once, and made anew for each range.
SIGNED_S = 900


def address_of(entry: ModelFile, settings: Settings) -> Address:
    """Return where to get a file.

    Raises:
      ModelRefused: this host's settings do not allow it, or lack its token or the credentials.
    """
    try:
        # The host's own word counts, whatever an API of other settings has let in.
        check_entry(entry, Rules.of(settings))
        source = parse_source(entry.source, allow_http=settings.models_allow_http)
    except InvalidRequest as exc:
        raise ModelRefused(exc.message) from exc
    token = None
    if entry.token is not None and (token := settings.named_tokens.get(entry.token)) is None:
        raise ModelRefused(f"COMFYLINE_MODELS_TOKENS of this host has no token {entry.token}.")
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
