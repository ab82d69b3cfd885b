"""One model file from its source to the disk: in parallel ranges, verified, and taken up again where it was."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from comfy.model_files.journal import Journal, journal_of
from comfy.model_files.offers import Wanted, expected_sha256
from comfy.model_files.remote import Address, Offer, Remote
from core.errors import ModelRefused, ModelUnavailable

#: Ranges under way at once: one connection to a far bucket is slow, and more than these hold up others.
CONNECTIONS = 4
#: What is noted as fetched, and taken up from after a kill; and how many of them are asked for at once, at most.
BLOCK_BYTES, SPAN_BLOCKS = 8 * 1024 * 1024, 8
#: So much is hashed at once: it is in the processor's cache then, and read into the same memory each time.
HASHED_BYTES = 256 * 1024
#: Tries at one place of the file without a byte, and the first pause between them; each further one is twice as long.
TRIES, PAUSE_S = 4, 0.5
#: How often the progress is told, and looked whether to go on.
TELL_S = 0.5
#: How often it is looked whether there is room yet: others write to the disk, too.
ROOM_S = 5.0
#: Of a file whose size nobody says, room is looked for in steps of so many bytes.
ROOM_BYTES = 8 * 1024 * 1024
#: A source that asks us for a longer pause is asked again by the next fetch.
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """A file that is there, and as it should be."""

    sha256: str
    size_bytes: int


class Download:
    """The fetch of one file into a part beside its place; `journal_of(part)` says how far it is.

    The journal stays until the part is moved into its place: whoever is killed before need not fetch it again.
    """

    def __init__(
        self,
        address: Address,
        part: Path,
        wanted: Wanted,
        *,
        tell: Callable[[int, int | None], None] = lambda _done, _size: None,
        goes_on: Callable[[], bool] = lambda: True,
        make_room: Callable[[int], None] = lambda _size: None,
        has_room: Callable[[int], bool] = lambda _size: True,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Parameters:
        tell: is told about twice a second how many bytes are there, and how many there will be.
        goes_on: asked as often; False ends the fetch, and leaves what is there for the next one.
        make_room: sees to it that there is room for a file of so many bytes. May raise ModelUnavailable.
        has_room: whether a file of which nobody says the size may become so large.
        """
        self._address = address
        self._part = part
        self._wanted = wanted
        self._tell = tell
        self._goes_on = goes_on
        self._make_room = make_room
        self._has_room = has_room
        self._is_cut = threading.Event()
        self._remotes: list[Remote] = []
        self._block_bytes = block_bytes

    @property
    def _journal(self) -> Path:
        return journal_of(self._part)

    def run(self) -> Fetched | None:
        """Fetch the file; None if it was to be left. A part that is not what it should be is thrown away.

        Raises:
          ModelUnavailable: trying again may help.
          ModelRefused: it hardly will.
        """
        try:
            with self._remote() as remote:
                return self._run(remote)
        except (ModelUnavailable, ModelRefused):
            # What was cut looks like a source that breaks off.
            if self._is_cut.is_set():
                return None
            raise
        except OSError as exc:
            raise ModelUnavailable(f"{self._part.parent} cannot be written: {exc.strerror}.") from exc

    def cut(self) -> None:
        """End the fetch now, whatever its source does, from another thread. What is there is left for the next one."""
        self._is_cut.set()
        for remote in tuple(self._remotes):
            remote.cut()

    def throw_away(self) -> None:
        """Remove what is there of it."""
        for path in (self._part, self._journal):
            path.unlink(missing_ok=True)

    @contextmanager
    def _remote(self) -> Iterator[Remote]:
        with closing(Remote(self._address)) as remote:
            self._remotes.append(remote)
            if self._is_cut.is_set():
                remote.cut()
            yield remote

    def _run(self, remote: Remote) -> Fetched | None:
        offer = remote.offer()
        sha256 = expected_sha256(offer, self._wanted, shown=self._address.shown)
        size = offer.size_bytes
        found = self._in_parts(offer, size, sha256) if offer.has_ranges and size else self._in_one(remote, size)
        if found is None:
            return None
        self._verify(found, sha256)
        return found

    def _verify(self, found: Fetched, sha256: str) -> None:
        if self._wanted.size_bytes not in (None, found.size_bytes):
            self.throw_away()
            raise ModelRefused(
                f"{self._address.shown} gave {found.size_bytes} bytes, and the manifest says "
                f"{self._wanted.size_bytes}: they were thrown away."
            )
        if found.sha256 != sha256:
            self.throw_away()
            raise ModelRefused(
                f"{self._address.shown} gave another file: its sha256 is {found.sha256[:12]}..., not "
                f"{sha256[:12]}...; it was thrown away."
            )

    def _in_one(self, remote: Remote, size: int | None) -> Fetched | None:
        """Fetch a file whose source gives no parts: from its beginning, each time."""
        self.throw_away()
        found = None
        try:
            found = self._whole(remote, size)
        finally:
            if found is None:
                # The next fetch has no use for it.
                self.throw_away()
        return found

    def _whole(self, remote: Remote, size: int | None) -> Fetched | None:
        limit = self._wanted.size_bytes if size is None else size
        if limit is not None:
            self._make_room(limit)
        digest, done, room = hashlib.sha256(), 0, 0
        with self._part.open("wb") as file:
            for piece in remote.whole():
                if limit is None and done + len(piece) > room:
                    room = done + max(len(piece), ROOM_BYTES)
                    self._look_for_room(room, done)
                file.write(piece)
                digest.update(piece)
                done += len(piece)
                self._tell(done, size)
                if not self._goes_on():
                    return None
                if limit is not None and done > limit:
                    break
            self._tell(done, done)
            file.flush()
            os.fsync(file.fileno())
        if size is not None and done < size:
            raise ModelUnavailable(f"{self._address.shown} ended early, after {done} of {size} bytes.")
        return Fetched(sha256=digest.hexdigest(), size_bytes=done)

    def _look_for_room(self, room_bytes: int, done: int) -> None:
        if not self._has_room(room_bytes):
            raise ModelRefused(
                f"{self._address.shown} sends more than there is room for: {done} bytes came, and were thrown away. It "
                "does not say how many there are: enter size_bytes in the manifest, so that room is made for it."
            )

    def _in_parts(self, offer: Offer, size: int, sha256: str) -> Fetched | None:
        head = {"validator": offer.validator, "size": size, "sha256": sha256, "block": self._block_bytes}
        if not self._part.is_file() or self._part.stat().st_size != size:
            self.throw_away()
        # First of all: a disk that others have filled takes no journal either.
        self._make_room(size)
        with closing(Journal(self._journal, head)) as journal, self._part.open("ab") as file:
            if journal.is_new:
                file.truncate(0)
            file.truncate(size)
            parts = _Parts(self._remote, self._part, offer, journal, size, self._block_bytes)
            parts.start()
            try:
                digest, looked_s = hashlib.sha256(), time.monotonic()
                # Each block is hashed as soon as all before it are there, so that little is left to do at the end.
                for piece in parts.in_order():
                    if piece is not None:
                        digest.update(piece)
                        continue
                    self._tell(parts.done_bytes, size)
                    if not self._goes_on():
                        return None
                    if time.monotonic() - looked_s >= ROOM_S:
                        looked_s = time.monotonic()
                        self._make_room_still(size)
            finally:
                parts.stop()
            self._tell(size, size)
            os.fsync(file.fileno())
        return Fetched(sha256=digest.hexdigest(), size_bytes=size)

    def _make_room_still(self, size: int) -> None:
        try:
            self._make_room(size)
        except ModelUnavailable:
            # Others need the room that it takes.
            self.throw_away()
            raise


class _Parts:
    """The threads that fetch the blocks of one file."""

    def __init__(
        self,
        remote: Callable[[], AbstractContextManager[Remote]],
        part: Path,
        offer: Offer,
        journal: Journal,
        size: int,
        block_bytes: int,
    ) -> None:
        self._remote = remote
        self._part = part
        self._offer = offer
        self._journal = journal
        self._size = size
        self._block_bytes = block_bytes
        self._count = -(-size // block_bytes)
        self._changed = threading.Condition()
        self._done = {block for block in journal.done if block < self._count}
        self._next = 0
        self._error: Exception | None = None
        self._is_over = False
        self._open_bytes = 0
        self._done_bytes = sum(self._length(block) for block in self._done)

    @property
    def done_bytes(self) -> int:
        """How many bytes are there."""
        return self._done_bytes + self._open_bytes

    def start(self) -> None:
        for number in range(CONNECTIONS):
            threading.Thread(target=self._work, name=f"model-file-{number}", daemon=True).start()

    def stop(self) -> None:
        """Have the threads end. One that waits for its source ends later, and writes nothing more."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def in_order(self) -> Iterator[memoryview | None]:
        """Yield the file from its beginning to its end, as it comes, and None about twice a second.

        What is yielded is good until the next is asked for.
        Raises: what a thread met.
        """
        memory, told_s = memoryview(bytearray(HASHED_BYTES)), time.monotonic()
        with self._part.open("rb", buffering=0) as file:
            for block in range(self._count):
                while not self._is_there(block, TELL_S) or time.monotonic() - told_s >= TELL_S:
                    yield None
                    told_s = time.monotonic()
                offset, end = block * self._block_bytes, block * self._block_bytes + self._length(block)
                while offset < end:
                    count = os.preadv(file.fileno(), [memory[: end - offset]], offset)
                    if not count:
                        raise ModelUnavailable(f"{self._part} was cut short by somebody else.")
                    offset += count
                    yield memory[:count]

    def _is_there(self, block: int, timeout_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: block in self._done or self._error is not None, timeout_s)
            if self._error is not None:
                raise self._error
            return block in self._done

    def _length(self, block: int) -> int:
        return min(self._block_bytes, self._size - block * self._block_bytes)

    def _take(self) -> range | None:
        """Return blocks that nobody fetches yet, side by side; None when there are no more."""
        with self._changed:
            while self._next < self._count and self._next in self._done:
                self._next += 1
            first = self._next
            # Fewer towards the end, so that all connections end together, and little is left to be hashed then.
            many = min(SPAN_BLOCKS, max(1, (self._count - first) // (2 * CONNECTIONS)))
            while self._next < min(first + many, self._count) and self._next not in self._done:
                self._next += 1
            is_left = first < self._next and not self._is_over and self._error is None
            return range(first, self._next) if is_left else None

    def _work(self) -> None:
        try:
            self._fetch()
        # Whatever it was, the thread that waits for the blocks raises it; it would wait for ever for this one.
        except Exception as exc:  # noqa: BLE001 - see above
            with self._changed:
                self._error = self._error or exc
                self._changed.notify_all()

    def _fetch(self) -> None:
        with self._remote() as remote, self._part.open("r+b", buffering=0) as file:
            while (span := self._take()) is not None:
                self._fetch_span(remote, file.fileno(), span)

    def _fetch_span(self, remote: Remote, descriptor: int, span: range) -> None:
        block, tries = span.start, 0
        while block < span.stop and not self._is_over:
            begun = block
            try:
                for following in self._blocks(remote, descriptor, range(begun, span.stop)):
                    self._note(following - 1)
                    block = following
            except ModelUnavailable as exc:
                tries = 1 if block > begun else tries + 1
                pause_s = max(PAUSE_S * 2 ** (tries - 1), exc.asked_pause_s or 0.0)
                if tries >= TRIES or pause_s > LONGEST_PAUSE_S:
                    raise
                with self._changed:
                    self._changed.wait_for(lambda: self._is_over, pause_s)

    def _blocks(self, remote: Remote, descriptor: int, span: range) -> Iterator[int]:
        """Write the bytes of blocks to the file; yields the number of the next one after each that is whole."""
        block, offset = span.start, span.start * self._block_bytes
        end = min(span.stop * self._block_bytes, self._size)
        pending = 0
        try:
            for piece in remote.part(offset, end, self._offer):
                if self._is_over:
                    return
                _write(descriptor, piece, offset)
                offset += len(piece)
                pending += len(piece)
                self._count_open(len(piece))
                while block < span.stop and offset >= block * self._block_bytes + self._length(block):
                    pending -= self._length(block)
                    self._count_open(-self._length(block))
                    block += 1
                    yield block
        finally:
            self._count_open(-pending)
        if offset < end:
            raise ModelUnavailable(f"{remote.shown} ended early, after {offset} of {self._size} bytes.")

    def _count_open(self, size: int) -> None:
        with self._changed:
            self._open_bytes += size

    def _note(self, block: int) -> None:
        with self._changed:
            if self._is_over:
                return
            self._journal.note(block)
            self._done.add(block)
            self._done_bytes += self._length(block)
            self._changed.notify_all()


def _write(descriptor: int, piece: bytes, offset: int) -> None:
    """Write all of a piece: a disk that is about to be full takes less of it, and does not call that an error."""
    left = memoryview(piece)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
