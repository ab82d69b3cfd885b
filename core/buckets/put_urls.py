"""URLs that a client has signed for putting files to, in place of credentials, and which of them is for which file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import InvalidRequest
from core.outbound import Policy, check_url

#: The name, in a map, of the URL for the first file that has none of its own.
ANY = "*"
MAX_URLS = 1000
#: Signed with temporary credentials they grow long.
MAX_URL_CHARS = 8192


@dataclass(frozen=True, kw_only=True)
class PutUrls:
    """URLs that anybody can write to, so they are kept sealed, like credentials."""

    #: In the order of the outputs, or by file name.
    urls: tuple[str, ...] | dict[str, str] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the form that a job's sealed secrets keep, under `s3`."""
        return {"put_urls": self.urls}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> PutUrls:
        """Return the URLs that `to_json` wrote."""
        urls = value.get("put_urls", ())
        return cls(urls=urls if isinstance(urls, dict) else tuple(urls))

    def for_files(self, names: Sequence[str]) -> list[str | None]:
        """Return the URL of each file, in the order of the outputs; None: there is none left. None serves two files."""
        if not isinstance(self.urls, dict):
            return [self.urls[number] if number < len(self.urls) else None for number in range(len(names))]
        others = iter([self.urls[ANY]] if ANY in self.urls else [])
        return [self.urls[name] if name in self.urls else next(others, None) for name in names]


def parse_put_urls(value: Any, policy: Policy) -> PutUrls:
    """Read a list of URLs in the order of outputs, or a map of names (and `*`) to URLs. Raises InvalidRequest."""
    named = isinstance(value, dict)
    if not named and not isinstance(value, (list, tuple)):
        raise InvalidRequest("s3.put_urls must be a list of URLs in the order of the outputs, or a map by file name.")
    urls = list(value.values() if named else value)
    if len(urls) > MAX_URLS:
        raise InvalidRequest(f"s3.put_urls has {len(urls)} URLs; at most {MAX_URLS} are accepted.")
    for url in urls:
        if not isinstance(url, str):
            raise InvalidRequest("s3.put_urls must hold nothing but URLs, as text.")
        check_url(url, "s3.put_urls", policy, max_chars=MAX_URL_CHARS)
    if len(set(urls)) < len(urls):
        raise InvalidRequest("s3.put_urls names a URL twice: one file would overwrite the other.")
    return PutUrls(urls=dict(value) if named else tuple(urls))
