"""Which bucket a job's files go to, and what requests to it are signed with, as the ledger keeps both."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, TypeAlias

from core.object_keys import DEFAULT_TEMPLATE
from core.texts.stored_json import known_fields

#: How a bucket is named in a URL: `https://host/bucket/key` or `https://bucket.host/key`.
Addressing: TypeAlias = Literal["path", "virtual"]
#: Whose credentials sign. `put_urls`: a client has signed already, and neither bucket nor keys are known here.
BucketOrigin: TypeAlias = Literal["request", "environment", "put_urls"]
REQUEST: Final = "request"
ENVIRONMENT: Final = "environment"
PUT_URLS: Final = "put_urls"

CONNECT_TIMEOUT_S = 60.0
CONNECT_ATTEMPTS = 3
CREDENTIALS = ("access_key_id", "secret_access_key", "session_token")


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What requests to a bucket are signed with."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)

    def to_json(self) -> dict[str, str | None]:
        """Return the credentials as a job's sealed secrets keep them, under `s3`."""
        return {name: getattr(self, name) for name in CREDENTIALS}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Credentials:
        """Read what `to_json` wrote, in this version or another."""
        given = {"access_key_id": "", "secret_access_key": ""} | known_fields(cls, value)
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class BucketTarget:
    """Where in which bucket; never a secret."""

    #: None: Amazon's own endpoint for the region.
    endpoint_url: str | None
    bucket_name: str
    region: str | None
    #: Folders joined by `/`, without one at either end; may be empty.
    prefix: str
    #: See `core.object_keys`.
    key_template: str = DEFAULT_TEMPLATE
    #: Where anybody finds the objects; None: links are presigned.
    public_url: str | None = None
    #: None: by path at an endpoint of its own, virtual at Amazon's.
    addressing: Addressing | None = None
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    #: Tries of one HTTP request, the first included.
    connect_attempts: int = CONNECT_ATTEMPTS
    origin: BucketOrigin = REQUEST

    def to_json(self) -> dict[str, Any]:
        """Return the target as a job keeps it, among its `OutputOptions`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> BucketTarget:
        """Read what `to_json` wrote, in this version or another."""
        given = {"endpoint_url": None, "bucket_name": "", "region": None, "prefix": ""} | known_fields(cls, value)
        return cls(**given)
