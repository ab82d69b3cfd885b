"""Websocket frames as a real server sent them, decoded."""

from __future__ import annotations

import json
import struct

import pytest

from comfy.prompts.frames import Event, Preview, decode_binary, decode_text

PROMPT_ID = "b5b8c238-2788-47ab-860e-a87ec04a8912"
JPEG = b"\xff\xd8\xff\xe0picture"


def _sized(event_id: int, header: bytes, rest: bytes) -> bytes:
    return struct.pack(">II", event_id, len(header)) + header + rest


def test_an_event_names_its_prompt() -> None:
    data = {"node": "2", "display_node": "2", "prompt_id": PROMPT_ID}
    frame = json.dumps({"type": "executing", "data": data}).encode()
    assert decode_text(frame) == Event(kind="executing", prompt_id=PROMPT_ID, data=data)


def test_the_first_frame_of_a_connection_belongs_to_no_prompt() -> None:
    data = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "4394d855-dc4a-458e-957d-5774e5fa74f4"}
    event = decode_text(json.dumps({"type": "status", "data": data}))
    assert event == Event(kind="status", prompt_id=None, data=data)


def test_a_new_connection_is_greeted_with_a_node_without_a_prompt() -> None:
    assert decode_text('{"type": "executing", "data": {"node": "2"}}') == Event(kind="executing", data={"node": "2"})


@pytest.mark.parametrize("frame", [b"", b"{", b"\xff\xfe", b"[]", b"3", b'{"type": 3}', b'{"data": {}}'])
def test_what_is_no_event_is_ignored(frame: bytes) -> None:
    assert decode_text(frame) is None


def test_an_event_with_odd_data_has_none() -> None:
    assert decode_text(b'{"type": "logs", "data": [1]}') == Event(kind="logs")


def test_a_plain_preview_names_neither_prompt_nor_node() -> None:
    assert decode_binary(struct.pack(">II", 1, 1) + JPEG) == Preview(content_type="image/jpeg", payload=JPEG)
    assert decode_binary(struct.pack(">II", 1, 2) + b"\x89PNG") == Preview(content_type="image/png", payload=b"\x89PNG")


def test_progress_text_names_its_node() -> None:
    expected = Preview(content_type="text/plain", payload=b"hello", node_id="2")
    assert decode_binary(_sized(3, b"2", b"hello")) == expected


def test_a_preview_with_metadata_is_shown_at_the_node_of_the_graph() -> None:
    metadata = {
        "node_id": "2.0.0.2",
        "prompt_id": PROMPT_ID,
        "display_node_id": "2",
        "parent_node_id": "2",
        "real_node_id": "2.0.0.2",
        "image_type": "image/jpeg",
    }
    frame = _sized(4, json.dumps(metadata).encode(), JPEG)
    assert decode_binary(frame) == Preview(content_type="image/jpeg", payload=JPEG, prompt_id=PROMPT_ID, node_id="2")


@pytest.mark.parametrize(
    "frame",
    [b"", b"\0\0\0\1", b"\0\0\0\1\0", _sized(4, b"{", JPEG), _sized(4, b"[]", JPEG), struct.pack(">II", 4, 99) + b"{}",
     struct.pack(">II", 2, 1) + JPEG, struct.pack(">I", 77), _sized(3, b"\xff", b"x")],
)  # fmt: skip
def test_a_damaged_or_unknown_frame_is_ignored(frame: bytes) -> None:
    assert decode_binary(frame) is None
