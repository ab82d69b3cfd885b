"""Host names are looked up within a time limit: the resolver has none of its own, and may take half a minute."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

#: What the resolver answers for a name, or why it does not.
Answer: TypeAlias = list[Any] | Exception


def ask(name: str, getaddrinfo: Callable[..., list[Any]] | None = None) -> Answer:
    """Ask for as long as it takes. Parameters: getaddrinfo - None: what `socket` has now."""
    try:
        return (getaddrinfo or socket.getaddrinfo)(name, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as exc:
        return exc


#: How names are asked for in this process. The API's has another way, see `api.http.lookups`.
ways: list[Callable[[str], Answer]] = [ask]


def addresses(name: str, timeout_s: float | None) -> list[str]:
    """Return the addresses of a host, each once.

    Raises:
      socket.gaierror, UnicodeError: there are none.
      TimeoutError: nobody said so in time.
    """
    found: list[Answer] = []
    # A thread that is left behind ends with the resolver's own time limit.
    thread = threading.Thread(target=lambda: found.append(ways[-1](name)), name="resolve", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimeoutError
    answer = found[0]
    if isinstance(answer, Exception):
        raise answer
    return list(dict.fromkeys(str(each[4][0]) for each in answer))
