"""Prints the part of requirements.lock that the running system needs, hashes included: no linters, no test tools.

    python3 deploy/docker/runtime-requirements.py requirements.lock > runtime.lock

A package stays if the project asks for it, or one that stays does; the lock says so of each ("via").
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

#: How the lock names the project itself; its development tools are `(pyproject.toml:dev)`.
PROJECT = re.compile(r"comfyline \(pyproject\.toml\)")


def entries(lock: str) -> dict[str, tuple[str, set[str]]]:
    """Return `{package: (its lines, who asked for it)}`."""
    found = {}
    for text in re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]:
        comments = " ".join(re.findall(r"^ +#(.*)$", text, re.MULTILINE))
        asked_by = re.findall(r"\S+ \(pyproject\.toml[^)]*\)|[A-Za-z0-9][\w.-]*", comments.replace("via", "", 1))
        found[re.match(r"[\w.-]+", text)[0]] = (text, set(asked_by))  # type: ignore[index]
    return found


def runtime(lock: str) -> list[str]:
    """Return the texts of all that stay, in the order of the lock."""
    every = entries(lock)
    kept = {name for name, (_, asked_by) in every.items() if any(map(PROJECT.fullmatch, asked_by))}
    while more := {name for name, (_, asked_by) in every.items() if asked_by & kept} - kept:
        kept |= more
    return [text for name, (text, _) in every.items() if name in kept]


if __name__ == "__main__":
    sys.stdout.writelines(runtime(Path(sys.argv[1]).read_text(encoding="utf-8")))
