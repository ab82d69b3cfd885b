"""Fetches the model files of a host, beside the jobs that its GPUs run: what its pool keeps, and what jobs wait for.

Each worker of a host has one of these, and one of them at a time works: whichever holds the lock in the folder. It goes
through what is wanted file by file, and begins a file that a job waits for before it ends one that is only kept.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

from comfy.model_files.cache import ModelCache
from comfy.model_files.download import Download
from comfy.model_files.offers import Wanted
from core.background import Loop
from core.errors import ConfigurationError, LedgerUnavailable, ModelRefused, ModelUnavailable
from core.ledger import Ledger
from core.ledger.models.speeds import learn_speed
from core.model_files.needs import FleetNeeds, Wants, wants_of
from core.records.model_file import ModelCopy, ModelFile
from core.settings import Settings
from tasks.models.addresses import address_of
from tasks.models.room import ModelRoom

log = logging.getLogger(__name__)

#: Seconds between looks at what is wanted; a job that waits for a file has it looked for at once.
LOOK_S = 5.0
#: How often what is left of files that nobody wants is looked for.
TIDY_EVERY_S = 3600.0
#: How often the ledger is told how a file comes along.
TELL_S = 1.0
#: What counts as "of late" in the speed, in seconds.
LATE_S = 5.0
#: The first pause after a failure; each further one is twice as long, up to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0


def fetches_models(settings: Settings) -> bool:
    """Return whether this host fetches model files: it has a folder for them, and may write there."""
    return settings.models_dir is not None and os.access(settings.models_dir, os.W_OK)


@dataclass
class _Failure:
    """A file that could not be fetched."""

    entry: ModelFile
    pause_s: float
    not_before_s: float


class ModelFetcher:
    """Keeps one host's folder of models as the manifest and the waiting jobs want it."""

    def __init__(self, settings: Settings, *, arrived: Callable[[], None]) -> None:
        """Parameters:
        arrived: called when a file has come into its place, or gone from it.
        """
        if settings.models_dir is None:
            raise ConfigurationError("COMFYLINE_MODELS_DIR is not set, so that there is no folder to fetch models to.")
        self._settings = settings
        self._host = settings.host
        self._cache = ModelCache(settings.models_dir)
        self._room = ModelRoom(settings, self._cache)
        self._arrived = arrived
        self._held = ExitStack()
        self._is_ours = False
        self._ledger: Ledger | None = None
        self._failures: dict[str, _Failure] = {}
        self._looked_s = self._tidy_at_s = 0.0
        self._woken = threading.Event()
        self._loop = Loop("model-files", self._step, pause_s=LOOK_S, last=self._close)

    def start(self) -> None:
        self._loop.start()
        self._loop.wake()

    def end(self) -> None:
        """End soon; a file under way stays as far as it is, for whoever comes next."""
        self._loop.end()

    def wake(self) -> None:
        """Look at what is wanted now. Does not wait."""
        self._woken.set()
        self._loop.wake()

    # In the loop's thread.

    def _step(self) -> None:
        if not self._is_ours:
            # For as long as this process lives: then another one of this host takes it over.
            self._is_ours = self._held.enter_context(self._cache.locked(f"host {self._host}"))
            if not self._is_ours:
                self._held.close()
                return
            log.info("model files of %s are fetched to %s by this process", self._host, self._cache.folder)
        self._woken.clear()
        fleet, manifest, wants = self._look()
        self._tell_what_is_there(fleet, manifest)
        if time.monotonic() >= self._tidy_at_s:
            self._tidy_at_s = time.monotonic() + TIDY_EVERY_S
            self._cache.remove_parts(spare={entry.path for entry in manifest})
        for entry in wants.all:
            if self._is_due(entry) and not self._is_there(entry) and self._fetch(entry):
                # Whatever became of it, the world may have changed meanwhile.
                self._loop.wake()
                return

    def _close(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
        self._held.close()

    def _token_of(self, name: str) -> str | None:
        return None if self._ledger is None else self._ledger.model_tokens.open(name)

    def _look(self) -> tuple[FleetNeeds, list[ModelFile], Wants]:
        self._ledger = self._ledger or Ledger(self._settings, pool_size=1)
        self._looked_s = time.monotonic()
        manifest = self._ledger.manifest.all()
        fleet = self._ledger.file_needs.read()
        return fleet, manifest, self._wants(fleet, manifest)

    def _wants(self, fleet: FleetNeeds, manifest: list[ModelFile]) -> Wants:
        return wants_of(self._host, fleet, manifest, pool=self._settings.pool or None, tags=self._settings.models_tags)

    def _tell_what_is_there(self, fleet: FleetNeeds, manifest: list[ModelFile]) -> None:
        known = {path: copy for (host, path), copy in fleet.copies.items() if host == self._host}
        for entry in manifest:
            size = self._size_there(entry)
            if size is not None:
                copy = self._ready(entry, size)
                before = known.pop(entry.path, None)
                if before is None or replace(before, updated_at_ms=0) != copy:
                    self._put(copy)
            elif entry.path in self._failures:
                known.pop(entry.path, None)
        if known and self._ledger is not None:
            self._ledger.copies.drop(self._host, list(known))

    def _ready(self, entry: ModelFile, size: int) -> ModelCopy:
        return ModelCopy(host=self._host, path=entry.path, state="ready", size_bytes=size, done_bytes=size)

    def _size_there(self, entry: ModelFile) -> int | None:
        try:
            return self._cache.holds(entry.path, sha256=entry.sha256, size_bytes=entry.size_bytes)
        except ModelRefused:
            return None

    def _is_there(self, entry: ModelFile) -> bool:
        try:
            return self._cache.holds(entry.path, sha256=entry.sha256, size_bytes=entry.size_bytes) is not None
        except ModelRefused as exc:
            self._fail(entry, exc)
            return True

    def _is_due(self, entry: ModelFile) -> bool:
        failure = self._failures.get(entry.path)
        # An operator who has mended an entry does not wait.
        return failure is None or failure.entry != entry or time.monotonic() >= failure.not_before_s

    def _fetch(self, entry: ModelFile) -> bool:
        """Fetch a file; False if another host does, to a folder that both share."""
        with self._cache.locked(f"file {entry.path}") as is_ours:
            if is_ours:
                try:
                    self._fetch_it(entry)
                except (ModelUnavailable, ModelRefused) as exc:
                    self._fail(entry, exc)
            return is_ours

    def _fetch_it(self, entry: ModelFile) -> None:
        watch = Progress(self._host, entry, self._put)
        watch.begin()
        part = self._cache.part_of(entry.path)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise ModelUnavailable(f"{part.parent} cannot be made: {exc.strerror}.") from exc
        download = Download(
            address_of(entry, self._settings, self._token_of),
            part,
            Wanted(sha256=entry.sha256, size_bytes=entry.size_bytes),
            tell=watch.tell,
            goes_on=lambda: self._goes_on(entry),
            make_room=lambda size: self._room.make(entry.path, size, self._in_use),
        )
        found = download.run()
        if found is None:
            return
        watch.learn(self._learn)
        self._cache.keep(entry.path, sha256=found.sha256, size_bytes=found.size_bytes)
        self._failures.pop(entry.path, None)
        self._put(self._ready(entry, found.size_bytes))
        log.info("%s has come from %s, %d bytes", entry.path, entry.source, found.size_bytes)
        self._arrived()

    def _learn(self, size_bytes: int, seconds: float) -> None:
        try:
            if self._ledger is not None:
                learn_speed(self._ledger.durations, self._host, size_bytes=size_bytes, seconds=seconds)
        except LedgerUnavailable as exc:
            log.debug("the ledger was not told how fast files come: %s", exc)

    def _in_use(self) -> frozenset[str]:
        fleet, _, wants = self._look()
        return fleet.in_use(self._host) | {entry.name for entry in wants.all}

    def _goes_on(self, entry: ModelFile) -> bool:
        """Tell whether a file under way is still the one to be fetched."""
        if self._loop.is_ending:
            return False
        if not self._woken.is_set() and time.monotonic() - self._looked_s < LOOK_S:
            return True
        self._woken.clear()
        try:
            _, manifest, wants = self._look()
        except LedgerUnavailable:
            return True
        if entry not in manifest:
            return False
        urgent = [each for each in wants.for_jobs if self._is_due(each) and not self._is_there(each)]
        return entry in urgent or not urgent

    def _fail(self, entry: ModelFile, exc: ModelUnavailable | ModelRefused) -> None:
        before = self._failures.get(entry.path)
        if before is not None and before.entry == entry:
            pause_s = min(2 * before.pause_s, LONGEST_PAUSE_S)
        else:
            pause_s = FIRST_PAUSE_S if isinstance(exc, ModelUnavailable) else 4 * FIRST_PAUSE_S
        self._failures[entry.path] = _Failure(entry, pause_s, time.monotonic() + pause_s)
        log.warning("%s was not fetched, and is tried again in %.0f s: %s", entry.path, pause_s, exc.message)
        self._put(ModelCopy(host=self._host, path=entry.path, state="failed", error=exc.message[:1000]))

    def _put(self, copy: ModelCopy) -> None:
        try:
            if self._ledger is not None:
                self._ledger.copies.put(copy)
        except LedgerUnavailable as exc:
            # The file comes all the same; what is told next makes it good.
            log.debug("the ledger was not told of %s: %s", copy.path, exc)


class Progress:
    """How a file comes along, told to the ledger once a second."""

    def __init__(self, host: str, entry: ModelFile, put: Callable[[ModelCopy], None]) -> None:
        self._copy = ModelCopy(host=host, path=entry.path, state="fetching", size_bytes=entry.size_bytes)
        self._put = put
        self._told_s = 0.0
        #: `(when, how many bytes were there)`, of late, and at first and at last.
        self._seen: list[tuple[float, int]] = []
        self._first = self._last = (0.0, 0)

    def begin(self) -> None:
        self._put(self._copy)

    def tell(self, done: int, size: int | None) -> None:
        now = time.monotonic()
        self._first, self._last = self._first if self._seen else (now, done), (now, done)
        if not self._seen or now - self._seen[-1][0] >= TELL_S / 2:
            self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[0][0] > LATE_S:
            self._seen.pop(0)
        if now - self._told_s < TELL_S:
            return
        self._told_s = now
        (first_s, first), (last_s, last) = self._seen[0], (now, done)
        bytes_s = (last - first) / (last_s - first_s) if last_s > first_s else 0.0
        size = self._copy.size_bytes if size is None else size
        self._put(replace(self._copy, done_bytes=done, size_bytes=size, bytes_s=max(0.0, bytes_s)))

    def learn(self, note: Callable[[int, float], None]) -> None:
        """Note how many bytes came in how many seconds: those that an earlier fetch had left are none of them."""
        (first_s, first), (last_s, last) = self._first, self._last
        note(last - first, last_s - first_s)
