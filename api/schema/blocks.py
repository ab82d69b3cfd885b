"""Blocks within request bodies, such as a bucket or a webhook: a field they do not know is refused, never ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.schema.field_types import ExtraParams, PoolName, PutUrls, WebhookEvents, WebhookHeaders, WebhookSecret
from api.schema.validation import OTHER_NAME, Body
from core.object_keys import DEFAULT_TEMPLATE
from core.records.requirements import MAX_VRAM_GB

MAX_URL_CHARS = 2048
MAX_TEMPLATE_CHARS = 512
MAX_WEBHOOK_TIMEOUT_S = 300.0

WEBHOOK_EXAMPLE: dict[str, Any] = {
    "url": "https://example.com/hook",
    "events": ["job.completed", "job.failed"],
    "extra_params": {"order": 4711},
    "timeout": 30,
}
_S3_EXAMPLE: dict[str, Any] = {
    "access_key_id": "your-key",
    "secret_access_key": "your-secret",
    "endpoint_url": "https://s3.example.com",
    "bucket_name": "your-bucket",
    "region": "us-east-1",
    "prefix": "renders",
}


class Named(Body):
    """A body whose clients may know one of its fields by another system's name: they are told ours."""

    #: Other names, in lower case and without `_` and `-`, and what each is called here.
    other_names: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _by_our_names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        unknown = [name for name, inner in value.items() if name not in cls.model_fields and not is_blank(inner)]
        names = {name: ours for name in unknown if (ours := cls.our_name(name)) is not None}
        if names:
            raise PydanticCustomError(OTHER_NAME, "other names", {"names": names})
        return value

    @classmethod
    def our_name(cls, name: str) -> str | None:
        """Return the name, or the place, of the field that is meant by one of its own or another system's names."""
        by_spelling = {_plain(field): field for field in cls.model_fields}
        return cls.other_names.get(_plain(name)) or by_spelling.get(_plain(name))


class Strict(Named):
    """A body that no other system has: a field that it does not know is refused, even a blank one.

    Its clients were written for it, and what they misspell would be lost.
    """

    model_config = ConfigDict(extra="forbid")


class Block(Named):
    """A block within a body. A field that it does not know is refused: to ignore `bucket` would lose the files.

    Blank ones are taken, whatever their names: sample clients send every field of a block, blank, when they mean none.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_unknown_blanks(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: inner for name, inner in value.items() if name in cls.model_fields or not is_blank(inner)}


def is_blank(value: Any) -> bool:
    """Return whether a value says nothing."""
    return value in (None, [], {}) or (isinstance(value, str) and not value.strip())


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


class S3Body(Block):
    """A bucket for the outputs. Without keys and bucket: the server's own bucket, under this prefix."""

    model_config = ConfigDict(json_schema_extra={"examples": [_S3_EXAMPLE]})
    other_names: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("accesskey", "accessid", "awsaccesskeyid", "awsaccesskey", "keyid"), "access_key_id"),
        **dict.fromkeys(
            ("secretkey", "secretaccesskeyid", "accesssecret", "awssecretaccesskey", "awssecretkey"),
            "secret_access_key",
        ),
        **dict.fromkeys(("token", "awssessiontoken", "securitytoken"), "session_token"),
        **dict.fromkeys(("bucket", "awsbucketname", "awsbucket", "s3bucket", "s3bucketname"), "bucket_name"),
        **dict.fromkeys(("endpoint", "awsendpointurl", "awsendpoint", "s3endpoint", "host", "url"), "endpoint_url"),
        **dict.fromkeys(("regionname", "awsregion", "awsregionname", "awsdefaultregion", "s3region"), "region"),
        **dict.fromkeys(("keyprefix", "path", "folder", "directory", "objectprefix"), "prefix"),
        **dict.fromkeys(("key", "keytemplate", "objectkey"), "key_template"),
        **dict.fromkeys(("publicurlbase", "baseurl", "cdnurl"), "public_url"),
        **dict.fromkeys(("forcepathstyle", "s3forcepathstyle", "addressingstyle"), "addressing"),
        **dict.fromkeys(("puturl", "presignedurls", "signedurls", "uploadurls"), "put_urls"),
        "timeout": "connect_timeout",
        **dict.fromkeys(("retries", "maxattempts"), "connect_attempts"),
    }

    access_key_id: str | None = Field(
        None, repr=False, description="With the secret and the bucket: all three, or none."
    )
    secret_access_key: str | None = Field(None, repr=False, description="Sealed; deleted with the job's end.")
    session_token: str | None = Field(None, repr=False, description="Of temporary keys.")
    bucket_name: str | None = None
    endpoint_url: str | None = Field(None, max_length=MAX_URL_CHARS, description="Of servers that are not Amazon's.")
    region: str | None = None
    prefix: str | None = Field(None, description="Folder in the bucket; files lie below <prefix>/<job id>/.")
    key_template: str | None = Field(
        None,
        max_length=MAX_TEMPLATE_CHARS,
        description="How keys are made, of {prefix}, {job_id}, {request_id}, {filename}, {node_id}, {ordinal}, {date}. "
        f"Default: {DEFAULT_TEMPLATE}",
    )
    public_url: str | None = Field(
        None, max_length=MAX_URL_CHARS, description="Where anybody finds the objects: the answer's URLs begin with it."
    )
    addressing: Literal["path", "virtual"] | None = Field(
        None, description="How URLs name the bucket. Default: path at an endpoint_url, else virtual."
    )
    put_urls: PutUrls = Field(None, repr=False)
    connect_timeout: float | None = Field(None, gt=0, le=300, description="Seconds. Default: 60.")
    connect_attempts: int | None = Field(None, ge=1, le=10, description="Tries at one request. Default: 3.")

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: inner for name, inner in value.items() if not is_blank(inner)}

    @property
    def is_blank(self) -> bool:
        """Whether no bucket is meant; the time limits alone mean none."""
        return not self.model_fields_set - {"connect_timeout", "connect_attempts"}


class RequiresBody(Block):
    """What the GPU must be that runs the job: all that is said has to hold."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"pool": "h100", "vram_gb": 24}]})
    other_names: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("pools", "gpupool", "poolname", "label", "tag"), "pool"),
        **dict.fromkeys(("vram", "minvram", "minvramgb", "gpumemory", "memorygb", "gpuram", "gpuramgb"), "vram_gb"),
    }

    pool: PoolName = None
    vram_gb: float | None = Field(None, ge=0, le=MAX_VRAM_GB, description="Its memory, at least, in GB of 10^9 bytes.")


class WebhookBody(Block):
    """Where the events of a job are to be told. A blank url means no webhook of one's own."""

    model_config = ConfigDict(json_schema_extra={"examples": [WEBHOOK_EXAMPLE]})
    other_names: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("uri", "endpoint", "endpointurl", "webhookurl", "callback", "callbackurl", "target"), "url"),
        **dict.fromkeys(("event", "eventtypes", "types", "webhookeventsfilter"), "events"),
        **dict.fromkeys(("extra", "params", "webhookextraparams", "metadata", "data"), "extra_params"),
        **dict.fromkeys(("timeouts", "timeoutseconds", "webhooktimeout"), "timeout"),
        **dict.fromkeys(("secrets", "secretkey", "signingsecret", "signingkey", "webhooksecret", "token"), "secret"),
        **dict.fromkeys(
            ("header", "httpheaders", "customheaders", "auth", "authorization", "basicauth", "apikey"), "headers"
        ),
    }

    url: str = Field(max_length=MAX_URL_CHARS, description="http or https, without a user name.")
    events: WebhookEvents = None
    extra_params: ExtraParams = Field(None, description="Returned in the events as extra; at most 8 KiB as JSON.")
    timeout: float | None = Field(
        None, gt=0, le=MAX_WEBHOOK_TIMEOUT_S, description="Seconds for the receiver's answer. Default: WEBHOOK_TIMEOUT."
    )
    secret: WebhookSecret = Field(None, repr=False)
    headers: WebhookHeaders = Field(None, repr=False)
