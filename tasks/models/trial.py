"""Asks the sources of the manifest whether they would give their files to this host, without fetching any."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from comfy.model_files.offers import Wanted, expected_sha256
from comfy.model_files.remote import Remote
from core.errors import LedgerUnavailable, ModelRefused, ModelUnavailable
from core.records.model_file import ModelFile
from core.settings import Settings
from tasks.models.addresses import TokenOf, address_of

#: To connect, and for an answer.
TIMEOUTS_S = (3.0, 3.0)
#: One that says nothing for so long is told of.
SILENCE_S = 1.5
#: Sources asked at once.
AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of asking sources."""

    #: What is wrong, by entry, in their order.
    problems: tuple[tuple[ModelFile, str], ...] = ()
    #: Those of which nobody says how large they are.
    unsized: tuple[ModelFile, ...] = ()
    #: How many there was no time for.
    unasked: int = 0


def try_source(entry: ModelFile, settings: Settings, token_of: TokenOf) -> int | None:
    """Ask a source for the first and the last byte of its file, and compare what it says with the manifest.

    Returns: how large the file is, in bytes; None: neither of them says.
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
        return size if size is not None else entry.size_bytes


def try_sources(
    entries: Sequence[ModelFile], settings: Settings, token_of: TokenOf = lambda _name: None, *, limit_s: float
) -> Tried:
    """Try many sources side by side, as many as there is time for.

    Parameters:
      token_of: opens the tokens that were entered.
      limit_s: for all of them.
    """
    waiting: queue.SimpleQueue[ModelFile] = queue.SimpleQueue()
    for entry in entries:
        waiting.put(entry)
    said: dict[str, str | None] = {}
    unsized: set[str] = set()
    asked_at_s: dict[str, float] = {}
    ends_at_s = time.monotonic() + limit_s

    def work() -> None:
        while time.monotonic() < ends_at_s:
            try:
                entry = waiting.get_nowait()
            except queue.Empty:
                return
            asked_at_s[entry.path] = time.monotonic()
            try:
                if try_source(entry, settings, token_of) is None:
                    unsized.add(entry.path)
                said[entry.path] = None
            except (ModelRefused, ModelUnavailable, LedgerUnavailable) as exc:
                said[entry.path] = exc.message

    # Threads that nobody waits for: a source may answer a byte now and then, for ever.
    threads = [threading.Thread(target=work, name=f"source-{number}", daemon=True) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, ends_at_s - time.monotonic()))
    known, asked = dict(said), dict(asked_at_s)
    # One that was asked last has had no time to answer.
    for path in asked.keys() - known.keys():
        if (waited_s := ends_at_s - asked[path]) >= SILENCE_S:
            known[path] = f"its source did not answer within {waited_s:.0f} s."
    problems = tuple((entry, what) for entry in entries if (what := known.get(entry.path)) is not None)
    without_size = tuple(entry for entry in entries if entry.path in set(unsized))
    return Tried(problems=problems, unsized=without_size, unasked=sum(entry.path not in known for entry in entries))
