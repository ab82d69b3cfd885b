"""One model file on its way to this host: how far it is, and whether it is to go on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from comfy.model_files.download import Download
from core.records.model_file import ModelCopy, ModelFile
from tasks.models.pace import Progress


class Fetch:
    """A fetch under way. Its thread asks `goes_on`; the thread that begins and ends fetches calls `leave`."""

    def __init__(self, host: str, entry: ModelFile, put: Callable[[ModelCopy], None]) -> None:
        """Parameters:
        put: tells the ledger of the file.
        """
        self.entry = entry
        self.progress = Progress(host, entry, lambda copy: put(copy) if self.goes_on else None)
        #: Nobody will take up again what there is of the file.
        self.is_dropped = False
        self._is_left = threading.Event()
        self._guard = threading.Lock()
        self._download: Download | None = None

    @property
    def goes_on(self) -> bool:
        return not self._is_left.is_set()

    def leave(self, *, drop: bool = False) -> None:
        """End it, whatever its source does.

        Parameters:
          drop: what there is of the file goes, too.
        """
        self.is_dropped = self.is_dropped or drop
        self._is_left.set()
        with self._guard:
            if self._download is not None:
                self._download.cut()

    def comes_by(self, download: Download) -> None:
        """Have `leave` end this download."""
        with self._guard:
            self._download = download
        if not self.goes_on:
            download.cut()
