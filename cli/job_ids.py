"""Ids of jobs as people type them: whole, or a beginning that only one job has."""

from __future__ import annotations

import re

from cli.client import Client, RequestRefused

#: Fewer characters may mean one job now and another in a minute.
MIN_CHARS = 4
_WHOLE = 36
#: The form of our ids; other servers, and clients' own request ids, may have others.
_BEGINNING = re.compile(r"[0-9a-f]{1,8}|[0-9a-f]{8}(-[0-9a-f]{0,4}){1,3}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{0,12}")


def whole_id(client: Client, text: str) -> str:
    """The id that is meant: what cannot be a beginning, or begins no job, is taken as it is.

    Raises: RequestRefused - several jobs begin so, or it is too short to tell.
    """
    if len(text) >= _WHOLE or not _BEGINNING.fullmatch(text):
        return text
    # A server that does not know the filter sends whatever is newest.
    found = [str(job["id"]) for job in client.jobs(limit=3, id_prefix=text) if job["id"].startswith(text)]
    if not found:
        return text
    if len(text) < MIN_CHARS:
        raise RequestRefused(f"{text} is too short: give at least the first {MIN_CHARS} characters of a job's id.")
    if len(found) > 1:
        raise RequestRefused(f"{text} begins the ids of several jobs, {found[0]} and {found[1]} among them.")
    return found[0]


def whole_path(client: Client, path: str) -> str:
    """The path of a job's file, `<job id>/<name>`, with the id that is meant."""
    first, slash, rest = path.partition("/")
    return f"{whole_id(client, first)}{slash}{rest}" if slash else path
