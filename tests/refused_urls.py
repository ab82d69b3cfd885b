"""The URLs to which no connection may be opened, a witness of connections, and a resolver that says what it is told."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

_FILE = Path(__file__).parent / "data" / "refused_urls.txt"


def _by_class() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    heading = ""
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            heading = line[2:]
        elif line:
            found.setdefault(heading, []).append(json.loads(line))
    return found


_CLASSES = _by_class()
#: What is wrong with these only a resolver can tell.
REFUSED_NAMES = [
    url for heading, urls in _CLASSES.items() if heading.startswith(("names that", "names whose")) for url in urls
]
#: All of them; two are too long for the file.
REFUSED_URLS = [
    *(url for urls in _CLASSES.values() for url in urls),
    f"http://{'a' * 300}/",
    f"http://127.0.0.1:8188/{'a' * 5000}",
]

#: What was heard, and whom it is not heard from.
_witnesses: list[tuple[list[Any], set[int]]] = []


@contextlib.contextmanager
def connections() -> Iterator[list[Any]]:
    """The addresses that this thread and those that it starts connect to, or send to, within the block.

    Threads that ran before are no part of it: the client of a service that other tests share may look for it again.
    """
    found: list[Any] = []
    others = {thread.ident for thread in threading.enumerate() if thread.ident} - {threading.get_ident()}
    _witnesses.append((found, others))
    try:
        yield found
    finally:
        # By identity: an equal list may be another's.
        _witnesses[:] = [witness for witness in _witnesses if witness[0] is not found]


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("socket.connect", "socket.sendto"):
        for found, others in _witnesses:
            if threading.get_ident() not in others:
                found.append(arguments[1])


sys.addaudithook(_hear)


class Resolver:
    """Stands in for the system's resolver where names are concerned; what is an address in any spelling, it leaves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """Takes for each name its answers, one after the other, of which the last stays; `*` is any other name."""
        self._answers = {name: list(lists) for name, lists in answers.items()}
        self._real = socket.getaddrinfo
        #: The names that were asked for, in order.
        self.asked: list[str] = []
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, host: Any, port: Any, *_arguments: Any, **_options: Any) -> list[Any]:
        with contextlib.suppress(socket.gaierror):
            return self._addresses(host, port)
        self.asked.append(host)
        answers = self._answers.get(host, self._answers.get("*", []))
        if not answers:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [found for address in addresses for found in self._addresses(address, port)]

    def _addresses(self, host: Any, port: Any) -> list[Any]:
        return list(self._real(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST))
