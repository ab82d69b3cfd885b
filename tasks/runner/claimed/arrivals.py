"""What is told of a job whose input files are on their way: how far they are, in its progress, about once a second."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from core.background import Loop
from core.errors import LedgerUnavailable
from core.ledger.claims import Claim
from core.messaging.notices import Notice
from core.records.progress import Progress
from core.scheduling.reasons import about
from core.storage.placing import Told
from tasks.runtime import Runtime

log = logging.getLogger(__name__)

#: Files that come within this time are not worth a word; it is also the time between two.
TELL_S = 1.0


class Arrivals:
    """How the input files of one job come along. Safe to share between threads."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.is_over = False
        #: What was told last.
        self.said: str | None = None
        self._begun_s = time.monotonic()
        self._lock = threading.Lock()
        #: Bytes that came, and all of them, by the keys of files whose size is known.
        self._bytes: dict[str, tuple[int, int]] = {}

    def of(self, key: str) -> Told:
        """Return what hears how many bytes of a file have come, of how many."""

        def told(came_bytes: int, size_bytes: int) -> None:
            with self._lock:
                self._bytes[key] = came_bytes, size_bytes

        return told

    @property
    def is_slow(self) -> bool:
        """Whether there is something to be told."""
        return time.monotonic() - self._begun_s >= TELL_S

    def sentence(self) -> str:
        """Return how far they are; what another worker of the machine fetches is only known to be on its way."""
        with self._lock:
            found = dict(self._bytes)
        files = {file.key for file in self.claim.inputs}
        words = "Fetching its input file" + ("s" if len(files) > 1 else "")
        came, size = (sum(numbers) for numbers in zip(*found.values(), strict=True)) if found else (0, 0)
        if len(found) < len(files) or not size:
            return f"{words}."
        took_s = time.monotonic() - self._begun_s
        left = f", {about(took_s * (size - came) / came)}" if came else ""
        return f"{words}: {100 * came // size} %{left}."


class ArrivalNotes:
    """For one runner. Safe to share between threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = threading.Lock()
        self._under_way: list[Arrivals] = []
        self._loop = Loop("input-notes", self._tell, pause_s=None)
        self._is_news = threading.Event()

    @contextmanager
    def watched(self, claim: Claim) -> Iterator[Arrivals]:
        """Tell of a job's files for the time of the block, in which they are fetched."""
        arrivals = Arrivals(claim)
        with self._lock:
            self._under_way.append(arrivals)
        self._loop.start()
        self._loop.wake()
        try:
            yield arrivals
        finally:
            arrivals.is_over = True
            if arrivals.said is not None:
                # The GPU does not wait for what is written now.
                self._is_news.set()

    def _tell(self) -> None:
        """Tell for as long as files are on their way."""
        while found := self._current():
            for arrivals in found:
                if arrivals.is_over and arrivals.said is not None:
                    self._say(arrivals, None)
                elif not arrivals.is_over and arrivals.is_slow:
                    self._say(arrivals, arrivals.sentence())
            self._is_news.wait(TELL_S)
            self._is_news.clear()

    def _current(self) -> list[Arrivals]:
        """Return those that are on their way, or of which a last word is due."""
        with self._lock:
            found = [each for each in self._under_way if not each.is_over or each.said is not None]
            self._under_way = list(found)
        return found

    def _say(self, arrivals: Arrivals, note: str | None) -> None:
        if note == arrivals.said:
            return
        arrivals.said = note
        claim = arrivals.claim
        progress = Progress(nodes_total=claim.nodes_total, note=note)
        self._runtime.notices.send(Notice(job_id=claim.job_id, kind="progress", data=progress.to_json()))
        try:
            self._runtime.ledger.claims.progress(claim, progress)
        except LedgerUnavailable as exc:
            log.info("job %s: how its input files come along was not written: %s", claim.job_id, exc)
