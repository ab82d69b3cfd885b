"""The URL of a webhook in two parts: what rows and lists may show, and its query, which is often somebody's key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: The name of the query among the secrets of a job.
QUERY = "webhook_query"


def split_query(url: str) -> tuple[str, dict[str, str]]:
    """Return the URL up to its question mark, which stays, and what is to be sealed of it."""
    shown, mark, query = url.partition("?")
    return shown + mark, {QUERY: query} if query else {}


def whole_url(shown: str, sealed: Mapping[str, Any]) -> str:
    """Return the URL to post to. Parameters: sealed - the job's secrets, opened."""
    return shown + sealed.get(QUERY, "") if has_sealed_query(shown) else shown


def has_sealed_query(shown: str) -> bool:
    """Return whether the rest of a URL may be among the secrets; one of an earlier version stands there as a whole."""
    return shown.endswith("?")
