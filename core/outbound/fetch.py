"""Fetch a file from a URL that a client named, within limits of size and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO
from urllib.parse import urldefrag, urljoin, urlsplit

import requests
from urllib3.exceptions import HTTPError

from core.errors import AddressRefused, InputUnavailable, InvalidRequest
from core.outbound.networks import Policy
from core.outbound.sessions import GuardedSession
from core.outbound.urls import check_url

MAX_REDIRECTS = 3
CONNECT_TIMEOUT_S = 10.0
CHUNK_BYTES = 64 * 1024
#: A compressed body could grow to any size behind the limit.
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "Comfyline"}


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a fetch has written."""

    #: As the server declares it; empty if it does not. It may be wrong.
    content_type: str
    size_bytes: int
    #: After redirects.
    url: str


def fetch(
    url: str, *, policy: Policy, limit_bytes: int, timeout_s: float, target: BinaryIO, field: str = "url"
) -> Fetched:
    """Write the file at a URL to an open file, from where that stands.

    Parameters:
      timeout_s: for everything together, names and redirects included.
      field: what errors call the URL.
    Raises:
      InvalidRequest: the URL is none that is fetched.
      InputUnavailable: there is no such file to be had. `target` may hold a part of it.
      OSError: `target` cannot be written.
    """
    check_url(url, field, policy)
    with GuardedSession(policy, limit_s=timeout_s) as session:
        try:
            return _follow(session, url, _Wish(policy=policy, limit_bytes=limit_bytes, target=target, field=field))
        except AddressRefused as exc:
            raise InputUnavailable(f"{field}: its host has a private address, which is not connected to.") from exc
        except (requests.RequestException, HTTPError) as exc:
            if session.deadline.is_over:
                raise InputUnavailable(f"{field}: its host took longer than {timeout_s:g} s.") from exc
            raise InputUnavailable(f"{field}: its host does not answer as it should.") from exc


@dataclass(frozen=True, kw_only=True)
class _Wish:
    policy: Policy
    limit_bytes: int
    target: BinaryIO
    field: str


def _follow(session: GuardedSession, url: str, wish: _Wish) -> Fetched:
    for _ in range(MAX_REDIRECTS + 1):
        left_s = session.deadline.left_s
        timeouts_s = (min(CONNECT_TIMEOUT_S, left_s), left_s)
        with session.get(url, headers=HEADERS, timeout=timeouts_s, stream=True) as answer:
            if not answer.is_redirect:
                size_bytes = _save(session, answer, wish)
                return Fetched(content_type=answer.headers.get("Content-Type", ""), size_bytes=size_bytes, url=url)
            url = _next(url, answer.headers["Location"], wish)
    raise InputUnavailable(f"{wish.field}: it is redirected more than {MAX_REDIRECTS} times.")


def _next(url: str, location: str, wish: _Wish) -> str:
    """Return where a redirect leads to, judged like a URL of the client's own."""
    try:
        target = urldefrag(urljoin(url, location)).url
        check_url(target, wish.field, wish.policy)
    except (InvalidRequest, ValueError) as exc:
        raise InputUnavailable(f"{wish.field}: it is redirected to where nothing is fetched from.") from exc
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise InputUnavailable(f"{wish.field}: it is redirected from https to http.")
    return target


def _save(session: GuardedSession, answer: requests.Response, wish: _Wish) -> int:
    """Copy the body; returns its size in bytes."""
    if answer.status_code != requests.codes.ok:
        raise InputUnavailable(f"{wish.field}: its host answered {answer.status_code}.")
    if answer.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise InputUnavailable(f"{wish.field}: its host sends it compressed, though asked not to.")
    # To refuse early what says that it is too large; the count below is what decides.
    _check_size(answer.raw.length_remaining or 0, wish)
    size_bytes = 0
    for chunk in answer.raw.stream(CHUNK_BYTES, decode_content=False):
        size_bytes += len(chunk)
        _check_size(size_bytes, wish)
        wish.target.write(chunk)
    if session.deadline.is_over:
        # A body without a length ends where its connection is cut.
        raise HTTPError
    return size_bytes


def _check_size(size_bytes: int, wish: _Wish) -> None:
    if size_bytes > wish.limit_bytes:
        raise InputUnavailable(f"{wish.field}: the file is over the limit of {wish.limit_bytes} bytes.")
