"""Whether the storage in sight is the fleet's: a file with an id in it, of which the ledger has a copy.

Two machines whose storage is not shared, or a mount that is missing, look like a healthy fleet that loses half of its
files. So the first process of a fleet puts a marker into the storage and the id in the ledger; whoever does not see
that id takes nothing in and puts nothing there.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from pathlib import Path

from core.errors import ConfigurationError, LedgerUnavailable, StorageUnavailable
from core.ledger.facts import FLEET, STORAGE, Facts
from core.settings import Settings
from core.storage.backend import output_storage

log = logging.getLogger(__name__)

#: In the folder of outputs, which is the same on every machine also where only that one is shared.
NAME = ".fleet-storage"
#: How long what was seen holds.
HOLDS_S = 2.0
#: A network file system whose server is gone lets its readers wait for ever.
LOOK_TIMEOUT_S = 5.0


class StorageMarker:
    """One process's look at the storage. Safe to share between threads."""

    def __init__(self, settings: Settings, facts: Facts) -> None:
        self._settings = settings
        self._facts = facts
        self._path = settings.outputs_dir / NAME
        #: What the marker has to say; None until the ledger has told.
        self._id: str | None = None
        self._lock = threading.Lock()
        self._seen_at_s = -HOLDS_S
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
            known = self._facts.settle(STORAGE, self._first_id())
        self._id = known
        if (problem := self._what_is_wrong()) is not None:
            raise ConfigurationError(problem)

    def is_chosen(self) -> bool:
        """Return whether the fleet has a storage yet: without one, the first process takes what it sees."""
        return self._facts.get(STORAGE) is not None

    def problem(self) -> str | None:
        """Return what is wrong with the storage now; None if it is the fleet's, as far as can be told."""
        with self._lock:
            if time.monotonic() - self._seen_at_s > HOLDS_S:
                before, self._problem = self._problem, self._current()
                self._seen_at_s = time.monotonic()
                if self._problem != before:
                    log.warning("%s", self._problem or "The storage is there again.")
            return self._problem

    def is_full(self) -> bool:
        """Return whether a file of the largest size that clients may upload has no room."""
        try:
            return output_storage(self._settings).free_bytes() < self._settings.max_upload_bytes
        except OSError:
            return False

    def require(self) -> None:
        """Raise StorageUnavailable, without paths of this host, unless the storage in sight is the fleet's."""
        if self.problem() is not None:
            raise StorageUnavailable("The storage of files is not available now; /ready tells the operator why.")

    def forget(self) -> None:
        """Have the next question answered by a new look: a file was not where it should be."""
        with self._lock:
            self._seen_at_s = -HOLDS_S

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
        try:
            found = self._path.read_text(encoding="utf-8").split()
        except FileNotFoundError:
            return f"{self._place} is not this fleet's storage: it has no {self._path.parent.name}/{NAME}. {self._help}"
        except (OSError, UnicodeDecodeError) as exc:
            return f"{self._place} cannot be read: {getattr(exc, 'strerror', None) or 'the marker is damaged'}."
        if found[:1] != [self._id]:
            return (
                f"{self._place} is another fleet's storage: its {self._path.parent.name}/{NAME} differs. {self._help}"
            )
        return None

    @property
    def _place(self) -> str:
        if self._settings.storage_dir is None:
            return f"The storage in {self._settings.data_dir} (COMFYLINE_STORAGE_DIR is not set)"
        return f"COMFYLINE_STORAGE_DIR={self._settings.storage_dir}"

    @property
    def _help(self) -> str:
        return (
            "Every machine of a fleet has to see one storage: mount it, and name it in COMFYLINE_STORAGE_DIR. If this "
            "is "
            f"the right one after all (it was moved, or restored), say so: mkdir -p {self._path.parent} && "
            f"echo {self._id} > {self._path}"
        )

    def _first_id(self) -> str:
        """The id in a new marker, or in that of a process that is as early as this one."""
        folder, fleet = self._path.parent, self._facts.settle(FLEET, uuid.uuid4().hex)
        try:
            if self._settings.storage_dir is None:
                self._settings.make_data_dir()
            # Not with its parents: a directory that a setting names and that is not there may be a missing mount.
            folder.mkdir(exist_ok=True)
            _create_whole(self._path, f"{uuid.uuid4().hex} {fleet}\n")
            found = self._path.read_text(encoding="utf-8").split()
        except FileNotFoundError as exc:
            raise ConfigurationError(absence(self._settings)) from exc
        except (OSError, UnicodeDecodeError) as exc:
            reason = getattr(exc, "strerror", None) or "its marker is damaged"
            raise ConfigurationError(f"{self._place} cannot be used: {reason}.") from exc
        if not found:
            raise ConfigurationError(f"{self._path} is empty; remove it.")
        # In a data directory of ours alone the ledger was merely made anew.
        if self._settings.storage_dir is not None and found[1:] not in ([], [fleet]):
            raise ConfigurationError(
                f"{self._place} belongs to another fleet, with another ledger. Two fleets would remove each other's "
                f"files: choose another directory, or if that fleet is gone remove {self._path}."
            )
        return found[0]


def absence(settings: Settings) -> str:
    """Return what there is to say where the directory of the storage does not exist."""
    return (
        f"COMFYLINE_STORAGE_DIR={settings.storage_dir} is not there. Mount it, or make it; it is never made by itself, "
        "for it may be a mount that is missing."
    )


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


def _create_whole(path: Path, text: str) -> None:
    """A file with all of its text, unless there is one already."""
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.link(draft, path)
    except FileExistsError:
        pass
    except OSError:
        # A file system without hard links.
        if not path.exists():
            draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
