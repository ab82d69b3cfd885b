"""What a job is told whose model files are on their way."""

from __future__ import annotations

from typing import Any

import pytest

from core.clock import now_ms
from core.ledger.scheduling.fetching import fetching_of
from core.records.model_file import ModelCopy

A, B = "a.safetensors", "sub/b.safetensors"


def copy(name: str, state: Any, **fields: Any) -> ModelCopy:
    return ModelCopy(host="here", path=f"checkpoints/{name}", state=state, **fields)


@pytest.mark.parametrize(
    ("copies", "sentence"),
    [
        ([copy(A, "fetching", size_bytes=1000, done_bytes=420, bytes_s=8.3)], f"Fetching {A}: 42 %, about 1 min."),
        ([copy(A, "fetching", size_bytes=1000)], f"Fetching {A}: 0 %."),
        ([copy(A, "fetching", done_bytes=7, bytes_s=7.0)], f"Fetching {A}."),
        ([copy(A, "fetching"), copy(B, "fetching", size_bytes=4, done_bytes=1)], f"Fetching {B} and 1 more: 25 %."),
        ([copy(A, "fetching"), copy(B, "failed", error="no")], f"Fetching {A}."),
        ([copy(A, "ready"), copy(B, "failed", error="no.")], f"Fetching {B} failed, and is tried again: no."),
        ([copy(A, "failed"), copy(B, "failed")], f"Fetching {A} and {B} failed, and is tried again; an operator can"),
        ([copy(A, "ready")], f"Waits for {B} to be fetched."),
        ([], f"Waits for {A} and {B} to be fetched."),
        ([copy(A, "ready"), copy(B, "ready")], f"Waits until a GPU lists {A} and {B}."),
    ],
)
def test_what_is_told(copies: list[ModelCopy], sentence: str) -> None:
    told = fetching_of((A, B), by_name(copies))
    assert told.sentence.startswith(sentence)
    assert (told.left_s, told.gpus) == (None, frozenset())


@pytest.mark.parametrize(
    ("copies", "sentence"),
    [
        ([copy(A, "fetching", size_bytes=10, done_bytes=9, bytes_s=1.0)], f"Fetching {A}: 90 %, about 40 s."),
        ([], f"Waits for {A} and {B} to be fetched, about 40 s."),
    ],
)
def test_what_is_told_is_until_all_files_are_there(copies: list[ModelCopy], sentence: str) -> None:
    told = fetching_of((A, B), by_name(copies), left_s=41.0, gpus=["gpu0@here"])
    assert (told.sentence, told.left_s, told.gpus) == (sentence, 41.0, frozenset({"gpu0@here"}))


def test_a_file_that_no_loader_finds_is_not_waited_for_in_silence() -> None:
    old, new = 1, now_ms()
    here: dict[str, Any] = {"hosts": ["here"], "left_s": 3.0, "gpus": ["gpu0@here"]}

    told = fetching_of((A,), by_name([copy(A, "ready", updated_at_ms=old)]), **here)
    assert told.sentence.startswith(f"{A} came, and no GPU lists it: ")
    assert (told.left_s, told.gpus) == (None, frozenset())

    just_came = fetching_of((A,), by_name([copy(A, "ready", updated_at_ms=new)]), **here)
    assert (just_came.sentence, just_came.left_s) == (f"Waits until a GPU lists {A}.", 3.0)
    elsewhere = fetching_of((A,), by_name([copy(A, "ready", updated_at_ms=old)]), hosts=["there"])
    assert elsewhere.sentence == f"Waits until a GPU lists {A}.", "its host is away"


def by_name(copies: list[ModelCopy]) -> dict[str, list[ModelCopy]]:
    found: dict[str, list[ModelCopy]] = {}
    for each in copies:
        found.setdefault(each.name, []).append(each)
    return found
