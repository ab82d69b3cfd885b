"""Whether the storage in sight is the fleet's: a file, or an object, with an id in it, of which the ledger has a copy.

Two machines whose storage is not shared, or a mount that is missing, look like a healthy fleet that loses half of its
files. So the first process of a fleet puts a marker into the storage and the id in the ledger; whoever does not see
that id takes nothing in and puts nothing there.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from typing import Protocol

from core.errors import ConfigurationError, LedgerUnavailable, StorageUnavailable
from core.ledger.facts import FLEET, STORAGE, Facts
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
#: A network file system whose server is gone lets its readers wait for ever.
LOOK_TIMEOUT_S = 5.0


class MarkedPlace(Protocol):
    """A storage as far as its marker goes."""

    def away(self) -> str | None:
        """Return why nobody can tell now what is there, where that may pass; None: it can be told, or is refused."""

    def problem(self, known: str) -> str | None:
        """Return what is wrong where the id `known` should be; None: it is there."""

    def first_id(self, fleet: str) -> str:
        """Make the marker of a fleet unless there is one; returns the id that is there. Raises ConfigurationError."""

    def check_rights(self) -> str | None:
        """Return why nothing can be written, read or removed there; None: it can."""


class StorageMarker:
    """One process's look at the storage. Safe to share between threads."""

    def __init__(self, settings: Settings, facts: Facts) -> None:
        self._settings = settings
        self._facts = facts
        self._place = _place_of(settings)
        self._holds_in_bucket = bool(settings.storage_url)
        #: What the marker has to say; None until the ledger has told.
        self._id: str | None = None
        self._lock = threading.Lock()
        self._seen_at_s = -HOLDS_IN_BUCKET_S
        self._problem: str | None = None
        self._look: _Look | None = None

    def settle(self) -> None:
        """Make the marker if the fleet has none yet, and see that it is there. Called at a process's start.

        Raises:
          ConfigurationError: this is not the fleet's storage.
          LedgerUnavailable: the ledger cannot say which is.
        """
        known = self._facts.get(STORAGE)
        if known is None:
            fleet = self._facts.settle(FLEET, uuid.uuid4().hex)
            known = self._facts.settle(STORAGE, self._place.first_id(fleet))
        self._id = known
        if (problem := self._place.problem(known)) is not None:
            raise ConfigurationError(problem)

    def away(self) -> str | None:
        """Return why the storage cannot be looked at now, where waiting may help; None: it can, or nothing helps."""
        return self._place.away()

    def check_rights(self) -> None:
        """See that files can be written, read and removed. Raises ConfigurationError."""
        if (problem := self._place.check_rights()) is not None:
            raise ConfigurationError(problem)

    def is_chosen(self) -> bool:
        """Return whether the fleet has a storage yet: without one, the first process takes what it sees."""
        return self._facts.get(STORAGE) is not None

    def problem(self) -> str | None:
        """Return what is wrong with the storage now; None if it is the fleet's, as far as can be told."""
        with self._lock:
            if time.monotonic() - self._seen_at_s > self._holds_s:
                before, self._problem = self._problem, self._current()
                self._seen_at_s = time.monotonic()
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
        if self._id is None:
            try:
                self.settle()
            except LedgerUnavailable:
                # The ledger's absence is no fault of the storage's, and is said elsewhere.
                return None
            except ConfigurationError as exc:
                return exc.message
        if self._look is None or self._look.is_over:
            self._look = _Look(self)
        return self._look.result(LOOK_TIMEOUT_S, f"{self._place} does not answer.")

    def _what_is_wrong(self) -> str | None:
        assert self._id is not None, "it has settled"
        return self._place.problem(self._id)

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
        self._done = threading.Event()
        self._problem: str | None = None
        threading.Thread(target=self._run, args=(marker,), name="storage-look", daemon=True).start()

    @property
    def is_over(self) -> bool:
        return self._done.is_set()

    def result(self, timeout_s: float, otherwise: str) -> str | None:
        return self._problem if self._done.wait(timeout_s) else otherwise

    def _run(self, marker: StorageMarker) -> None:
        try:
            self._problem = marker._what_is_wrong()
        finally:
            self._done.set()
