"""Which paths a user's files may have: relative, without anything that another reader takes for another place."""

from __future__ import annotations

import re

from api.http.errors import BadParameter

MAX_CHARS = 255
_BAD = re.compile("[\x00-\x1f\x7f\\\\\ud800-\udfff]")


def user_path(text: str) -> str:
    """Return the path of a file. Raises BadParameter."""
    parts = text.split("/")
    if not 1 <= len(text) <= MAX_CHARS or _BAD.search(text) or any(part.strip(" .") == "" for part in parts):
        raise BadParameter(f"The path of a file must be relative, of at most {MAX_CHARS} characters, without .. in it.")
    return text


def user_folder(text: str) -> str:
    """Return the path of a folder, "" for the top. Raises BadParameter."""
    folder = text.strip("/")
    return user_path(folder) if folder and folder != "." else ""
