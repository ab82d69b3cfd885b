"""Texts of others, cut to a length that rows, answers and webhooks can bear: how they begin and how they end."""

from __future__ import annotations

#: Of a message and of a traceback, in what is stored with a job, answered and posted.
MESSAGE_CHARS = 2_000
TRACEBACK_CHARS = 16_000
#: Of each of them where the whole is kept.
WHOLE_CHARS = 1_000_000


def head_and_tail(text: str, limit: int, *, hint: str = "") -> str:
    """Return the text, or its two ends with a line between them that says how much is missing.

    Parameters:
      limit: characters of the text that stay.
      hint: where the rest is.
    """
    missing = len(text) - limit
    if missing <= 0:
        return text
    # What went wrong stands at the end of a traceback, and at the beginning of most messages.
    tail = limit // 2
    return f"{text[: limit - tail]}\n[... {missing} characters left out{hint} ...]\n{text[-tail:]}"
