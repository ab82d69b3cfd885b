"""Asks the sources of the manifest whether they would give their files to this host, without fetching any."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import closing

from comfy.model_files.offers import Wanted, expected_sha256
from comfy.model_files.remote import Remote
from core.errors import LedgerUnavailable, ModelRefused, ModelUnavailable
from core.records.model_file import ModelFile
from core.settings import Settings
from tasks.models.addresses import TokenOf, address_of

#: To connect, and for an answer.
TIMEOUTS_S = (3.0, 3.0)
#: Sources asked at once.
AT_ONCE = 8


def try_source(entry: ModelFile, settings: Settings, token_of: TokenOf) -> None:
    """Ask a source for the first and the last byte of its file, and compare what it says with the manifest.

    Raises:
      ModelUnavailable, ModelRefused: in one line, what is wrong and what to change.
    """
    address = address_of(entry, settings, token_of)
    with closing(Remote(address, timeouts_s=TIMEOUTS_S)) as remote:
        offer = remote.offer()
        expected_sha256(offer, Wanted(sha256=entry.sha256, size_bytes=entry.size_bytes), shown=address.shown)
        size = offer.size_bytes
        if offer.has_ranges and size and sum(map(len, remote.part(size - 1, size, offer))) != 1:
            raise ModelUnavailable(f"{address.shown} ends early: it says {size} bytes, and does not give the last one.")


def try_sources(
    entries: Sequence[ModelFile], settings: Settings, token_of: TokenOf = lambda _name: None, *, limit_s: float
) -> list[tuple[ModelFile, str]]:
    """Try many sources side by side; returns what is wrong, by entry, in their order.

    Parameters:
      token_of: opens the tokens that were entered.
      limit_s: what has not answered by then has not answered.
    """
    waiting: queue.SimpleQueue[ModelFile] = queue.SimpleQueue()
    for entry in entries:
        waiting.put(entry)
    said: dict[str, str | None] = {}
    ends_at_s = time.monotonic() + limit_s

    def work() -> None:
        while time.monotonic() < ends_at_s:
            try:
                entry = waiting.get_nowait()
            except queue.Empty:
                return
            said[entry.path] = _problem(entry, settings, token_of)

    # Threads that nobody waits for: a source may answer a byte now and then, for ever.
    threads = [threading.Thread(target=work, name=f"source-{number}", daemon=True) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, ends_at_s - time.monotonic()))
    known = dict(said)
    late = f"did not answer within {limit_s:g} s."
    found = ((entry, known.get(entry.path, f"{entry.source} {late}")) for entry in entries)
    return [(entry, problem) for entry, problem in found if problem is not None]


def _problem(entry: ModelFile, settings: Settings, token_of: TokenOf) -> str | None:
    try:
        try_source(entry, settings, token_of)
    except (ModelRefused, ModelUnavailable, LedgerUnavailable) as exc:
        return exc.message
    return None
