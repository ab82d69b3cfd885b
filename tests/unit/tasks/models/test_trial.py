"""Sources that need not be asked to know that they give nothing."""

from __future__ import annotations

from pathlib import Path

from core.records.model_file import ModelFile
from tasks.models.trial import Tried, try_sources
from tests.services import make_settings


def test_what_is_wrong_is_told_by_entry_and_in_their_order(tmp_path: Path) -> None:
    sources = {"b": "http://a.example/b", "a": "https://a.example/a"}
    entries = [
        ModelFile(path=f"checkpoints/{name}.sft", source=source, sha256="a" * 64, token=None if name == "b" else "none")
        for name, source in sources.items()
    ]
    found = try_sources(entries, make_settings(tmp_path), limit_s=10).problems
    assert [entry.path for entry, _ in found] == ["checkpoints/b.sft", "checkpoints/a.sft"]
    assert ["ALLOW_HTTP" in found[0][1], "MODELS_TOKENS" in found[1][1]] == [True, True]


def test_what_there_is_no_time_for_is_not_called_broken(tmp_path: Path) -> None:
    entry = ModelFile(path="checkpoints/x.sft", source="http://a.example/b", sha256="a" * 64)
    assert try_sources([entry], make_settings(tmp_path), limit_s=0) == Tried(unasked=1)
    assert try_sources([], make_settings(tmp_path), limit_s=0) == Tried()
