"""Strippers for PNG, JPEG, WebP and GIF: only parts that are known to be needed stay, all others go.

So metadata that nobody has heard of goes as well. A JPEG or WebP that is to be shown turned keeps that one fact of its
EXIF.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from mmap import mmap

from tasks.outputs.metadata.pieces import Piece, need, riff_chunks, riff_file

PNG_KEPT = frozenset(
    b"IHDR PLTE IDAT IEND tRNS cHRM gAMA iCCP sRGB cICP mDCV cLLI sBIT bKGD hIST pHYs acTL fcTL fdAT".split()
)
#: JPEG's markers: the first and the last application segment, comment, scan, end of the picture, and a fill byte.
APP0, APP1, APP2, APP14, APP15, COM, SOS, EOI, FILL = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF, 0xFE, 0xDA, 0xD9, 0xFF
#: In a JPEG's compressed data, the first marker that is neither a stuffed zero nor a restart.
JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
#: What tells EXIF from XMP in a JPEG. Some writers put it into a WebP as well.
EXIF_LABEL = b"Exif\0\0"
ORIENTATION = 0x0112
WEBP_KEPT = frozenset((b"VP8 ", b"VP8L", b"ANIM", b"ANMF", b"ALPH", b"ICCP"))
#: The length of a WebP's `VP8X` chunk with its header, and the flags in it that announce EXIF and XMP.
VP8X_BYTES, WEBP_EXIF, WEBP_XMP = 18, 0x08, 0x04
GIF_FRAME, GIF_EXTENSION, GIF_END = 0x2C, 0x21, 0x3B
#: Kinds of extensions: the time and transparency of a frame, and whatever an application wants.
GIF_CONTROL, GIF_APPLICATION = 0xF9, 0xFF
#: Application extensions that belong to the picture: loop counts, and the ICC profile.
GIF_KEPT = frozenset((b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"))


def png(data: mmap) -> Iterator[Piece]:
    """Strip PNG and APNG."""
    yield range(8)
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        need(end <= len(data))
        if kind in PNG_KEPT:
            yield range(at, end)
        at = end


def jpeg(data: mmap) -> Iterator[Piece]:
    """Strip JPEG; what lies behind its end goes as well."""
    yield range(2)
    at, turn = 2, b""
    while (marker := _jpeg_marker(data, at)) != EOI:
        if marker == FILL:
            at += 1
            continue
        end = _jpeg_segment_end(data, at, marker)
        if _belongs_to_jpeg(marker, data[at + 4 : at + 16]):
            yield range(at, end)
        elif marker == APP1 and data[at + 4 : at + 10] == EXIF_LABEL and not turn:
            turn = _turn(data[at + 10 : end])
            if turn:
                yield struct.pack(">HH", 0xFF00 | APP1, 2 + len(EXIF_LABEL + turn)) + EXIF_LABEL + turn
        at = end
    yield bytes((0xFF, EOI))


def _jpeg_marker(data: mmap, at: int) -> int:
    need(data[at] == 0xFF)
    return data[at + 1]


def _jpeg_segment_end(data: mmap, at: int, marker: int) -> int:
    """Where the segment ends that begins here; of a scan, with the compressed data behind it."""
    (length,) = struct.unpack_from(">H", data, at + 2)
    end = at + 2 + int(length)
    if marker != SOS:
        return end
    following = JPEG_SCAN_END.search(data, end)
    if following is None:
        raise ValueError("the picture does not end")
    return following.start()


def _belongs_to_jpeg(marker: int, beginning: bytes) -> bool:
    """Of the application segments and comments only JFIF's, Adobe's (the colour space) and the ICC profile."""
    if marker == APP2:
        return beginning == b"ICC_PROFILE\0"
    return marker in (APP0, APP14) or not (APP0 <= marker <= APP15 or marker == COM)


def webp(data: mmap) -> Iterator[Piece]:
    """Strip WebP, still or animated."""
    chunks = list(riff_chunks(data))
    exif = next((data[at + 8 : end] for kind, at, end in chunks if kind == b"EXIF"), b"")
    turn = _turn(exif.removeprefix(EXIF_LABEL))
    # No flag is set that was not: readers ignore EXIF that is not announced, and would begin to turn the picture.
    cleared = WEBP_XMP if turn else WEBP_XMP | WEBP_EXIF
    kept: list[Piece] = []
    for kind, at, end in chunks:
        if kind == b"VP8X":
            need(end - at == VP8X_BYTES)
            kept.append(data[at : at + 8] + bytes((data[at + 8] & ~cleared,)) + data[at + 9 : end])
        elif kind in WEBP_KEPT:
            kept.append(range(at, end))
    need(bool(kept))
    if turn:
        kept.append(struct.pack("<4sI", b"EXIF", len(turn)) + turn)
    yield from riff_file(b"WEBP", kept)


def _turn(exif: bytes) -> bytes:
    """EXIF that turns the picture as this one does, and says nothing else; empty if there is nothing to turn."""
    orientation = _orientation(exif)
    if orientation not in range(2, 9):
        return b""
    # A TIFF header, and one entry, a short.
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, ORIENTATION, 3, 1, orientation, 0, 0)


def _orientation(tiff: bytes) -> int:
    """The orientation in an EXIF block, 1 to 8; 1 if there is none, or the block is damaged."""
    order = "<" if tiff[:2] == b"II" else ">"
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for number in range(count):
            tag, value = struct.unpack_from(order + "H6xH", tiff, start + 2 + 12 * number)
            if tag == ORIENTATION:
                return int(value)
    except struct.error:
        pass
    return 1


def gif(data: mmap) -> Iterator[Piece]:
    """Strip GIF, still or animated."""
    at = 13 + _gif_palette(data[10])
    yield range(at)
    while (kind := data[at]) != GIF_END:
        need(kind in (GIF_FRAME, GIF_EXTENSION))
        if kind == GIF_FRAME:
            end = _after_blocks(data, at + 11 + _gif_palette(data[at + 9]))
        else:
            end = _after_blocks(data, at + 2)
        if kind == GIF_FRAME or _belongs_to_gif(data[at + 1], data[at + 3 : at + 14]):
            yield range(at, end)
        at = end
    yield bytes((GIF_END,))


def _belongs_to_gif(extension: int, application: bytes) -> bool:
    return extension == GIF_CONTROL or (extension == GIF_APPLICATION and application in GIF_KEPT)


def _gif_palette(flags: int) -> int:
    """Length of the colour table that these flags announce, in bytes."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: mmap, at: int) -> int:
    """Where the chain of sub-blocks ends that begins here."""
    while size := data[at]:
        at += 1 + size
    return at + 1
