"""The manifest in both databases: entered, replaced, forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import event

from core.errors import InvalidRequest, NotFound
from core.ledger import Ledger
from core.records.model_file import ModelFile
from tests.makers import StoppedClock

ENTRY = ModelFile(
    path="checkpoints/x.safetensors", source="https://a.example/x", sha256="0" * 64, size_bytes=2**40, pools=("p",)
)


def test_entries_take_the_place_of_those_with_their_path(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StoppedClock(monkeypatch)
    other = replace(ENTRY, path="loras/y.safetensors", tags=("t",), token="hub", sha256=None)
    begun_ms = clock.now_ms
    ledger.manifest.put([other, ENTRY])
    assert ledger.manifest.all() == [
        replace(entry, created_at_ms=begun_ms, updated_at_ms=begun_ms) for entry in (ENTRY, other)
    ]

    clock.pass_ms(1000)
    [unchanged] = ledger.manifest.put([ENTRY])
    assert unchanged.updated_at_ms == begun_ms
    [changed] = ledger.manifest.put([replace(ENTRY, pools=())])
    assert (changed.pools, changed.created_at_ms, changed.updated_at_ms) == ((), begun_ms, begun_ms + 1000)
    assert ledger.manifest.get(ENTRY.path) == changed


def test_as_many_as_one_request_brings_are_entered_and_changed_in_a_handful_of_statements(ledger: Ledger) -> None:
    """One by one, ten thousand took longer than a request may with PostgreSQL."""
    asked: list[str] = []
    event.listen(ledger.database.engine, "before_cursor_execute", lambda *each: asked.append(each[2]))
    many = [replace(ENTRY, path=f"loras/{number:05}.sft") for number in range(10_000)]
    assert len(ledger.manifest.put(many)) == 10_000
    assert [entry.path for entry in ledger.manifest.put([replace(each, pools=()) for each in many])][-1] == many[
        -1
    ].path
    assert len(asked) < 30
    assert {entry.pools for entry in ledger.manifest.all()} == {()}
    [newest] = ledger.audit.page(limit=1)
    assert (newest.act, newest.details) == ("model.put", {"is_new": False})


def test_nothing_is_entered_where_a_path_lies_below_a_file(ledger: Ledger) -> None:
    ledger.manifest.put([ENTRY])
    below = replace(ENTRY, path=f"{ENTRY.path}/y.sft")
    with pytest.raises(InvalidRequest, match=r"would lie below 'checkpoints/x\.safetensors'"):
        ledger.manifest.put([replace(ENTRY, path="loras/z.sft"), below])
    assert [entry.path for entry in ledger.manifest.all()] == [ENTRY.path]
    ledger.manifest.remove(ENTRY.path)
    assert [entry.path for entry in ledger.manifest.put([below])] == [below.path]


def test_what_is_removed_is_unknown(ledger: Ledger) -> None:
    ledger.manifest.put([ENTRY])
    ledger.manifest.remove(ENTRY.path)
    assert ledger.manifest.all() == []
    for step in (ledger.manifest.get, ledger.manifest.remove):
        with pytest.raises(NotFound, match=ENTRY.path):
            step(ENTRY.path)
