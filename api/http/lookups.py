"""Names in the URLs of clients are looked up in threads of their own.

A resolver may take half a minute over a name, and whoever names one slow host may name many. gevent has ten threads for
all that blocks: were they taken, nothing in the process could connect to anything, be it by an address.
"""

from __future__ import annotations

from gevent import monkey
from gevent.threadpool import ThreadPool

from core.outbound import lookup

#: Names that are looked up at once.
LOOKUPS = 256


def look_up_apart() -> None:
    """Look names up in threads of their own, so many at once. Called once in each process, when gevent has patched.

    Where it has not patched the standard library there is no such limit.
    """
    if not monkey.is_module_patched("socket"):
        return
    pool, getaddrinfo = ThreadPool(LOOKUPS), monkey.get_original("socket", "getaddrinfo")

    def ask(name: str) -> lookup.Answer:
        answer: lookup.Answer = pool.apply(lookup.ask, (name, getaddrinfo))
        return answer

    lookup.ways.append(ask)
