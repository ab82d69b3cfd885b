"""Metadata in JSON at the beginning of a file goes; what follows stays where it is."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from tasks.outputs.metadata import json_headers
from tasks.outputs.metadata.json_headers import MAX_HEADER_BYTES, glb, is_safetensors, safetensors

REST = b"tensors"


def whole(data: Any, pieces: Any) -> bytes:
    return b"".join(piece if isinstance(piece, bytes) else data[piece.start : piece.stop] for piece in pieces)


def latent(header: bytes, *, length: int | None = None) -> Any:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + REST


def model(scene: bytes, *, kind: bytes = b"JSON", length: int | None = None) -> Any:
    chunk = struct.pack("<I4s", len(scene) if length is None else length, kind) + scene + REST
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunk)) + chunk


class TestSafetensors:
    def test_the_metadata_go_and_nothing_moves(self) -> None:
        header = json.dumps({"__metadata__": {"prompt": "a lighthouse"}, "é": {"shape": [1, 2]}}).encode()
        data = latent(header)
        result = whole(data, safetensors(data))
        assert len(result) == len(data)
        assert result[:8] == data[:8]
        assert result.endswith(REST)
        text = result[8 : 8 + len(header)]
        assert text == '{"é":{"shape":[1,2]}}'.encode().ljust(len(header))

    def test_one_without_stays_as_it_is(self) -> None:
        data = latent(b'{"a":{}}')
        assert whole(data, safetensors(data)) == data

    def test_a_header_that_would_grow_is_given_up(self) -> None:
        data = latent(b'{"a":1e5}')
        with pytest.raises(ValueError, match="contradicts itself"):
            whole(data, safetensors(data))

    @pytest.mark.parametrize(
        ("data", "is_one"),
        [
            (latent(b"{}"), True),
            ((2).to_bytes(8, "little") + b"{}", True),
            ((3).to_bytes(8, "little") + b"{}", False),
            (latent(b"[]"), False),
            (b"", False),
        ],
    )
    def test_what_may_be_one(self, data: Any, is_one: bool) -> None:
        assert is_safetensors(data) is is_one

    @pytest.mark.parametrize(("length", "is_one"), [(16, True), (17, False)])
    def test_long_headers_are_not_looked_into(self, monkeypatch: pytest.MonkeyPatch, length: int, is_one: bool) -> None:
        assert MAX_HEADER_BYTES == 33_554_432
        monkeypatch.setattr(json_headers, "MAX_HEADER_BYTES", 16)
        assert is_safetensors(latent(b"{" + b" " * 30, length=length)) is is_one


class TestGlb:
    def test_the_extras_go_and_nothing_moves(self) -> None:
        scene = b'{"asset": {"version": "2.0", "extras": {"prompt": 1}}, "extras": 2}'
        data = model(scene)
        result = whole(data, glb(data))
        assert (len(result), result[:20], result[-len(REST) :]) == (len(data), data[:20], REST)
        assert result[20 : 20 + len(scene)] == b'{"asset":{"version":"2.0"},"extras":2}'.ljust(len(scene))

    def test_one_without_stays_as_it_is(self) -> None:
        data = model(b'{"asset":{}}')
        assert whole(data, glb(data)) == data

    @pytest.mark.parametrize(
        "data",
        [
            model(b'{"asset":{}}', kind=b"BIN\0"),
            model(b'{"asset":{}}' + b" " * 9, length=12 + 9 + len(REST) + 1),
            model(b"[]"),
            model(b'{"asset":[]}'),
            model(b"{}"),
            model(b'{"asset":1e5}'),
        ],
    )
    def test_a_damaged_one_is_given_up(self, data: Any) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - some are found by the reader of JSON
            whole(data, glb(data))

    def test_its_scene_may_be_all_there_is(self) -> None:
        scene = b'{"asset":{}}'
        data: Any = model(scene)[: 20 + len(scene)]
        assert whole(data, glb(data)) == data
