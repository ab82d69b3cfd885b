"""What strippers share: the pieces they yield, the check that a file is sound, and RIFF, which two kinds of files use.

A stripper knows one format. It walks through a file that is mapped, not read, and yields what the stripped file is made
of: ranges of the source that stay as they are, and bytes that stand in for the rest. So memory does not grow with the
size of a film.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from mmap import mmap

#: Bytes to be written, or the positions of bytes to be copied from the source.
Piece = bytes | range
#: May raise ValueError, IndexError, struct.error or RecursionError, at any piece: the file is damaged.
Stripper = Callable[[mmap], Iterator[Piece]]


def need(holds: bool) -> None:
    """Give the file up unless this holds.

    Raises: ValueError.
    """
    if not holds:
        raise ValueError("the file ends too early, or contradicts itself")


def riff_chunks(data: mmap) -> Iterator[tuple[bytes, int, int]]:
    """Yield each chunk of a RIFF file: its kind, where it begins, and where it ends, without its padding."""
    need(data[:4] == b"RIFF")
    (size,) = struct.unpack_from("<I", data, 4)
    at = 12
    while at < 8 + size:
        kind, length = struct.unpack_from("<4sI", data, at)
        end = at + 8 + length
        need(end <= 8 + size)
        yield kind, at, end
        at = end + length % 2


def riff_file(form: bytes, chunks: list[Piece]) -> Iterator[Piece]:
    """Yield a RIFF file of these chunks. Each is padded to an even length; some writers forget that at the end."""
    need(bool(chunks))
    yield struct.pack("<4sI4s", b"RIFF", 4 + sum(len(chunk) + len(chunk) % 2 for chunk in chunks), form)
    for chunk in chunks:
        yield chunk
        yield bytes(len(chunk) % 2)
