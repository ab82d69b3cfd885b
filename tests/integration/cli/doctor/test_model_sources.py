"""What `comfyline doctor` and a start say of the sources of the manifest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.doctor import model_sources
from cli.doctor.findings import Finding, examine
from cli.doctor.model_sources import model_checks
from core.ledger import Ledger
from core.records.model_file import ModelFile
from core.settings import Settings
from tests.model_server import ModelServer, content, model_server


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture
def host(ledger_settings: Settings, tmp_path: Path) -> Settings:
    (tmp_path / "models").mkdir()
    own = {"models_dir": tmp_path / "models", "models_allow_http": True, "models_tags": ("kept",)}
    return ledger_settings.model_copy(update=own)


def enter(ledger: Ledger, server: ModelServer, name: str, **fields: Any) -> None:
    entry = ModelFile(path=f"checkpoints/{name}", source=f"{server.url}/{name}", sha256="a" * 64, **fields)
    ledger.manifest.put([entry])


def found(settings: Settings, ledger: Ledger, *, is_start: bool = False) -> list[Finding]:
    return examine(model_checks(settings, ledger, is_start=is_start))


def test_a_machine_without_a_folder_or_a_manifest_is_not_asked(host: Settings, ledger: Ledger) -> None:
    assert found(host, ledger) == []
    assert found(host.model_copy(update={"models_dir": None}), ledger) == []


def test_good_sources_take_one_line_and_each_bad_one_its_own(
    host: Settings, ledger: Ledger, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve("/good.sft", content(100))
    enter(ledger, server, "good.sft")
    [well] = found(host, ledger)
    assert (well.subject, well.mark) == ("model files", "ok")
    for name in ("a.sft", "b.sft", "c.sft"):
        enter(ledger, server, name)
    bad = found(host, ledger)
    assert {each.mark for each in bad} == {"wrong"}
    assert [each.text.partition(" cannot")[0] for each in bad] == [f"checkpoints/{name}.sft" for name in "abc"]
    assert f"{server.url}/a.sft answered 404" in bad[0].text
    monkeypatch.setattr(model_sources, "TOLD", 1)
    assert [each.text for each in found(host, ledger)][1:] == ["2 more cannot be fetched either."]


def test_files_whose_size_nobody_says_are_told_and_how_to_say_it(
    host: Settings, ledger: Ledger, server: ModelServer
) -> None:
    for name in ("told.sft", "a.sft", "b.sft"):
        server.serve(f"/{name}", content(100), has_ranges=False, says_size=False)
    enter(ledger, server, "told.sft", size_bytes=100)
    [well] = found(host, ledger)
    assert well.mark == "ok"
    enter(ledger, server, "a.sft")
    enter(ledger, server, "b.sft")
    [said] = found(host, ledger)
    assert said.mark == "advice"
    assert said.text.startswith("checkpoints/a.sft and checkpoints/b.sft: neither source nor manifest says the size")
    assert "--size" in said.text


def test_a_start_asks_for_what_is_pinned_to_the_machine(host: Settings, ledger: Ledger, server: ModelServer) -> None:
    enter(ledger, server, "other.sft", tags=("else",))
    assert found(host, ledger, is_start=True) == []
    enter(ledger, server, "mine.sft", tags=("kept",))
    [said] = found(host, ledger, is_start=True)
    assert (said.mark, said.refuses) == ("wrong", False)
    assert said.text.startswith("checkpoints/mine.sft cannot be fetched: ")


def test_a_folder_that_is_only_read_is_told(host: Settings, ledger: Ledger) -> None:
    [said] = found(host.model_copy(update={"models_dir": Path("/proc/self")}), ledger)
    assert (said.mark, "COMFYLINE_MODELS_DIR=/proc/self cannot be written" in said.text) == ("advice", True)
