"""How many of an io worker's threads each bucket endpoint may hold, and none for a while for one that keeps failing.

Clients name their endpoints, and some of those take a connection and never answer, or answer once and then no more. So
one that has not answered yet gets one upload at a time, and one that has not taken files yet a short time for each
answer; all of those together get a part of the room, and one that has taken files gets a share of it.
`tasks/webhooks/receivers.py` does the same for receivers of webhooks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from core.errors import UploadFailed

#: Uploads of one io worker at once, half as many as it has threads: buckets shall not hold those that post webhooks and
#: move jobs on.
ROOM = 16
#: Of these, at most so many to endpoints that have taken no files, or not lately.
UNPROVEN_ROOM = 12
#: At most so many to one endpoint that answers.
SHARE = 6
#: How long another one waits for its turn. Short, for it holds a thread too; the reconciler gives it a further one.
WAIT_S = 0.5
#: Failures in a row after which an endpoint that used to answer is left alone; one that never did is left at once.
BREAK_AFTER = 3
#: For so long at first, and twice as long after each further failure.
FIRST_BREAK_S, LONGEST_BREAK_S = 30.0, 240.0
#: Endpoints that are remembered though nothing is under way to them.
REMEMBERED = 4096


class EndpointRests(Exception):
    """This endpoint has as much as it may have, or is left alone for a while; says which."""


@dataclass(kw_only=True)
class _Endpoint:
    under_way: int = 0
    failures: int = 0
    has_answered: bool = False
    #: An upload to it has ended well, and it was not left alone since.
    has_taken: bool = False
    closed_until_s: float = 0.0

    @property
    def is_unproven(self) -> bool:
        return not self.has_taken or self.failures > 0

    @property
    def share(self) -> int:
        return SHARE if self.has_answered and not self.failures else 1


@dataclass(kw_only=True)
class Passage:
    """One upload's leave to use an endpoint."""

    #: It has not taken files yet: give it little time for each answer, and call `answered` at the first.
    is_unproven: bool
    answered: Callable[[], None]
    #: How it went; None: nothing was learned of the endpoint.
    is_well: bool | None = None


class Endpoints:
    """The endpoints that one process uploads to; for any number of threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._endpoints: dict[str, _Endpoint] = {}

    @contextlib.contextmanager
    def passage(self, name: str) -> Iterator[Passage]:
        """Hold a place for one upload. Its `is_well` is to be set before the end.

        Raises:
          EndpointRests: not now, because of this endpoint.
          UploadFailed: not now, because of others.
        """
        with self._changed:
            endpoint = self._admit(name)
            endpoint.under_way += 1
            passage = Passage(is_unproven=endpoint.is_unproven, answered=lambda: self._answered(endpoint))
        try:
            yield passage
        finally:
            with self._changed:
                endpoint.under_way -= 1
                self._learn(endpoint, passage.is_well)
                self._changed.notify_all()

    def _admit(self, name: str) -> _Endpoint:
        if len(self._endpoints) > REMEMBERED:
            self._endpoints = {known: each for known, each in self._endpoints.items() if each.under_way}
        endpoint = self._endpoints.setdefault(name, _Endpoint())
        if endpoint.closed_until_s > time.monotonic():
            raise EndpointRests("the bucket's endpoint does not answer, and is left alone for a while")
        self._changed.wait_for(lambda: self._is_free(endpoint) and self._has_room(endpoint), WAIT_S)
        if not self._is_free(endpoint):
            raise EndpointRests("enough other uploads to the bucket's endpoint are under way")
        if not self._has_room(endpoint):
            raise UploadFailed("enough other uploads are under way")
        return endpoint

    @staticmethod
    def _is_free(endpoint: _Endpoint) -> bool:
        return endpoint.under_way < endpoint.share

    def _has_room(self, endpoint: _Endpoint) -> bool:
        under_way = sum(each.under_way for each in self._endpoints.values())
        unproven = sum(each.under_way for each in self._endpoints.values() if each.is_unproven)
        return under_way < ROOM and (not endpoint.is_unproven or unproven < UNPROVEN_ROOM)

    def _answered(self, endpoint: _Endpoint) -> None:
        with self._changed:
            endpoint.has_answered = True
            self._changed.notify_all()

    @staticmethod
    def _learn(endpoint: _Endpoint, is_well: bool | None) -> None:
        if is_well:
            endpoint.has_answered, endpoint.has_taken, endpoint.failures = True, True, 0
        elif is_well is False:
            endpoint.failures += 1
            beyond = endpoint.failures - (BREAK_AFTER if endpoint.has_taken else 1)
            if beyond >= 0:
                endpoint.has_answered, endpoint.has_taken = False, False
                break_s = min(FIRST_BREAK_S * 2 ** min(beyond, 8), LONGEST_BREAK_S)
                endpoint.closed_until_s = time.monotonic() + break_s
