"""HTTP to one ComfyUI server: one keep-alive connection per thread, every foreign error wrapped."""

from __future__ import annotations

import json
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError, NameResolutionError, ReadTimeoutError

from core.errors import ComfyUnavailable
from core.outbound.lookup import addresses

#: ComfyUI's aiohttp answers errors with a few words of plain text; more of a body than this only floods a log.
_EXCERPT_CHARS = 200
#: What answers may be another program, such as a camera, whose answer never ends. Descriptions of all nodes have
#: tens of megabytes, and may be slow to come.
_MAX_BODY_BYTES = 512 * 1024 * 1024
#: So many times the limit for each read is the limit for a whole body.
_READS = 10
_CHUNK_BYTES = 256 * 1024


class Transport:
    """Sends requests to one base URL and raises nothing but `ComfyUnavailable`.

    A `requests.Session` is not safe to share between threads, so each thread gets its own, which is also its one
    keep-alive connection. Proxies, netrc and the like from the environment are ignored: the server is the GPU's own.
    `requests` sends neither `Origin` nor `Sec-Fetch-Site`, the headers on which ComfyUI answers 403.
    """

    def __init__(self, base_url: str, *, connect_timeout_s: float, read_timeout_s: float) -> None:
        self.base_url = base_url.rstrip("/")
        self._connect_timeout_s = connect_timeout_s
        self._read_timeout_s = read_timeout_s
        self._local = threading.local()
        self._sessions: weakref.WeakSet[requests.Session] = weakref.WeakSet()
        self._lock = threading.Lock()

    def get(
        self,
        path: str,
        *,
        params: dict[str, str] | None = None,
        stream: bool = False,
        read_timeout_s: float | None = None,
    ) -> requests.Response:
        """GET, whatever the status. Asks a second time when a kept-alive connection turns out to be closed."""
        return self._request("GET", path, repeatable=True, params=params, stream=stream, read_timeout_s=read_timeout_s)

    def post_json(
        self,
        path: str,
        payload: Any,
        *,
        repeatable: bool = True,
        read_timeout_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """POST a JSON body, whatever the status. Not `repeatable`: never sent twice, even if the reply is lost."""
        body = json.dumps(payload, separators=(",", ":"), allow_nan=False).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        return self._request(
            "POST", path, repeatable=repeatable, data=body, headers=sent, read_timeout_s=read_timeout_s
        )

    def post_form(self, path: str, *, fields: dict[str, str], files: dict[str, Any]) -> requests.Response:
        """POST a multipart form, whatever the status."""
        return self._request("POST", path, repeatable=False, data=fields, files=files)

    def close(self) -> None:
        """Close the connections of all threads; the next request opens a new one."""
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.close()

    def _request(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool,
        stream: bool = False,
        read_timeout_s: float | None = None,
        **options: Any,
    ) -> requests.Response:
        timeout = (self._connect_timeout_s, read_timeout_s or self._read_timeout_s)
        tries = 2 if repeatable else 1
        while True:
            tries -= 1
            try:
                response = self._session().request(
                    method, self.base_url + path, timeout=timeout, allow_redirects=False, stream=True, **options
                )
                return response if stream else _with_body(response, limit_s=_READS * timeout[1])
            except requests.RequestException as exc:
                # The server closes idle connections (aiohttp: 75 s); a request that crosses that close fails at once
                # although the server is well. A timeout is different: waiting again would only double it.
                if tries and isinstance(exc, requests.ConnectionError) and not isinstance(exc, requests.Timeout):
                    continue
                raise ComfyUnavailable(f"ComfyUI does not answer {method} {_plain(path)}: {_why(exc)}") from exc

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.trust_env = False
            session.headers["User-Agent"] = "comfyline"
            self._local.session = session
            with self._lock:
                self._sessions.add(session)
        return session


def _with_body(response: requests.Response, *, limit_s: float) -> requests.Response:
    """Return the response once its body is read: the timeouts of a socket begin anew with each byte.

    Raises:
      requests.RequestException: it does not come, or never ends.
    """
    ends_at_s, body = time.monotonic() + limit_s, bytearray()
    try:
        while piece := response.raw.read1(_CHUNK_BYTES, decode_content=True):
            body += piece
            if time.monotonic() > ends_at_s or len(body) > _MAX_BODY_BYTES:
                response.close()
                raise requests.ReadTimeout("The answer does not end.", response=response)
    except ReadTimeoutError as exc:
        raise requests.ReadTimeout(exc, response=response) from exc
    except HTTPError as exc:
        raise requests.exceptions.ChunkedEncodingError(exc, response=response) from exc
    # As `requests` does it.
    response._content, response._content_consumed = bytes(body), True  # type: ignore[attr-defined]
    return response


def json_of(response: requests.Response) -> Any:
    """Return the JSON body of a 200 answer.

    Raises:
      ComfyUnavailable: another status, or a body that is not JSON: a proxy's page, or no ComfyUI at all.
    """
    if response.status_code != requests.codes.ok:
        raise unexpected(response)
    try:
        return json.loads(response.content)
    except ValueError as exc:
        raise ComfyUnavailable(f"{_what(response)} answered 200 with a body that is not JSON") from exc


def unexpected(response: requests.Response) -> ComfyUnavailable:
    """Return the error for a status that ComfyUI gives only when the instance is at fault, not the job."""
    hint = ""
    if response.status_code in (401, 403):
        hint = " (an access check stands between us and ComfyUI)"
    text = excerpt(response)
    return ComfyUnavailable(f"{_what(response)} answered {response.status_code}{hint}" + (f": {text}" if text else ""))


def excerpt(response: requests.Response) -> str:
    """Return the first words of an error body, on one line."""
    return " ".join(response.text[: 4 * _EXCERPT_CHARS].split())[:_EXCERPT_CHARS]


def refused(error: ComfyUnavailable) -> bool:
    """True if nobody listens or the connection broke, False if the server is only slow to answer.

    A process that is gone took its queue and history with it; one that is slow may be loading a model.
    """
    cause = error.__cause__
    return isinstance(cause, requests.ConnectionError) and not isinstance(cause, requests.Timeout)


def unanswered(error: ComfyUnavailable) -> bool:
    """True if the server, or the kernel in its stead, took the connection and no answer came in time.

    So its machine can be reached and the process is there, though it may be too busy to answer, or frozen.
    """
    return isinstance(error.__cause__, requests.ReadTimeout)


def unresolved(base_url: str, timeout_s: float) -> ComfyUnavailable | None:
    """Return the error for a server name that was not looked up in time, else None; requests has no limit for that."""
    try:
        addresses(urlsplit(base_url).hostname or "", timeout_s)
    except TimeoutError:
        error = ComfyUnavailable("ComfyUI cannot be asked: its host name is not resolved in time")
        error.__cause__ = requests.ConnectTimeout()
        return error
    except (OSError, UnicodeError):
        # Whoever connects says it.
        return None
    return None


def timed_out(error: ComfyUnavailable) -> bool:
    """True if either the connection or the answer did not come in time."""
    return isinstance(error.__cause__, requests.Timeout)


def _what(response: requests.Response) -> str:
    request = response.request
    return f"ComfyUI ({request.method} {_plain(request.path_url)})"


def _plain(path: str) -> str:
    """Return a path without its query. Messages may reach clients, and are to name neither hosts nor files."""
    return path.partition("?")[0]


def _why(error: requests.RequestException) -> str:
    """In a few words what became of a request; `requests` and urllib3 wrap the reason several times."""
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.ReadTimeout):
        return "it took the connection, but did not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "the TLS handshake failed"
    chain = list(_chain(error))
    if any(isinstance(cause, (NameResolutionError, socket.gaierror)) for cause in chain):
        return "its host name cannot be resolved"
    for cause in chain:
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return cause.strerror.lower()
    return "the connection broke" if isinstance(error, requests.ConnectionError) else type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, the outermost first."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        found = waiting.pop(0)
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            waiting += [found.__cause__, found.__context__, getattr(found, "reason", None), *found.args]
