"""What a file holds, and which pictures are refused unread."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from core.errors import InvalidRequest
from core.storage.media import UNKNOWN, check_picture, content_type_of, type_of

LIMIT = 64_000_000


def picture(kind: str, size: tuple[int, int] = (16, 16)) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size).save(target, kind)
    return target.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("head", "content_type"),
    [
        *((picture(kind), f"image/{kind.lower()}") for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")),
        (b"\0\0\0\x20ftypisom", "video/mp4"),
        (b"\0\0\0\x14ftypqt  ", "video/quicktime"),
        (b"\x1aE\xdf\xa3", "video/webm"),
        (b"RIFF\0\0\0\0WAVE", "audio/wav"),
        (b"fLaC", "audio/flac"),
        (b"OggS", "audio/ogg"),
        (b"ID3", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"),
        (b"<html>", UNKNOWN),
        (b"\xff", UNKNOWN),
        (b"", UNKNOWN),
    ],
)
def test_a_type_is_told_by_content(head: bytes, content_type: str) -> None:
    assert type_of(head) == content_type


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_pictures_pass(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(picture(kind))
    check_picture(path, max_pixels=LIMIT, subject="It")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>not a picture</html>", "not a picture"),
        (picture("PNG")[:60], "damaged"),
        (picture("PNG").replace(b"IDAT", b"IDAU"), "damaged"),
        (png_of(8001, 8000), "8001 x 8000 pixels"),
        (png_of(2**31 - 1, 2**31 - 1), "pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
    ],
    ids=["text", "cut off", "wrong checksum", "too large", "far too large", "postscript"],
)
def test_what_is_none_or_too_large_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest, match=words):
        check_picture(path, max_pixels=LIMIT, subject="It")


@pytest.mark.parametrize("warnings_are", ["error", "ignore"])
def test_a_picture_that_pillow_only_warns_of_is_refused(
    tmp_path: Path, warnings_are: Literal["error", "ignore"], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(png_of(10_000, 10_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)
    with warnings.catch_warnings():
        warnings.simplefilter(warnings_are, Image.DecompressionBombWarning)
        with pytest.raises(InvalidRequest, match=f"pixels; at most {LIMIT}"):
            check_picture(path, max_pixels=LIMIT, subject="It")


def test_an_animation_may_not_hide_its_size_in_frames(tmp_path: Path) -> None:
    path = tmp_path / "x.gif"
    frames = [Image.new("RGB", (100, 100), (number * 5, 0, 0)) for number in range(50)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    check_picture(path, max_pixels=LIMIT, subject="It")
    with pytest.raises(InvalidRequest, match="50 frames"):
        check_picture(path, max_pixels=20_000, subject="It")


def test_what_its_sender_says_counts_where_the_bytes_tell_nothing_and_it_is_a_type() -> None:
    assert content_type_of(b"", "model/x.y") == "model/x.y"
    for declared in ("", "x", "a/b/c", "a/b\0", f"a/{'b' * 128}", f"{'a' * 128}/b"):
        assert content_type_of(b"", declared) == UNKNOWN
