"""Files put to URLs that a client has signed: no bucket is known here, and no keys."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import HTTPError

from core.errors import UploadFailed, UploadRefused
from core.outbound import Policy
from core.outbound.sessions import GuardedSession
from core.records.bucket_target import BucketTarget

READ_TIMEOUT_S = 60.0
#: Before the second try; each further one waits for twice as long.
PAUSE_S = 0.5
#: Answers of the 4xx kind that may be others next time.
_PASSING_STATUSES = frozenset({408, 425, 429})


def put(url: str, path: Path, *, content_type: str, target: BucketTarget, policy: Policy, limit_s: float) -> None:
    """Send a file, streamed. Sending it again overwrites it with the same bytes.

    Parameters:
      target: how patient to be.
      limit_s: seconds after which the exchange is cut, tries and all.
    Raises:
      UploadFailed: trying again may help.
      UploadRefused, AddressRefused: it hardly will.
      OSError: the file cannot be read.
    """
    with GuardedSession(policy, limit_s=limit_s) as session:
        for tries_left in reversed(range(target.connect_attempts)):
            try:
                _put(session, url, path, content_type, target.connect_timeout_s)
            except UploadFailed:
                pause_s = PAUSE_S * 2 ** (target.connect_attempts - 1 - tries_left)
                if not tries_left or session.deadline.left_s < pause_s:
                    raise
                time.sleep(pause_s)
            else:
                return


def public_link(url: str, target: BucketTarget) -> str | None:
    """Return the object's link below the public address; None if no such address is known."""
    return None if target.public_url is None else f"{target.public_url}{urlsplit(url).path}"


def _put(session: GuardedSession, url: str, path: Path, content_type: str, connect_timeout_s: float) -> None:
    headers = {"Content-Type": content_type, "User-Agent": "Comfyline"}
    timeouts_s = (min(connect_timeout_s, session.deadline.left_s), READ_TIMEOUT_S)
    with path.open("rb") as file:
        # An empty file would be sent in chunks, which S3 refuses.
        content = file if path.stat().st_size else b""
        try:
            with session.put(url, data=content, headers=headers, timeout=timeouts_s, stream=True) as answer:
                status = answer.status_code
        except (requests.RequestException, HTTPError) as exc:
            if session.deadline.is_over:
                raise UploadFailed("the server behind a put_url is too slow") from exc
            raise UploadFailed(
                f"the server behind a put_url does not answer as it should ({type(exc).__name__})"
            ) from exc
    if session.deadline.is_over:
        raise UploadFailed("the server behind a put_url is too slow")
    if status >= 500 or status in _PASSING_STATUSES:
        raise UploadFailed(f"the server behind a put_url answered {status}")
    if not requests.codes.ok <= status < requests.codes.multiple_choices:
        raise UploadRefused(f"the server behind a put_url answered {status}")
