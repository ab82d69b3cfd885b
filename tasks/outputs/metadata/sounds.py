"""Strippers for FLAC, MP3, Ogg (Opus, Vorbis) and WAV: tags go, the sound stays as it is.

From most files tags are cut out. An Ogg file is pages of fixed places with checksums: there the comments are
overwritten, and the checksums computed anew.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

from tasks.outputs.metadata.pieces import Piece, need, riff_chunks, riff_file

#: Blocks of a FLAC file. The highest bit of a block's first byte says that it is the last.
STREAM_INFORMATION, SEEK_TABLE, CUE_SHEET, LAST = 0, 3, 5, 0x80
FLAC_KEPT = frozenset((STREAM_INFORMATION, SEEK_TABLE, CUE_SHEET))
#: How the first packet of an Ogg stream begins, and an empty comment packet: no vendor, no comments.
OGG_COMMENTS = {b"\x01vorbis": b"\x03vorbis" + bytes(8) + b"\x01", b"OpusHead": b"OpusTags" + bytes(8)}
WAV_KEPT = frozenset((b"fmt ", b"fact", b"data", b"cue ", b"smpl"))


def id3(data: mmap) -> Iterator[Piece]:
    """Strip a file that begins with an ID3 tag: mostly MP3, sometimes FLAC."""
    at = _after_id3(data)
    return (flac if data[at : at + 4] == b"fLaC" else mp3)(data)


def mp3(data: mmap) -> Iterator[Piece]:
    """Strip MP3, with or without tags."""
    start, end = _after_id3(data), _before_tags(data)
    need(start + 4 <= end and data[start] == 0xFF and data[start + 1] >= 0xE0)
    yield range(start, end)


def flac(data: mmap) -> Iterator[Piece]:
    """Strip FLAC, with or without an ID3 tag before it."""
    at = _after_id3(data)
    need(data[at : at + 4] == b"fLaC")
    at += 4
    kept: list[range] = []
    is_last = False
    while not is_last:
        is_last = bool(data[at] & LAST)
        block = range(at, at + 4 + int.from_bytes(data[at + 1 : at + 4], "big"))
        if data[at] & ~LAST in FLAC_KEPT:
            kept.append(block)
        at = block.stop
    need(bool(kept) and data[kept[0].start] & ~LAST == STREAM_INFORMATION)
    yield b"fLaC"
    for block in kept:
        yield bytes((data[block.start] & ~LAST | (LAST if block == kept[-1] else 0),))
        yield block[1:]
    yield range(at, _before_tags(data))


def _after_id3(data: mmap) -> int:
    """Where the sound begins: behind every ID3v2 tag."""
    at = 0
    while data[at : at + 3] == b"ID3":
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        has_footer = data[at + 5] & 0x10
        at += (20 if has_footer else 10) + size
    return at


def _before_tags(data: mmap) -> int:
    """Where the sound ends: before an ID3v1 tag, and before an APE tag."""
    end = len(data)
    if end >= 128 and data[end - 128 : end - 125] == b"TAG":
        end -= 128
    if end >= 32 and data[end - 32 : end - 24] == b"APETAGEX":
        size, _, flags = struct.unpack_from("<III", data, end - 20)
        has_header = flags >> 31
        end -= size + (32 if has_header else 0)
    return end


def wav(data: mmap) -> Iterator[Piece]:
    """Strip WAV."""
    yield from riff_file(b"WAVE", [range(at, end) for kind, at, end in riff_chunks(data) if kind in WAV_KEPT])


def is_known_ogg(data: mmap) -> bool:
    """Return whether the first stream of an Ogg file is one whose comments we know."""
    # The page's header, and one byte for the length of its only packet.
    return data[28:36].startswith(tuple(OGG_COMMENTS))


def ogg(data: mmap) -> Iterator[Piece]:
    """Strip Ogg, as long as each of its streams is Opus or Vorbis."""
    streams: dict[int, _OggStream] = {}
    at = 0
    while at < len(data):
        need(data[at : at + 4] == b"OggS")
        is_first, serial = data[at + 5] & 2, struct.unpack_from("<I", data, at + 14)[0]
        inside = at + 27 + data[at + 26]
        lacing = data[at + 27 : inside]
        end = inside + sum(lacing)
        need(end <= len(data))
        if is_first:
            streams[serial] = _OggStream(_empty_comments(data[inside:end]))
        need(serial in streams)
        if streams[serial].packet > 1:
            yield range(at, end)
        else:
            page = bytearray(data[at:end])
            streams[serial].blank(page, inside - at, lacing)
            page[22:26] = bytes(4)
            page[22:26] = struct.pack("<I", _ogg_checksum(page))
            yield bytes(page)
        at = end


def _empty_comments(first_packet: bytes) -> bytes:
    for beginning, comments in OGG_COMMENTS.items():
        if first_packet.startswith(beginning):
            return comments
    raise ValueError("a stream is neither Opus nor Vorbis")


@dataclass
class _OggStream:
    """Where we are in one logical stream of an Ogg file: its second packet holds the comments."""

    #: What stands in for the comment packet; zeros follow.
    comments: bytes
    #: The packet at hand, counted from 0, and how much of it was on earlier pages.
    packet: int = 0
    offset: int = 0

    def blank(self, page: bytearray, at: int, lacing: bytes) -> None:
        """Overwrite what this page has of the comment packet; its length and the page's stay the same.

        Parameters:
          at: where the page's data begin.
          lacing: the lengths of the page's segments, in bytes. A packet ends with one that is shorter than 255.
        """
        for size in lacing:
            if self.packet == 1:
                page[at : at + size] = self.comments[self.offset : self.offset + size].ljust(size, b"\0")
            at, self.offset = at + size, self.offset + size
            if size < 255:
                self.packet, self.offset = self.packet + 1, 0


def _ogg_checksum(page: bytearray) -> int:
    """Ogg's CRC-32: unlike zlib's, it takes each byte's highest bit first."""
    checksum = 0
    for byte in page:
        checksum = (checksum << 8 & 0xFFFFFFFF) ^ OGG_TABLE[checksum >> 24 ^ byte]
    return checksum


def _ogg_table_entry(byte: int) -> int:
    entry = byte << 24
    for _ in range(8):
        entry = entry << 1 ^ (0x04C11DB7 if entry >> 31 else 0)
        entry &= 0xFFFFFFFF
    return entry


OGG_TABLE = [_ogg_table_entry(byte) for byte in range(256)]
