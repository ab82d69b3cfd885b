"""What a server's answer says when it is no success: its words, its code, and when to ask again."""

from __future__ import annotations

import requests

from core.texts.json_types import JsonObject


def envelope(answer: requests.Response) -> JsonObject | None:
    """`{"error": {"code", "message", "details"}}`, if that is what was answered."""
    found = body_of(answer)
    error = found.get("error")
    return found if isinstance(error, dict) and isinstance(error.get("message"), str) else None


def words(answer: requests.Response) -> str:
    """What an error answer says to people. The PyWorker contract has `{"error": text}` and `{"message": text}`."""
    found = body_of(answer)
    error = found.get("error") or found.get("message")
    text = error.get("message") if isinstance(error, dict) else error
    return text if isinstance(text, str) else f"HTTP {answer.status_code} {answer.reason}"


def code(answer: requests.Response) -> str:
    """The server's own word for the error, for instance `queue_full`; empty if it has none."""
    found = envelope(answer)
    return str(found["error"].get("code")) if found else ""


def retry_after_s(answer: requests.Response) -> float | None:
    """After how many seconds to ask again, at least 1; None if the server does not say."""
    text = answer.headers.get("Retry-After", "")
    # More digits than these are more than anybody waits, and a float could not hold them.
    return max(1.0, float(text[:12])) if text.isascii() and text.isdigit() else None


def reason(exc: requests.RequestException) -> str:
    """The innermost cause in few words; requests wraps it in layers that repeat the address."""
    cause: BaseException = exc
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


def body_of(answer: requests.Response) -> JsonObject:
    """The JSON object that was answered; `{}` if it is none."""
    try:
        body = answer.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
