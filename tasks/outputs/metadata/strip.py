"""Takes embedded metadata out of a finished file without touching what it shows or plays.

ComfyUI writes the graph that made a file into nearly every file it saves. Here it is decided what a file is, and the
stripped one is written; what each format holds is known to the modules beside this one (`strip_images.py` and so on).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

from core.errors import OutputNotConvertible
from tasks.outputs.metadata import films as strip_films
from tasks.outputs.metadata import images as strip_images
from tasks.outputs.metadata import json_headers as strip_json
from tasks.outputs.metadata import sounds as strip_sounds
from tasks.outputs.metadata.pieces import Piece, Stripper, need

#: Where a file has which bytes, and what strips it then.
SIGNATURES: tuple[tuple[int, bytes, Stripper], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", strip_images.png),
    (0, b"\xff\xd8\xff", strip_images.jpeg),
    (8, b"WEBP", strip_images.webp),
    (8, b"WAVE", strip_sounds.wav),
    (0, b"GIF8", strip_images.gif),
    (4, b"ftyp", strip_films.mp4),
    (4, b"moov", strip_films.mp4),
    (4, b"mdat", strip_films.mp4),
    (4, b"wide", strip_films.mp4),
    (0, b"\x1a\x45\xdf\xa3", strip_films.matroska),
    (0, b"fLaC", strip_sounds.flac),
    (0, b"ID3", strip_sounds.id3),
    (0, b"glTF", strip_json.glb),
)
#: Pictures that are made like an MP4: their `meta` box is where the picture is described.
MP4_PICTURES = frozenset((b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1"))
#: A file of one of these types that begins like none of the above is damaged.
KNOWN_TYPES = frozenset(
    [
        "image/png",
        "image/jpeg",
        "image/webp",
        "image/gif",
        "video/mp4",
        "video/quicktime",
        "video/x-m4v",
        "video/webm",
        "video/x-matroska",
        "audio/flac",
        "audio/mpeg",
        "audio/ogg",
        "audio/mp4",
        "audio/wav",
        "audio/x-wav",
        "model/gltf-binary",
    ]
)


def strip(source: Path, target: Path, content_type: str) -> bool:
    """Write `source` to `target` without its metadata; the pixels, frames and samples are the same bytes as before.

    Knows PNG, APNG, JPEG, WebP, GIF; MP4, MOV, WebM, Matroska; FLAC, MP3, Ogg (Opus, Vorbis), WAV; GLB
    (`asset.extras`); safetensors (`.latent`). What a file is, its first bytes decide, not `content_type`. Colour
    profiles stay. A JPEG or WebP that is to be shown turned keeps that one fact of its EXIF.

    Returns: False if the file is of another kind; then nothing was written.
    Raises:
      OutputNotConvertible: the file is damaged, or not of its `content_type`; nothing is left of `target`.
      OSError: the disk is full, or the like.
    """
    if source.stat().st_size == 0 and content_type not in KNOWN_TYPES:
        return False
    try:
        with source.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            stripper = _stripper(data, content_type)
            if stripper is None:
                return False
            _write(target, data, stripper(data))
    except (ValueError, IndexError, struct.error, RecursionError) as exc:
        target.unlink(missing_ok=True)
        raise OutputNotConvertible(
            f"The metadata of {source.name} cannot be removed: the file is damaged, or not {content_type}."
        ) from exc
    return True


def _stripper(data: mmap, content_type: str) -> Stripper | None:
    """What strips this file; None if nothing does."""
    if data[4:8] == b"ftyp" and data[8:12] in MP4_PICTURES:
        return None
    for position, signature, stripper in SIGNATURES:
        if data[position : position + len(signature)] == signature:
            return stripper
    if data[:4] == b"OggS":
        return strip_sounds.ogg if strip_sounds.is_known_ogg(data) else None
    if content_type == "audio/mpeg":
        # Without a tag, an MP3 begins with two bytes that could begin much else.
        return strip_sounds.mp3
    need(content_type not in KNOWN_TYPES)
    return strip_json.safetensors if strip_json.is_safetensors(data) else None


def _write(target: Path, data: mmap, pieces: Iterator[Piece]) -> None:
    with target.open("wb") as file, memoryview(data) as view:
        for piece in pieces:
            if isinstance(piece, bytes):
                file.write(piece)
            else:
                need(piece.start <= piece.stop <= len(data))
                with view[piece.start : piece.stop] as part:
                    file.write(part)
