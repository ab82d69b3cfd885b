"""What the source of a model file means: a URL, an object in a bucket, or a file of a Hugging Face repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote, urlsplit

from core.errors import InvalidRequest

MAX_SOURCE_CHARS = 2048
FORMS = "https://host/file, s3://bucket/key or hf://owner/name@revision/file"
_HUB = re.compile(r"hf://(?P<repo>[\w.-]+(?:/[\w.-]+)?)@(?P<revision>[^/@]+)/(?P<file>.+)")
_BUCKET = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9])/(?P<key>.+)")
#: Names in a query whose values open the file: they would stand in the ledger for everybody who can list it.
_SECRET_NAMES = re.compile(r"(?i)(?:^|[-_.])(?:token|key|apikey|sig|signature|password|secret|auth)$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model file comes from."""

    kind: Literal["http", "s3", "hub"]
    #: Of `http`: the URL. Of `s3`: the key. Of `hub`: the file's path in the repository.
    name: str
    #: Of `s3`: the bucket. Of `hub`: the repository.
    container: str = ""
    #: Of `hub`: a branch, a tag or a commit.
    revision: str = ""

    def hub_url(self, endpoint: str) -> str:
        """Return where the file of a hub is, below the hub's address."""
        return f"{endpoint.rstrip('/')}/{self.container}/resolve/{quote(self.revision, safe='')}/{quote(self.name)}"


def parse_source(text: str, *, allow_http: bool) -> Source:
    """Read a source.

    Raises:
      InvalidRequest: it is none of `FORMS`, or holds what must not stand in the ledger.
    """
    if len(text) > MAX_SOURCE_CHARS or not text.isprintable() or " " in text:
        raise InvalidRequest(f"source must be a URL of up to {MAX_SOURCE_CHARS} printable characters, without blanks.")
    if found := _HUB.fullmatch(text):
        return Source(kind="hub", name=found["file"], container=found["repo"], revision=found["revision"])
    if found := _BUCKET.fullmatch(text):
        return Source(kind="s3", name=found["key"], container=found["bucket"])
    if not text.startswith(("https://", "http://")):
        raise InvalidRequest(f"source must be {FORMS}.")
    _check_url(text, allow_http=allow_http)
    return Source(kind="http", name=text)


def _check_url(text: str, *, allow_http: bool) -> None:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise InvalidRequest(f"source is no URL that can be read; it must be {FORMS}.") from exc
    if not host or parts.path in ("", "/"):
        raise InvalidRequest("source must name a host and a file: https://host/file.")
    if parts.scheme == "http" and not allow_http:
        raise InvalidRequest("source must be https://; COMFYLINE_MODELS_ALLOW_HTTP=true allows http://.")
    if parts.username is not None or parts.password is not None:
        raise InvalidRequest("source must hold no user and password: name a token instead, see docs/models.md.")
    if any(_SECRET_NAMES.search(name) for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise InvalidRequest("source must hold no key in its query: name a token instead, see docs/models.md.")
