"""One try at a webhook: a POST within all its limits, and what the answer means."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import requests
from urllib3.exceptions import HTTPError

from core.errors import AddressRefused
from core.ledger.database import now_ms
from core.ledger.outbox import Outcome, Post
from core.outbound import Policy
from core.outbound.sessions import GuardedSession

CONNECT_TIMEOUT_S = 5.0
#: Of the answer's body; the rest is not waited for.
MAX_ANSWER_BYTES = 64 * 1024
#: Answers after which `Retry-After` counts.
BUSY = (requests.codes.too_many_requests, requests.codes.service_unavailable)


def send(post: Post, headers: Mapping[str, str], policy: Policy, *, limit_s: float) -> Outcome:
    """Post a delivery once; redirects are not followed.

    Parameters:
      limit_s: seconds after which the exchange is cut, wherever it is.
    """
    at_ms, begun_s = now_ms(), time.monotonic()
    status_code, error, retry_after_s = None, None, None
    try:
        with (
            GuardedSession(policy, limit_s=limit_s) as session,
            session.post(
                post.url,
                data=post.body.encode(),
                headers={"Content-Type": "application/json", "User-Agent": "ComfyFleet", **headers},
                timeout=(min(CONNECT_TIMEOUT_S, limit_s), limit_s),
                stream=True,
            ) as answer,
        ):
            status_code = answer.status_code
            if status_code in BUSY:
                retry_after_s = parse_retry_after(answer.headers.get("Retry-After"))
            _drain(answer)
    except AddressRefused as exc:
        error = str(exc)
    except requests.RequestException as exc:
        error = _in_words(exc, is_late=time.monotonic() - begun_s >= limit_s, limit_s=limit_s)
    if status_code is not None:
        error = (
            None if requests.codes.ok <= status_code < requests.codes.multiple_choices else f"answered {status_code}"
        )
    return Outcome(
        at_ms=at_ms,
        duration_ms=round((time.monotonic() - begun_s) * 1000),
        status_code=status_code,
        error=error,
        retry_after_s=retry_after_s,
        is_final=status_code == requests.codes.gone,
    )


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from now that a `Retry-After` header asks for, in either of its forms; None for anything else."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        # Longer ones than any date are as good as this one.
        return float(text[:12])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())


def _drain(answer: requests.Response) -> None:
    """Read a little of the body, so that a receiver can finish; how it ends does not matter any more."""
    try:
        answer.raw.read(MAX_ANSWER_BYTES, decode_content=False)
    except (HTTPError, OSError):
        return


def _in_words(error: requests.RequestException, *, is_late: bool, limit_s: float) -> str:
    if is_late or isinstance(error, requests.ReadTimeout):
        return f"no answer within {limit_s:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "no trusted TLS connection"
    if isinstance(error, requests.ConnectionError):
        return "no connection, or it broke off"
    return f"not sent: {type(error).__name__}"
