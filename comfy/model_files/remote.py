"""What a source of model files answers: how large a file is, whether it gives parts of it, and its bytes."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import requests
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError

from comfy.model_files.refusals import check_answer
from core.errors import AddressRefused, ModelRefused, ModelUnavailable
from core.outbound import UNRESTRICTED, Policy
from core.outbound.sessions import GuardedAdapter

#: To connect, and between two pieces.
TIMEOUTS_S = (10.0, 60.0)
PIECE_BYTES = 1048576
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
#: How the Hugging Face hub tells the hash and the size of a large file, at the redirect to it.
_HUB_HASH, _HUB_SIZE = "X-Linked-Etag", "X-Linked-Size"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a file is got, and how."""

    #: Makes the URL anew for each request: a signed one has an end.
    url: Callable[[], str] = field(repr=False)
    #: For people: without what is secret.
    shown: str
    token: str | None = field(default=None, repr=False)
    #: It may be got, or lead on, without TLS.
    allow_http: bool = False
    #: What may be connected to, on the way there and where it leads on to.
    policy: Policy = UNRESTRICTED


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a source says of a file."""

    size_bytes: int | None
    #: Whether it gives parts of the file.
    has_ranges: bool
    #: Tells one version of the file from another; None where it cannot be told.
    validator: str | None
    #: As the hub says.
    sha256: str | None = None


class _Bearer(AuthBase):
    # As `auth` and not as a header: requests would replace a header by what a ~/.netrc says.
    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token is not None:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class Remote:
    """A file at its source, for one thread; `cut` is for the others."""

    def __init__(self, address: Address, *, timeouts_s: tuple[float, float] = TIMEOUTS_S) -> None:
        """Parameters:
        timeouts_s: to connect, and between two pieces.
        """
        self._address = address
        self._timeouts_s = timeouts_s
        self._session = requests.Session()
        self._session.auth = _Bearer(address.token)
        # What is compressed on its way has other bytes, and no ranges of the file's own.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.headers["User-Agent"] = "Comfyline"
        self._guard = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_cut = False
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, GuardedAdapter(address.policy, self._watch))

    @property
    def shown(self) -> str:
        """Its address, for people."""
        return self._address.shown

    def close(self) -> None:
        self._session.close()
        with self._guard:
            for own in self._sockets:
                own.close()
            self._sockets.clear()

    def cut(self) -> None:
        """End what is being waited for, from another thread: it raises ModelUnavailable, and so does what follows.

        A source that answers nothing, or a byte now and then, would keep its thread for as long as it likes.
        """
        with self._guard:
            self._is_cut = True
            for own in self._sockets:
                _shut(own)

    def offer(self) -> Offer:
        """Ask what there is. Raises ModelUnavailable, ModelRefused."""
        with self._answer({"Range": "bytes=0-0"}) as answer:
            told = {name: _header(answer, name) for name in (_HUB_HASH, _HUB_SIZE)}
            sha256 = (told[_HUB_HASH] or "").strip('"').lower()
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            has_ranges = answer.status_code == requests.codes.partial_content and found is not None
            size = found[3] if found is not None else answer.headers.get("Content-Length") or told[_HUB_SIZE]
            return Offer(
                size_bytes=int(size) if size is not None and size.isdecimal() else None,
                has_ranges=has_ranges,
                validator=_validator(answer.headers),
                sha256=sha256 if _SHA256.fullmatch(sha256) else None,
            )

    def part(self, start: int, end: int, offer: Offer) -> Iterator[bytes]:
        """Yield the bytes from `start` up to and without `end`, in pieces; fewer if the source breaks off.

        Raises:
          ModelUnavailable: it does not answer now, or the file has changed meanwhile.
          ModelRefused: it will not give it.
        """
        headers = {"Range": f"bytes={start}-{end - 1}"}
        if offer.validator is not None:
            headers["If-Range"] = offer.validator
        with self._answer(headers) as answer:
            found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            wanted = (str(start), str(end - 1), str(offer.size_bytes))
            if answer.status_code != requests.codes.partial_content or found is None or found.groups() != wanted:
                raise ModelUnavailable(f"{self._address.shown} changed while it was fetched; it is begun anew.")
            yield from self._pieces(answer, end - start)

    def whole(self) -> Iterator[bytes]:
        """Yield all bytes, in pieces. Raises ModelUnavailable, ModelRefused."""
        with self._answer({}) as answer:
            yield from self._pieces(answer, None)

    def _watch(self, connected: socket.socket) -> None:
        # A copy, since TLS takes the socket itself over. It keeps the connection open until `close`.
        own = connected.dup()
        with self._guard:
            self._sockets.append(own)
            if self._is_cut:
                _shut(own)

    @contextmanager
    def _answer(self, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        shown = self._address.shown
        try:
            answer = self._session.get(self._address.url(), headers=headers, stream=True, timeout=self._timeouts_s)
        except AddressRefused as exc:
            raise ModelRefused(
                f"{shown} leads to where a cloud keeps a machine's secrets: nothing is got there."
            ) from exc
        except (requests.RequestException, HTTPError) as exc:
            raise ModelUnavailable(f"{shown} does not answer ({type(exc).__name__}).") from exc
        with answer:
            check_answer(answer, shown=shown, allow_http=self._address.allow_http)
            yield answer

    def _pieces(self, answer: requests.Response, size: int | None) -> Iterator[bytes]:
        left = size
        try:
            while left is None or left > 0:
                # What has come, and not only once so much of it has come: a slow source has progress, too.
                piece = answer.raw.read1(PIECE_BYTES if left is None else min(PIECE_BYTES, left))
                if not piece:
                    return
                if left is not None:
                    left -= len(piece)
                yield piece
        except (HTTPError, OSError) as exc:
            raise ModelUnavailable(f"{self._address.shown} broke off ({type(exc).__name__}).") from exc


def _shut(own: socket.socket) -> None:
    # The source may have gone first.
    with suppress(OSError):
        own.shutdown(socket.SHUT_RDWR)


def _header(answer: requests.Response, name: str) -> str | None:
    return next((each.headers[name] for each in (*answer.history, answer) if name in each.headers), None)


def _validator(headers: Mapping[str, str]) -> str | None:
    etag = headers.get("ETag", "")
    # A weak one does not promise the same bytes.
    return etag if etag.startswith('"') else headers.get("Last-Modified")
