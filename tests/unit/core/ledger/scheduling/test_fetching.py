"""What a job is told whose model files are on their way."""

from __future__ import annotations

from typing import Any

import pytest

from core.ledger.scheduling.fetching import fetching_of
from core.records.model_file import ModelCopy

A, B = "a.safetensors", "sub/b.safetensors"


def copy(name: str, state: Any, **fields: Any) -> ModelCopy:
    return ModelCopy(host="here", path=f"checkpoints/{name}", state=state, **fields)


@pytest.mark.parametrize(
    ("copies", "sentence", "left_s"),
    [
        ([copy(A, "fetching", size_bytes=1000, done_bytes=420, bytes_s=8.3)], f"Fetching {A}: 42 %, about 1 min.", 70),
        ([copy(A, "fetching", size_bytes=1000)], f"Fetching {A}: 0 %.", None),
        ([copy(A, "fetching", done_bytes=7, bytes_s=7.0)], f"Fetching {A}.", None),
        (
            [copy(A, "fetching"), copy(B, "fetching", size_bytes=4, done_bytes=1)],
            f"Fetching {B} and 1 more: 25 %.",
            None,
        ),
        ([copy(A, "fetching"), copy(B, "failed", error="no")], f"Fetching {A}.", None),
        ([copy(A, "ready"), copy(B, "failed", error="no")], f"Fetching {B} failed, and is tried again; ", None),
        ([copy(A, "ready")], f"Waits for {B} to be fetched.", None),
        ([], f"Waits for {A} and {B} to be fetched.", None),
        ([copy(A, "ready"), copy(B, "ready")], f"Waits until a GPU lists {A} and {B}.", None),
    ],
)
def test_what_is_told(copies: list[ModelCopy], sentence: str, left_s: float | None) -> None:
    by_name: dict[str, list[ModelCopy]] = {}
    for each in copies:
        by_name.setdefault(each.name, []).append(each)
    told = fetching_of((A, B), by_name)
    assert told.sentence.startswith(sentence)
    assert told.left_s == (None if left_s is None else pytest.approx(left_s, abs=1))
