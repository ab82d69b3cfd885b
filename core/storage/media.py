"""What a file holds, judged by its first bytes and never by its name; and whether a picture is safe to decode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

from PIL import Image, UnidentifiedImageError

from core.errors import InvalidRequest

#: As much of a file as its type can be told from.
HEAD_BYTES = 64
#: Frames of an animation: each is decoded by whoever loads it.
MAX_FRAMES = 10_000
UNKNOWN = "application/octet-stream"

#: Bytes at the beginning, and the type they mean.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"fLaC", "audio/flac"),
    (b"OggS", "audio/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"glTF", "model/gltf-binary"),
)
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
#: Brands of ISO media files that are no video.
_BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"M4A ": "audio/mp4"}
_BRANDS |= {b"qt  ": "video/quicktime"}
EXTENSIONS = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/bmp": ".bmp",
    "image/tiff": ".tiff",
    "image/webp": ".webp",
    "image/avif": ".avif",
    "video/mp4": ".mp4",
    "video/webm": ".webm",
    "video/quicktime": ".mov",
    "video/x-msvideo": ".avi",
    "audio/flac": ".flac",
    "audio/ogg": ".ogg",
    "audio/mpeg": ".mp3",
    "audio/mp4": ".m4a",
    "audio/wav": ".wav",
    "model/gltf-binary": ".glb",
}
#: What ComfyUI's own nodes can read, and we look into.
_PICTURES = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF")


def with_extension(name: str, content_type: str) -> str:
    """Return a file's name with an extension that says what the file is: some nodes go by it."""
    wanted = EXTENSIONS.get(content_type)
    if wanted is None or name.lower().endswith((wanted, {".jpg": ".jpeg", ".tiff": ".tif"}.get(wanted, wanted))):
        return name
    return f"{name.rpartition('.')[0] or name}{wanted}"


def type_of(head: bytes) -> str:
    """Return the content type that the first bytes of a file mean; `application/octet-stream` if they mean none."""
    for signature, content_type in _SIGNATURES:
        if head.startswith(signature):
            return content_type
    if head.startswith(b"RIFF"):
        return _RIFF.get(head[8:12], UNKNOWN)
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "video/mp4")
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:
        return "audio/mpeg"
    return UNKNOWN


def content_type_of(head: bytes, declared: str) -> str:
    """Return what the first bytes say; else what the sender says, if that is a type at all."""
    found = type_of(head)
    # No longer than RFC 6838 lets a name be, and with that than any column.
    if found == UNKNOWN and re.fullmatch(r"[\w.+-]{1,127}/[\w.+-]{1,127}", declared, re.ASCII):
        return declared
    return found


def check_picture(source: Path | IO[bytes], *, max_pixels: int, subject: str, is_ours: bool = False) -> None:
    """Refuse what is no picture, or would take too much memory to decode. Nothing is decoded here.

    Parameters:
      is_ours: it was made here, and is not damaged: no more of it is read than tells its size.
      max_pixels: of one frame.
      subject: what the message calls the file.
    Raises: InvalidRequest.
    """
    try:
        with Image.open(source, formats=_PICTURES) as picture:
            width, height = picture.size
            if width * height <= max_pixels:
                frames = getattr(picture, "n_frames", 1)
                if picture.format == "PNG" and frames == 1 and not is_ours:
                    # Checksums of all its chunks, without decoding them.
                    picture.verify()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        # The warning is raised only where warnings are errors. Elsewhere it is written, and the size judged below.
        raise InvalidRequest(f"{subject} has far too many pixels; at most {max_pixels} are accepted.") from exc
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError) as exc:
        raise InvalidRequest(f"{subject} is not a picture that can be read, or is damaged.") from exc
    if width * height > max_pixels:
        raise InvalidRequest(f"{subject} has {width} x {height} pixels; at most {max_pixels} are accepted.")
    if frames > MAX_FRAMES or frames * width * height > max_pixels * 16:
        raise InvalidRequest(f"{subject} has {frames} frames of {width} x {height} pixels; that is too many.")
