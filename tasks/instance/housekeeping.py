"""What an instance's worker does about disks: room for outputs, old files, a log that grows for months."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from pathlib import Path

from comfy.process.cleanup import free_bytes, remove_old_files
from comfy.process.instance import Instance
from core.clock import WallClock
from core.errors import LedgerUnavailable
from core.settings import Settings
from core.storage.input_cache import input_cache

log = logging.getLogger(__name__)

#: How often old files are looked for.
TIDY_EVERY_S = 600.0
#: A disk that was too full has to have this much more room before jobs are taken again.
ROOM_AGAIN = 1.1
MEBIBYTE = 1024 * 1024


class Housekeeper:
    """The directories of one instance. Used by one thread at a time."""

    def __init__(self, settings: Settings, instance: Instance) -> None:
        self._settings = settings
        self._instance = instance
        self._was_full = False
        self._tidied_s = 0.0
        self._clock = WallClock()

    def disk_problem(self) -> str | None:
        """Return why the disk has no room for the outputs of a job; None if it has."""
        try:
            problem = self._want_of_room()
            if problem is not None and input_cache(self._settings).give_way():
                # What may come again from a bucket takes no room that jobs need.
                problem = self._want_of_room()
        except OSError as exc:
            return f"The disk of its outputs cannot be looked at: {exc.strerror}."
        self._was_full = problem is not None
        return problem

    def _want_of_room(self) -> str | None:
        return want_of_room(self._settings, self._instance.spec.data_dir, was_full=self._was_full)

    def keep(self, wanted: Callable[[], Collection[str]]) -> None:
        """Rotate the log if it is large; now and then remove files that no job needs.

        Parameters:
          wanted: tells the jobs whose outputs still have to be stored from here; may raise LedgerUnavailable.
        """
        self._instance.rotate_log()
        # Files are old by the wall clock, which may be days ahead of the prompt that reads them.
        was_set = self._clock.was_set_within(self._settings.instance_files_s)
        if was_set or time.monotonic() - self._tidied_s < TIDY_EVERY_S:
            return
        self._tidied_s = time.monotonic()
        # Nobody's files lie about here for long after they were deleted in storage.
        input_cache(self._settings).forget(unused_s=self._settings.instance_files_s)
        if self._instance.is_attached:
            return
        spec = self._instance.spec
        try:
            removed = remove_old_files(spec.data_dir, older_than_s=self._settings.instance_files_s, spare=wanted())
        except LedgerUnavailable:
            return
        if removed:
            log.info("%s: removed %d old files", spec.name, removed)


def want_of_room(settings: Settings, folder: Path, *, was_full: bool = False) -> str | None:
    """Return that the disk of an instance's directory has too little room for the outputs of a job; None: it has.

    Raises:
      OSError: the file system does not say.
    """
    wanted, free = settings.min_free_disk_bytes, free_bytes(folder)
    if free >= (wanted * ROOM_AGAIN if was_full else wanted):
        return None
    room = f"The disk of its outputs has {free // MEBIBYTE} MiB left"
    return f"{room}; COMFYLINE_MIN_FREE_DISK_BYTES asks for {wanted // MEBIBYTE} MiB."
