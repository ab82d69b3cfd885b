"""Strippers for MP4, MOV, WebM and Matroska: what holds metadata is blanked where it is, and no byte moves.

Offsets inside these files count. Both formats have an element that means nothing and may have any length, `free` and
Void: whatever held metadata becomes one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import mmap

from tasks.outputs.metadata.pieces import Piece, need

ZEROS = bytes(1024 * 1024)
#: Boxes that hold other boxes, as far as metadata may lie in them.
MP4_PARENTS = frozenset((b"moov", b"trak", b"moof", b"traf"))
#: `free` and `skip` hold nothing of use, but sometimes what was there before.
MP4_METADATA = frozenset((b"udta", b"meta", b"free", b"skip"))
#: How a box of the kind `uuid` begins that holds XMP.
MP4_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
SEGMENT, INFO, CLUSTER = 0x18538067, 0x1549A966, 0x1F43B675
TAGS, TITLE, CHECKSUM, VOID = 0x1254C367, 0x7BA9, 0xBF, 0xEC
#: A checksum is of what has changed; a Void may hold what was there before.
MATROSKA_METADATA = frozenset((TAGS, TITLE, CHECKSUM, VOID))


def mp4(data: mmap) -> Iterator[Piece]:
    """Strip MP4, MOV and their relatives."""
    yield from _boxes(data, 0, len(data))


def _boxes(data: mmap, at: int, end: int) -> Iterator[Piece]:
    """The boxes from `at` to `end`; those of metadata become `free` boxes of the same size."""
    while at < end:
        size, kind = struct.unpack_from(">I4s", data, at)
        inside = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, inside)
            inside += 8
        following = at + size if size else end
        need(inside <= following <= end)
        if kind in MP4_METADATA or (kind == b"uuid" and data[inside : inside + 16] == MP4_XMP):
            yield data[at : at + 4] + b"free" + data[at + 8 : inside]
            yield from _zeros(following - inside)
        elif kind in MP4_PARENTS:
            yield range(at, inside)
            yield from _boxes(data, inside, following)
        else:
            yield range(at, following)
        at = following


def matroska(data: mmap) -> Iterator[Piece]:
    """Strip Matroska and WebM.

    The tree is walked flat: what holds metadata, or does not say where it ends, is stepped into.
    """
    at = 0
    while at < len(data):
        ident, inside = _ebml_ident(data, at)
        size, inside = _ebml_size(data, inside)
        if ident in (SEGMENT, INFO) or (ident == CLUSTER and size is None):
            yield range(at, inside)
            at = inside
            continue
        if size is None:
            raise ValueError("an element does not say where it ends")
        following = inside + size
        need(following <= len(data))
        if ident in MATROSKA_METADATA:
            header = _void_header(following - at)
            yield header
            yield from _zeros(following - at - len(header))
        else:
            yield range(at, following)
        at = following


def _ebml_ident(data: mmap, at: int) -> tuple[int, int]:
    """The identifier that begins here, and where it ends."""
    # The first set bit says how many bytes there are.
    length = 9 - data[at].bit_length()
    need(length <= 8 and at + length <= len(data))
    return int.from_bytes(data[at : at + length], "big"), at + length


def _ebml_size(data: mmap, at: int) -> tuple[int | None, int]:
    """The size that begins here, None for "unknown", and where it ends."""
    number, end = _ebml_ident(data, at)
    # Without the bit that says how many bytes there are.
    ones = (1 << 7 * (end - at)) - 1
    size = number & ones
    return (None if size == ones else size), end


def _void_header(total: int) -> bytes:
    """The beginning of a Void element that takes `total` bytes, its header included."""
    if total <= 128:
        return bytes((VOID, 0x80 | total - 2))
    return bytes((VOID, 0x01)) + (total - 9).to_bytes(7, "big")


def _zeros(count: int) -> Iterator[Piece]:
    while count > 0:
        yield ZEROS[:count]
        count -= len(ZEROS)
