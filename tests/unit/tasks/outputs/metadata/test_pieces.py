"""What strippers share: the check that a file is sound, and RIFF."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from tasks.outputs.metadata.pieces import need, riff_chunks, riff_file


def chunk(kind: bytes, content: bytes) -> bytes:
    """One with its padding."""
    return kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def riff(*chunks: bytes, more_bytes: int = 0) -> Any:
    """A file; `more_bytes`: by how much it says to be longer than it is."""
    body = b"".join(chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body) + more_bytes) + b"WAVE" + body


def test_a_file_is_given_up_where_it_contradicts_itself() -> None:
    need(True)
    with pytest.raises(ValueError, match="ends too early, or contradicts itself"):
        need(False)


class TestReading:
    def test_each_chunk_without_its_padding(self) -> None:
        data = riff(chunk(b"fmt ", b"1234"), chunk(b"odd ", b"123"), chunk(b"none", b""))
        assert list(riff_chunks(data)) == [(b"fmt ", 12, 24), (b"odd ", 24, 35), (b"none", 36, 44)]

    def test_what_lies_behind_is_no_chunk(self) -> None:
        assert len(list(riff_chunks(riff(chunk(b"fmt ", b"12")) + chunk(b"more", b"12")))) == 1
        assert list(riff_chunks(riff())) == []

    def test_a_last_one_without_its_padding_is_one(self) -> None:
        assert list(riff_chunks(riff(chunk(b"odd ", b"123")[:-1]))) == [(b"odd ", 12, 23)]

    @pytest.mark.parametrize(
        "data",
        [
            b"RIFX" + riff(chunk(b"fmt ", b"12"))[4:],
            riff(b"fmt " + struct.pack("<I", 3) + b"12"),
            riff(chunk(b"fmt ", b"12"), more_bytes=2),
            b"RIFF",
        ],
        ids=["another", "too long", "too short", "cut off"],
    )
    def test_a_damaged_one_is_given_up(self, data: Any) -> None:
        with pytest.raises((ValueError, struct.error)):
            list(riff_chunks(data))


class TestWriting:
    def whole(self, source: bytes, *chunks: Any) -> bytes:
        pieces = riff_file(b"WEBP", list(chunks))
        return b"".join(piece if isinstance(piece, bytes) else source[piece.start : piece.stop] for piece in pieces)

    def test_each_is_padded(self) -> None:
        source = riff(chunk(b"fmt ", b"1234"), chunk(b"odd ", b"123"))
        written = self.whole(source, range(12, 24), range(24, 35), chunk(b"new ", b"12"))
        assert written == b"RIFF" + struct.pack("<I", len(written) - 8) + b"WEBP" + source[12:36] + chunk(
            b"new ", b"12"
        )

    def test_one_of_nothing_is_none(self) -> None:
        with pytest.raises(ValueError, match="contradicts itself"):
            self.whole(b"")
