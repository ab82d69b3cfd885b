"""An output's records: what they write down, and what they read of other versions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from core.records.output import BucketResult, FileSource, OutputFile

PRODUCED = OutputFile(
    id="a",
    job_id="j",
    node_id="9",
    name="a.png",
    kind="image",
    content_type="image/png",
    source=FileSource(text=""),
)


@pytest.mark.parametrize(
    "said",
    [{"url": None}, {"url": "https://b/a", "key": "a"}, {"url": "u", "key": "a", "expires_at_ms": 1}, {"error": "no"}],
)
def test_a_bucket_result_is_written_down_as_it_was_read(said: dict[str, Any]) -> None:
    assert BucketResult.from_json({**said, "storage_class": "ICE"}).to_json() == said


@pytest.mark.parametrize("said", [{"root": "/o", "path": "/o/a"}, {"url": "http://gpu/view"}, {"text": ""}])
def test_a_source_is_written_down_as_it_was_read(said: dict[str, Any]) -> None:
    assert FileSource.from_json({**said, "mtime": 1}).to_json() == said


def test_what_was_stored_is_known_again() -> None:
    stored = replace(
        PRODUCED, storage_key="j/a.webp", size_bytes=7, hash="blake3:0", name="a.webp", conversion_error="damaged"
    )

    assert PRODUCED.with_stored(stored.stored_json()) == stored


def test_what_an_earlier_version_left_out_is_as_it_was_produced() -> None:
    found = PRODUCED.with_stored(
        {"storage_key": "j/a.png", "size_bytes": 7, "hash": "blake3:0", "name": None, "thumbnail": 7}
    )

    assert (found.name, found.content_type, found.conversion_error) == ("a.png", "image/png", None)
    assert found.stored_name == "a.png"
