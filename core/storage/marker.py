"""Whether the storage in sight is the fleet's: a file, or an object, with an id in it, of which the ledger has a copy.

Two machines whose storage is not shared, or a mount that is missing, look like a healthy fleet that loses half of its
files. So the first process of a fleet puts a marker into the storage and the id in the ledger; whoever does not see
that id takes nothing in and puts nothing there. A fleet that moves has another id in its new storage: the first process
that is started there makes that the fleet's, and whoever still has the old one is refused from then on.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Protocol

from core.errors import ConfigurationError, LedgerUnavailable, StorageUnavailable
from core.ledger.storage_ids import StorageIds, StorageMoves
from core.metrics.counted import STORAGE_ERRORS
from core.metrics.tally import process_tally
from core.settings import Settings
from core.storage.backend import output_storage
from core.storage.marked_directory import NAME, MarkedDirectory

__all__ = ["AWAY", "HOLDS_S", "NAME", "StorageMarker"]

#: What clients learn, without paths of this host.
AWAY = "The storage of files is not available now; /ready tells the operator why."

log = logging.getLogger(__name__)

#: How long what was seen holds.
HOLDS_S = 2.0
#: The same of a bucket, where each look is a request that somebody counts.
HOLDS_IN_BUCKET_S = 10.0
#: How long a process goes by the ids that the ledger told it.
KNOWN_S = 5.0
#: A network file system whose server is gone lets its readers wait for ever.
LOOK_TIMEOUT_S = 5.0
#: How long a look waits for the ledger's word whether the fleet has moved.
LEDGER_TIMEOUT_S = 0.5


class MarkedPlace(Protocol):
    """A storage as far as its marker goes."""

    def away(self) -> str | None:
        """Return why nobody can tell now what is there, where that may pass; None: it can be told, or is refused."""

    def problem(self, ids: StorageIds) -> str | None:
        """Return what is wrong where the fleet's current id, or its next one, should be; None: it is there."""

    def marker_id(self) -> str | None:
        """Return the id in the marker; None: there is none. Raises OSError."""

    def first_id(self, fleet: str) -> str:
        """Make the marker of a fleet unless there is one; returns the id that is there. Raises ConfigurationError."""

    def check_rights(self) -> str | None:
        """Return why nothing can be written, read or removed there; None: it can."""


class StorageMarker:
    """One process's look at the storage. Safe to share between threads."""

    def __init__(self, settings: Settings, moves: StorageMoves) -> None:
        self._settings = settings
        self._moves = moves
        self._place = _place_of(settings)
        self._holds_in_bucket = bool(settings.storage_url)
        #: What the marker may say; None until the ledger has told.
        self._ids: StorageIds | None = None
        self._asked_at_s = 0.0
        self._is_asking = threading.Lock()
        self._lock = threading.Lock()
        self._seen_at_s = -HOLDS_IN_BUCKET_S
        self._problem: str | None = None
        self._look: _Look | None = None

    def settle(self) -> None:
        """See that the marker is there, called at a process's start. Makes it if the fleet has none yet.

        On the storage that the fleet is about to move to this is the move.

        Raises:
          ConfigurationError: this is not the fleet's storage.
          LedgerUnavailable: the ledger cannot say which is.
        """
        ids = self._learned()
        if (problem := self._place.problem(ids)) is not None:
            raise ConfigurationError(problem)
        announced = self._announced(ids)
        if announced is not None and self._moves.move(announced):
            log.warning("The fleet has moved to %s. Machines with another storage take nothing in.", self._place)
            self._learned()

    def away(self) -> str | None:
        """Return why the storage cannot be looked at now, where waiting may help; None: it can, or nothing helps."""
        return self._place.away()

    def check_rights(self) -> None:
        """See that files can be written, read and removed. Raises ConfigurationError."""
        if (problem := self._place.check_rights()) is not None:
            raise ConfigurationError(problem)

    def is_chosen(self) -> bool:
        """Return whether the fleet has a storage yet: without one, the first process takes what it sees."""
        return self._moves.ids() is not None

    def is_next(self) -> bool:
        """Return whether the first process that is started on this storage moves the fleet to it."""
        ids = self._moves.ids()
        return ids is not None and self._announced(ids) is not None

    def problem(self, *, within_s: float = math.inf) -> str | None:
        """Return what is wrong with the storage now; None if it is the fleet's, as far as can be told.

        Parameters:
          within_s: what was seen longer ago than that does not count.
        """
        with self._lock:
            if time.monotonic() - self._seen_at_s > min(self._holds_s, within_s):
                before, self._problem = self._problem, self._current()
                self._seen_at_s = time.monotonic()
                if self._problem is not None:
                    process_tally.add(STORAGE_ERRORS, "look")
                if self._problem != before:
                    log.warning("%s", self._problem or "The storage is there again.")
            return self._problem

    def is_full(self) -> bool:
        """Return whether a file of the largest size that clients may upload has no room."""
        try:
            free_bytes = output_storage(self._settings).free_bytes()
            return free_bytes is not None and free_bytes < self._settings.max_upload_bytes
        except OSError:
            return False

    def require(self) -> None:
        """Raise StorageUnavailable, without paths of this host, unless the storage in sight is the fleet's."""
        if self.problem() is not None:
            raise StorageUnavailable(AWAY)

    def forget(self) -> None:
        """Have the next question answered by a new look: a file was not where it should be."""
        with self._lock:
            self._seen_at_s = -HOLDS_IN_BUCKET_S

    def _current(self) -> str | None:
        if self._ids is None:
            try:
                return self._place.problem(self._learned())
            except LedgerUnavailable:
                # The ledger's absence is no fault of the storage's, and is said elsewhere.
                return None
            except ConfigurationError as exc:
                return exc.message
        if self._look is None or self._look.is_over:
            self._look = _Look(self)
        return self._look.result(LOOK_TIMEOUT_S, f"{self._place} does not answer.")

    def _what_is_wrong(self) -> str | None:
        assert self._ids is not None, "it has learned them"
        return self._place.problem(self._ids)

    def _announced(self, ids: StorageIds) -> str | None:
        """Return the id of this storage if the fleet is about to move here."""
        if ids.next is None:
            return None
        try:
            return ids.next if self._place.marker_id() == ids.next else None
        except OSError as exc:
            raise ConfigurationError(f"The storage cannot be used. {exc.strerror or exc}.") from exc

    def _learned(self) -> StorageIds:
        """Return the ids in the ledger. The first process of a fleet takes the storage that it sees."""
        ids = self._moves.ids() or self._moves.begin(self._place.first_id(self._moves.fleet()))
        self._ids, self._asked_at_s = ids, time.monotonic()
        return ids

    def _has_learned(self) -> bool:
        """Ask the ledger from time to time whether the fleet has moved; return whether it has."""
        if time.monotonic() - self._asked_at_s < KNOWN_S or not self._is_asking.acquire(blocking=False):
            return False
        try:
            before, self._ids = self._ids, self._moves.ids() or self._ids
            self._asked_at_s = time.monotonic()
        except LedgerUnavailable:
            # It is asked at the next look.
            return False
        finally:
            self._is_asking.release()
        return self._ids != before

    @property
    def _holds_s(self) -> float:
        # Something is wrong: when it is over, everybody wants to know at once.
        return HOLDS_S if self._problem is not None or not self._holds_in_bucket else HOLDS_IN_BUCKET_S


def _place_of(settings: Settings) -> MarkedPlace:
    if not settings.storage_url:
        return MarkedDirectory(settings)
    # Imported late: it loads an HTTP library, which must not happen before gevent has patched the standard library.
    from core.storage.marked_bucket import MarkedBucket

    return MarkedBucket(settings)


class _Look:
    """One look at the marker, by a thread of its own that may wait for ever."""

    def __init__(self, marker: StorageMarker) -> None:
        self._has_seen = threading.Event()
        #: The ledger has been asked, too.
        self._is_done = threading.Event()
        self._problem: str | None = None
        threading.Thread(target=self._run, args=(marker,), name="storage-look", daemon=True).start()

    @property
    def is_over(self) -> bool:
        return self._has_seen.is_set()

    def result(self, timeout_s: float, otherwise: str) -> str | None:
        if not self._has_seen.wait(timeout_s):
            return otherwise
        # A ledger that does not answer is no fault of the storage's.
        self._is_done.wait(LEDGER_TIMEOUT_S)
        return self._problem

    def _run(self, marker: StorageMarker) -> None:
        try:
            self._problem = marker._what_is_wrong()
            self._has_seen.set()
            if marker._has_learned():
                self._problem = marker._what_is_wrong()
        finally:
            self._has_seen.set()
            self._is_done.set()
