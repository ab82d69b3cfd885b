"""Fetches the model files of a host, beside the jobs that its GPUs run: what its pool keeps, and what jobs wait for.

Each worker of a host has one of these, and one of them at a time works: whichever holds the lock in the folder. It
fetches some files side by side, in a thread each. What a job waits for that no GPU can run goes first, and a source
that is slow or silent holds up no other.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from comfy.model_files.cache import ModelCache
from comfy.model_files.download import Download
from comfy.model_files.offers import Wanted
from comfy.model_files.sharing import Sharer, Sharing
from comfy.process.model_paths import KINDS
from core.background import Loop, failure_of
from core.errors import ConfigurationError, LedgerUnavailable, ModelRefused, ModelUnavailable
from core.ledger import Ledger
from core.ledger.models.speeds import learn_speed
from core.model_files.needs import FleetNeeds, Wants, pinned_to, wants_of
from core.model_files.stays import Stays, stays_for
from core.records.model_file import ModelCopy, ModelFile
from core.settings import Settings
from tasks.models.addresses import address_of
from tasks.models.failures import Failures
from tasks.models.fetch import Fetch
from tasks.models.pace import FLOOR_S
from tasks.models.room import ModelRoom
from tasks.models.yielding import Yielding

log = logging.getLogger(__name__)

#: Seconds between looks at what is wanted; a job that waits for a file has it looked for at once.
LOOK_S = 5.0
#: The same while files make room, and GPUs wait for that.
YIELD_LOOK_S = 0.5
#: How often what is left of files that nobody wants is looked for; what leaves the manifest goes at the next look.
TIDY_EVERY_S = 3600.0
#: Files that come side by side, and share the host's bandwidth; those that hardly come are counted apart.
FILES_AT_ONCE, MOST_FILES = 3, 12
#: How long the end waits for files under way.
END_S = 3.0


def fetches_models(settings: Settings) -> bool:
    """Return whether this host fetches model files: it has a folder for them, and may write there."""
    return settings.models_dir is not None and os.access(settings.models_dir, os.W_OK)


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
        self._pool = settings.pool or None
        self._cache = ModelCache(settings.models_dir)
        self._sharing = Sharing(settings.models_dir)
        self._room = ModelRoom(settings, self._cache, gone=arrived)
        self._arrived = arrived
        self._held = ExitStack()
        self._is_ours = False
        self._ledger: Ledger | None = None
        self._opening = threading.Lock()
        self._failures = Failures(settings.host)
        self._yielding = Yielding(settings.host, self._cache)
        #: By path; an entry goes when its thread has ended.
        self._under_way: dict[str, Fetch] = {}
        self._threads: list[threading.Thread] = []
        self._known_paths: frozenset[str] = frozenset()
        self._tidy_at_s = 0.0
        self._loop = Loop("model-files", self._step, pause_s=LOOK_S, last=self._close)

    def start(self) -> None:
        self._loop.start()
        self._loop.wake()

    def end(self) -> None:
        """End soon; files under way stay as far as they are, for whoever comes next."""
        self._loop.end()

    def wake(self) -> None:
        """Look at what is wanted now. Does not wait."""
        self._loop.wake()

    def lacking(self, names: Collection[str]) -> list[str]:
        """Return which of some files are still to be fetched.

        Those of which the manifest knows nothing, and those in whose place another file is, are not. Raises
        LedgerUnavailable.
        """
        if not names:
            return []
        entries = [entry for entry in self._open_ledger().manifest.all() if entry.name in names]
        return [entry.name for entry in entries if self._is_missing(entry)]

    def missing(self, names: Collection[str]) -> list[str]:
        """Return which of some files are `lacking`, and have whichever worker fetches do so."""
        missing = self.lacking(names)
        self._cache.note_missed(missing)
        self.wake()
        return missing

    # In the loop's thread.

    def _step(self) -> None:
        if not self._is_ours:
            # For as long as this process lives: then another one of this host takes it over.
            self._is_ours = self._held.enter_context(self._cache.locked(f"host {self._host}"))
            if not self._is_ours:
                self._held.close()
                return
            log.info("model files of %s are fetched to %s by this process", self._host, self._cache.folder)
        self._give_up_slow_ones()
        self._note_that_we_share()
        fleet, manifest, wants = self._look()
        if any(entry.token is not None for entry in manifest):
            self._failures.know_tokens(self._open_ledger().model_tokens.names())
        self._cache.make_folders({entry.folder for entry in manifest}.difference(KINDS))
        self._let_go(fleet, manifest, wants)
        self._tell_what_is_there(fleet, manifest)
        self._tidy(manifest, wants)
        self._have_room_made(fleet, manifest, wants)
        self._begin_what_is_due(fleet, manifest, wants)
        if self._yielding.is_under_way:
            # GPUs that have given up a file wait for its end.
            self._loop.come_back(YIELD_LOOK_S)

    def _close(self) -> None:
        for fetch in tuple(self._under_way.values()):
            fetch.leave()
        ends_at_s = time.monotonic() + END_S
        for thread in self._threads:
            thread.join(max(0.0, ends_at_s - time.monotonic()))
        if self._ledger is not None:
            self._ledger.close()
        self._held.close()

    def _open_ledger(self) -> Ledger:
        with self._opening:
            self._ledger = self._ledger or Ledger(self._settings, pool_size=2)
            return self._ledger

    def _look(self) -> tuple[FleetNeeds, list[ModelFile], Wants]:
        ledger = self._open_ledger()
        manifest = ledger.manifest.all()
        fleet = ledger.file_needs.read()
        wants = wants_of(self._host, fleet, manifest, pool=self._pool, tags=self._settings.models_tags)
        there = {file.path: file for file in self._cache.files()}
        # What jobs would have for ever of an entry that was another file's before.
        outdated = (entry for entry in manifest if entry.path in there and there[entry.path].differs_from(entry))
        is_missed = self._cache.missed()
        missed = (entry for entry in manifest if is_missed(entry.name))
        return fleet, manifest, replace(wants, pinned=(*wants.pinned, *missed), outdated=tuple(outdated))

    def _note_that_we_share(self) -> None:
        try:
            self._sharing.note(Sharer(host=self._host, pool=self._pool, tags=tuple(self._settings.models_tags)))
        except OSError as exc:
            log.warning("hosts that share %s are not told of this one: %s", self._cache.folder, exc.strerror)

    def _give_up_slow_ones(self) -> None:
        for fetch in tuple(self._under_way.values()):
            if fetch.goes_on and fetch.progress.is_too_slow:
                fetch.leave()
                came = fetch.progress.came_bytes(FLOOR_S)
                why = f"{fetch.entry.source} sends too slowly: {came} bytes in {FLOOR_S:g} s."
                self._fail(fetch.entry, ModelUnavailable(why))

    def _let_go(self, fleet: FleetNeeds, manifest: list[ModelFile], wants: Wants) -> None:
        """End what is under way and not to be fetched any more, or not now."""
        entries, wanted = frozenset(manifest), frozenset(wants.all)
        paths = {entry.path for entry in manifest}
        waited_for = {name for need in fleet.needs for name in need.files}
        for fetch in tuple(self._under_way.values()):
            entry = fetch.entry
            is_wanted = entry in wanted or entry.name in waited_for or fetch.progress.is_nearly_there
            if entry not in entries or not is_wanted:
                fetch.leave(drop=entry.path not in paths)

    def _tell_what_is_there(self, fleet: FleetNeeds, manifest: list[ModelFile]) -> None:
        known = {path: copy for (host, path), copy in fleet.copies.items() if host == self._host}
        for entry in manifest:
            size = self._size_there(entry)
            failure = self._failures.of(entry.path)
            if size is not None:
                copy = self._ready(entry, size)
                before = known.pop(entry.path, None)
                if before is None or replace(before, updated_at_ms=0) != copy:
                    self._put(copy)
            elif entry.path in self._under_way:
                known.pop(entry.path, None)
            elif failure is not None:
                before = known.pop(entry.path, None)
                if before is None or before.state != "failed":
                    self._put(failure.copy)
        if known:
            self._open_ledger().copies.drop(self._host, list(known))

    def _tidy(self, manifest: list[ModelFile], wants: Wants) -> None:
        known = frozenset(entry.path for entry in manifest)
        if time.monotonic() >= self._tidy_at_s or self._known_paths - known:
            self._cache.remove_parts(known=known, wanted={entry.path for entry in wants.all})
            self._known_paths, self._tidy_at_s = known, time.monotonic() + TIDY_EVERY_S
        self._known_paths |= known

    def _have_room_made(self, fleet: FleetNeeds, manifest: list[ModelFile], wants: Wants) -> None:
        """Have files in use make room for the first that jobs have waited for too long, if that lacks nothing else."""
        sharers = frozenset(other.host for other in self._sharing.others(self._host))
        # Some have begun, and ask their sources first.
        chosen = self._yielding.made_for({path for path in self._under_way if not self._room.is_made(path)})
        for entry in wants.for_jobs:
            size, fits = self._failures.lacking_bytes(entry), partial(self._fits, entry)
            if size is None or entry.path in self._under_way:
                continue
            stays = self._stays(entry, fleet, manifest, wants, overtaken=())
            if not fits(size, stays):
                chosen |= self._yielding.choose(entry, size, fleet, manifest, sharers, stays, fits)
                break
        self._yielding.tell(chosen, self._open_ledger().yields, fleet, manifest, sharers)

    def _begin_what_is_due(self, fleet: FleetNeeds, manifest: list[ModelFile], wants: Wants) -> None:
        urgent = frozenset(wants.for_jobs)

        def is_due(entry: ModelFile) -> bool:
            def has_room(size_bytes: int) -> bool:
                return self._fits(entry, size_bytes, self._stays(entry, fleet, manifest, wants))

            return self._failures.is_due(entry, has_room)

        for entry in wants.all:
            may_begin = entry.path not in self._under_way and self._has_place(entry, urgent) and is_due(entry)
            if may_begin and not self._is_there(entry):
                self._begin(entry)
        moving = self._moving()
        if any(fetch.entry in urgent for fetch in moving):
            for fetch in moving:
                if fetch.entry not in urgent:
                    fetch.leave()

    def _fits(self, entry: ModelFile, size_bytes: int, stays: Stays) -> bool:
        try:
            return self._room.can_be_made(entry.path, size_bytes, stays)
        except ModelUnavailable:
            return False

    def _has_place(self, entry: ModelFile, urgent: Collection[ModelFile]) -> bool:
        before_it = [fetch for fetch in self._moving() if entry not in urgent or fetch.entry in urgent]
        if len(before_it) >= FILES_AT_ONCE or len(self._under_way) >= MOST_FILES:
            return False
        return entry in urgent or not any(fetch.entry in urgent for fetch in before_it)

    def _moving(self) -> list[Fetch]:
        """Return the fetches that others have to wait for."""
        return [fetch for fetch in tuple(self._under_way.values()) if fetch.goes_on and not fetch.progress.is_slow]

    def _begin(self, entry: ModelFile) -> None:
        """Fetch a file, unless another host does, to a folder that both share."""
        held = ExitStack()
        if not held.enter_context(self._cache.fetching(entry.path)):
            held.close()
            return
        fetch = self._under_way[entry.path] = Fetch(self._host, entry, self._put)
        thread = threading.Thread(target=self._run, args=(fetch, held), name="model-file", daemon=True)
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()

    def _ready(self, entry: ModelFile, size: int) -> ModelCopy:
        return ModelCopy(host=self._host, path=entry.path, state="ready", size_bytes=size, done_bytes=size)

    def _size_there(self, entry: ModelFile) -> int | None:
        try:
            return self._cache.holds(entry.path, sha256=entry.sha256, size_bytes=entry.size_bytes)
        except ModelRefused:
            return None

    def _is_missing(self, entry: ModelFile) -> bool:
        try:
            return self._cache.holds(entry.path, sha256=entry.sha256, size_bytes=entry.size_bytes) is None
        except ModelRefused:
            return False

    def _is_there(self, entry: ModelFile) -> bool:
        try:
            return self._cache.holds(entry.path, sha256=entry.sha256, size_bytes=entry.size_bytes) is not None
        except ModelRefused as exc:
            self._fail(entry, exc)
            return True

    # In the thread of a file.

    def _run(self, fetch: Fetch, held: ExitStack) -> None:
        entry = fetch.entry
        with held:
            error = failure_of(lambda: self._fetch(fetch), f"model file {entry.path}")
            if error is not None and fetch.goes_on:
                # What was unforeseen is in the log, whole.
                self._fail(entry, ModelUnavailable(f"{entry.path} was not fetched: {type(error).__name__}."))
            if fetch.is_dropped:
                self._cache.drop_part(entry.path)
        del self._under_way[entry.path]
        # The place is free.
        self._loop.wake()

    def _fetch(self, fetch: Fetch) -> None:
        try:
            with self._room.claimed(fetch.entry.path):
                self._fetch_it(fetch)
        except (ModelUnavailable, ModelRefused) as exc:
            if fetch.goes_on:
                self._fail(fetch.entry, exc)
                # What a source refuses is hardly taken up again, and would stand in the way of others.
                fetch.is_dropped = isinstance(exc, ModelRefused)

    def _fetch_it(self, fetch: Fetch) -> None:
        entry = fetch.entry
        fetch.progress.begin()
        part = self._cache.part_of(entry.path)
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise self._cache.no_folder(entry.path, exc) from exc
        download = Download(
            address_of(entry, self._settings, self._open_ledger().model_tokens.open),
            part,
            Wanted(sha256=entry.sha256, size_bytes=entry.size_bytes),
            tell=fetch.progress.tell,
            goes_on=lambda: fetch.goes_on and not self._loop.is_ending,
            make_room=lambda size: self._room.make(entry.path, size, lambda: self._stays_now(entry)),
            has_room=lambda size: self._room.grow(entry.path, size),
        )
        fetch.comes_by(download)
        found = download.run()
        if found is None:
            return
        fetch.progress.learn(self._learn)
        self._cache.keep(entry.path, sha256=found.sha256, size_bytes=found.size_bytes)
        self._failures.forget(entry.path)
        self._put(self._ready(entry, found.size_bytes))
        log.info("%s has come from %s, %d bytes", entry.path, entry.source, found.size_bytes)
        self._arrived()

    def _learn(self, size_bytes: int, seconds: float) -> None:
        try:
            learn_speed(self._open_ledger().durations, self._host, size_bytes=size_bytes, seconds=seconds)
        except LedgerUnavailable as exc:
            log.debug("the ledger was not told how fast files come: %s", exc)

    def _stays_now(self, entry: ModelFile) -> Stays:
        return self._stays(entry, *self._look())

    # In any of them.

    def _stays(
        self,
        entry: ModelFile,
        fleet: FleetNeeds,
        manifest: list[ModelFile],
        wants: Wants,
        overtaken: tuple[str, ...] | None = None,
    ) -> Stays:
        """Return which files stay when one needs room: of this host, and of others that share the folder."""
        others = self._sharing.others(self._host)
        kept = {each.name for each in (*wants.to_help, *wants.pinned)}
        for other in others:
            kept |= {each.name for each in manifest if pinned_to(each, pool=other.pool, tags=other.tags)}
        return stays_for(
            entry.name,
            fleet,
            manifest,
            hosts={self._host, *(other.host for other in others)},
            kept=kept,
            hopeless=self._failures.hopeless(),
            overtaken=self._yielding.settled if overtaken is None else overtaken,
        )

    def _fail(self, entry: ModelFile, exc: ModelUnavailable | ModelRefused) -> None:
        failure = self._failures.add(entry, exc)
        rest_s = failure.not_before_s - time.monotonic()
        log.warning("%s was not fetched, and is tried again in %.0f s: %s", entry.path, rest_s, exc.message)
        self._put(failure.copy)

    def _put(self, copy: ModelCopy) -> None:
        try:
            self._open_ledger().copies.put(copy)
        except LedgerUnavailable as exc:
            # The file comes all the same; what is told next makes it good.
            log.debug("the ledger was not told of %s: %s", copy.path, exc)
