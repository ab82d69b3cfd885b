"""Ids as people type them: whole, or a beginning that only one job, or one delivery, has."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from cli.remote.answers import RequestRefused
from cli.remote.client import Client

#: Fewer characters may mean one thing now and another in a minute.
MIN_CHARS = 4
_WHOLE = 36
#: The form of our ids; other servers, and clients' own request ids, may have others.
_BEGINNING = re.compile(r"[0-9a-f]{1,8}|[0-9a-f]{8}(-[0-9a-f]{0,4}){1,3}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{0,12}")


def whole_id(client: Client, text: str) -> str:
    """Return the id of the job that is meant. Raises what `the_one` does."""
    return the_one(text, lambda: (str(job["id"]) for job in client.jobs(limit=3, id_prefix=text)))


def the_one(text: str, listed: Callable[[], Iterable[str]]) -> str:
    """Return the id that is meant: what cannot be a beginning, or begins none, is taken as it is.

    Parameters:
      listed: asks for ids that begin so; two of them are enough.
    Raises: RequestRefused - several begin so, or it is too short to tell.
    """
    if len(text) >= _WHOLE or not _BEGINNING.fullmatch(text):
        return text
    # A server that does not know the filter sends whatever is newest.
    found = [each for each in listed() if each.startswith(text)]
    if not found:
        return text
    if len(text) < MIN_CHARS:
        raise RequestRefused(f"{text} is too short: give at least the first {MIN_CHARS} characters of the id.")
    if len(found) > 1:
        raise RequestRefused(f"{text} begins several ids, {found[0]} and {found[1]} among them.")
    return found[0]


def whole_path(client: Client, path: str) -> str:
    """Return the path of a job's file, `<job id>/<name>`, with the id that is meant."""
    first, slash, rest = path.partition("/")
    return f"{whole_id(client, first)}{slash}{rest}" if slash else path
