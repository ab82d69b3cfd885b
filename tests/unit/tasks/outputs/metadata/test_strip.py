"""What a file is, its first bytes decide; how each kind is stripped is shown in `test_convert`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import OutputNotConvertible
from tasks.outputs.metadata import films, images, json_headers, sounds
from tasks.outputs.metadata import strip as strip_module
from tasks.outputs.metadata.pieces import Piece
from tasks.outputs.metadata.strip import KNOWN_TYPES, _stripper, strip


def stripper_of(data: bytes, content_type: str = "application/octet-stream") -> Any:
    whole: Any = data
    return _stripper(whole, content_type)


@pytest.mark.parametrize(
    ("data", "stripper"),
    [
        (b"\x89PNG\r\n\x1a\n", images.png),
        (b"\xff\xd8\xff\xe0", images.jpeg),
        (b"RIFF1234WEBP", images.webp),
        (b"RIFF1234WAVE", sounds.wav),
        (b"GIF89a", images.gif),
        (b"\0\0\0\x18ftypisom", films.mp4),
        (b"\0\0\0\x18moov", films.mp4),
        (b"\0\0\0\x18mdat", films.mp4),
        (b"\0\0\0\x18wide", films.mp4),
        (b"\x1a\x45\xdf\xa3", films.matroska),
        (b"fLaC", sounds.flac),
        (b"ID3\3", sounds.id3),
        (b"glTF", json_headers.glb),
        (b"OggS" + bytes(24) + b"OpusHead", sounds.ogg),
        (b"OggS" + bytes(40), None),
        (b"\0\0\0\x18ftypavif", None),
        (b"\0\0\0\x18ftypheic", None),
        (b"\2\0\0\0\0\0\0\0{}", json_headers.safetensors),
        (b"words", None),
    ],
)
def test_the_first_bytes_decide(data: bytes, stripper: Any) -> None:
    assert stripper_of(data) is stripper


def test_an_mp3_without_a_tag_is_known_by_its_type_alone() -> None:
    assert stripper_of(b"\xff\xfb\x90\x64", "audio/mpeg") is sounds.mp3
    assert stripper_of(b"\xff\xfb\x90\x64") is None


@pytest.mark.parametrize("content_type", sorted(KNOWN_TYPES - {"audio/mpeg"}))
def test_a_file_of_a_known_type_that_begins_otherwise_is_damaged(content_type: str) -> None:
    with pytest.raises(ValueError, match="contradicts itself"):
        stripper_of(b"words", content_type)


def test_ogg_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds, "is_known_ogg", lambda _data: True)
    assert stripper_of(b"OggS") is sounds.ogg


class TestWriting:
    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        path = tmp_path / "source"
        path.write_bytes(b"0123456789")
        return path

    def strip(self, source: Path, monkeypatch: pytest.MonkeyPatch, *pieces: Piece | Exception) -> bytes:
        def made(_data: object) -> Iterator[Piece]:
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

        monkeypatch.setattr(strip_module, "_stripper", lambda _data, _content_type: made)
        target = source.with_name("target")
        assert strip(source, target, "image/png") is True
        return target.read_bytes()

    def test_pieces_are_put_together(self, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pieces: list[Piece] = [range(2), b"new", range(5, 5), range(8, 10), range(1)]
        assert self.strip(source, monkeypatch, *pieces) == b"01new890"

    @pytest.mark.parametrize(
        "piece",
        [range(8, 11), range(5, 4), ValueError(), IndexError(), struct.error(), RecursionError()],
    )
    def test_nothing_is_left_of_one_that_is_damaged(
        self, source: Path, monkeypatch: pytest.MonkeyPatch, piece: Piece | Exception
    ) -> None:
        with pytest.raises(OutputNotConvertible, match=r"of source cannot be removed: .* not image/png"):
            self.strip(source, monkeypatch, b"begun", piece)
        assert not source.with_name("target").exists()

    @pytest.mark.parametrize(("content", "content_type"), [(b"", "text/plain"), (b"words", "text/plain")])
    def test_of_another_kind_nothing_is_written(self, source: Path, content: bytes, content_type: str) -> None:
        source.write_bytes(content)
        assert strip(source, source.with_name("target"), content_type) is False
        assert not source.with_name("target").exists()

    def test_an_empty_one_of_a_known_type_is_damaged(self, source: Path) -> None:
        source.write_bytes(b"")
        with pytest.raises(OutputNotConvertible):
            strip(source, source.with_name("target"), "image/png")
