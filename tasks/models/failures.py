"""The model files of a host that could not be fetched: why, and when each is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.errors import ModelRefused, ModelUnavailable
from core.records.model_file import ModelCopy, ModelFile

#: The first pause after a failure; each further one is twice as long, up to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
#: At least so long rests what lacked only room, should somebody else have taken it in the meantime.
ROOM_PAUSE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A file that could not be fetched."""

    entry: ModelFile
    at_s: float
    pause_s: float
    not_before_s: float
    #: When its token was entered, in milliseconds since 1970.
    token_ms: int | None
    #: How large the file is, where all that it lacks is room.
    lacks_room_bytes: int | None
    #: What the ledger is told of it.
    copy: ModelCopy


class Failures:
    """Those of one host, by path."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._known: dict[str, Failure] = {}
        #: When each token was entered, in milliseconds since 1970.
        self._tokens: Mapping[str, int] = {}

    def know_tokens(self, tokens: Mapping[str, int]) -> None:
        """Take note when tokens were entered: what failed is tried with a newer one at once."""
        self._tokens = tokens

    def of(self, path: str) -> Failure | None:
        """Return why a file could not be fetched."""
        return self._known.get(path)

    def hopeless(self) -> frozenset[str]:
        """Return the names of the files that could not be fetched for another reason than lack of room."""
        known = tuple(self._known.values())
        return frozenset(failure.entry.name for failure in known if failure.lacks_room_bytes is None)

    def lacking_bytes(self, entry: ModelFile) -> int | None:
        """Return how much room a file lacks, if that is all that it lacked last time."""
        failure = self._known.get(entry.path)
        return None if failure is None or failure.entry != entry else failure.lacks_room_bytes

    def forget(self, path: str) -> None:
        self._known.pop(path, None)

    def is_due(self, entry: ModelFile, has_room: Callable[[int], bool]) -> bool:
        """Return whether a file may be tried: an operator who has mended its entry or its token does not wait.

        Parameters:
          has_room: whether there is room now for so many bytes of it; what lacked nothing else waits no longer.
        """
        failure = self._known.get(entry.path)
        if failure is None or failure.entry != entry or time.monotonic() >= failure.not_before_s:
            return True
        is_rested = time.monotonic() >= failure.at_s + ROOM_PAUSE_S
        if failure.lacks_room_bytes is not None and is_rested and has_room(failure.lacks_room_bytes):
            return True
        return self._token_ms(entry) != failure.token_ms

    def add(self, entry: ModelFile, exc: ModelUnavailable | ModelRefused) -> Failure:
        """Note that a file could not be fetched; returns for how long it rests, and what to tell."""
        before = self._known.get(entry.path)
        if before is not None and before.entry == entry:
            pause_s = min(2 * before.pause_s, LONGEST_PAUSE_S)
        else:
            pause_s = FIRST_PAUSE_S if isinstance(exc, ModelUnavailable) else 4 * FIRST_PAUSE_S
        asked_s = exc.asked_pause_s if isinstance(exc, ModelUnavailable) else None
        rest_s = pause_s if asked_s is None else min(max(asked_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        failure = Failure(
            entry=entry,
            at_s=time.monotonic(),
            pause_s=pause_s,
            not_before_s=time.monotonic() + rest_s,
            token_ms=self._token_ms(entry),
            lacks_room_bytes=exc.lacks_room_bytes if isinstance(exc, ModelUnavailable) else None,
            copy=ModelCopy(host=self._host, path=entry.path, state="failed", error=exc.message[:1000]),
        )
        self._known[entry.path] = failure
        return failure

    def _token_ms(self, entry: ModelFile) -> int | None:
        return None if entry.token is None else self._tokens.get(entry.token)
