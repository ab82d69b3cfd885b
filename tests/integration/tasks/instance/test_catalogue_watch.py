"""What is recorded when the files of an instance change: one that we start, or one that somebody else runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from comfy.client.client import ComfyClient
from core.errors import LedgerUnavailable
from tasks.instance import catalogue_watch
from tasks.instance.catalogue_watch import CatalogueWatch
from tasks.instance.probe import read_info
from tests.simulator_process import SimulatorProcess, simulator
from tests.waiting import eventually


class Records:
    """What the watch has to say, as the ledger would hear it."""

    def __init__(self) -> None:
        self.offered: list[Mapping[str, Any]] = []
        self.looks = 0
        #: What the next records meet with.
        self.errors: list[Exception] = []

    def record(self, object_info: Mapping[str, Any], model_sizes: Mapping[str, int]) -> None:
        self.model_sizes = model_sizes
        if self.errors:
            raise self.errors.pop()
        self.offered.append(object_info)

    def tell(self) -> None:
        self.looks += 1


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SimulatorProcess]:
    (tmp_path / "models" / "loras").mkdir(parents=True)
    with simulator(tmp_path, "--models-directory", str(tmp_path / "models")) as process:
        yield process


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def watch(server: SimulatorProcess, records: Records, monkeypatch: pytest.MonkeyPatch) -> Iterator[CatalogueWatch]:
    monkeypatch.setattr(catalogue_watch, "LOOK_S", 0.1)
    watch = CatalogueWatch("gpu0@here", record=records.record, tell=records.tell)
    watch.watch(server.base_url, ComfyClient(server.base_url).object_info())
    watch.start()
    yield watch
    watch.end()


def loras(object_info: Mapping[str, Any]) -> list[str]:
    listed: list[str] = object_info["LoraLoader"]["input"]["required"]["lora_name"][0]
    return listed


def looks_twice(watch: CatalogueWatch, records: Records) -> None:
    """The second look begins after the call."""
    for _ in range(2):
        before = records.looks
        watch.look_again()
        assert eventually(lambda: records.looks > before)  # noqa: B023


@pytest.mark.usefixtures("watch")
def test_a_file_is_recorded_when_it_comes_and_when_it_goes(server: SimulatorProcess, records: Records) -> None:
    file = server.root / "models" / "loras" / "style" / "new.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"")
    assert eventually(lambda: records.offered and "style/new.safetensors" in loras(records.offered[-1]))
    file.unlink()
    assert eventually(lambda: "style/new.safetensors" not in loras(records.offered[-1]))


def test_nothing_is_recorded_when_nothing_changes(watch: CatalogueWatch, records: Records) -> None:
    looks_twice(watch, records)
    assert records.offered == []


def test_files_of_jobs_are_no_change(watch: CatalogueWatch, server: SimulatorProcess, records: Records) -> None:
    job_id = "3f2c0a52-2a0b-4d0e-9d5c-0f6a1f0f8a11"
    for name in (f"{job_id}/0-a.png", f"fleet-{job_id}-1-a.png"):
        (server.input_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (server.input_dir / name).write_bytes(b"x")
    looks_twice(watch, records)
    assert records.offered == []
    (server.input_dir / "new.png").write_bytes(b"x")
    assert eventually(lambda: records.offered)
    offered = json.dumps(records.offered[-1])
    assert "new.png" in offered
    assert job_id not in offered
    assert job_id not in json.dumps(read_info(server.base_url).object_info)


@pytest.mark.parametrize("error", [LedgerUnavailable("The ledger does not answer."), AttributeError("of ours")])
def test_what_was_not_recorded_is_recorded_later(
    watch: CatalogueWatch, server: SimulatorProcess, records: Records, error: Exception
) -> None:
    records.errors.append(error)
    (server.root / "models" / "loras" / "new.safetensors").write_bytes(b"")
    watch.look_again()
    assert eventually(lambda: records.offered)
    assert "new.safetensors" in loras(records.offered[-1])
    assert records.looks <= 1


def test_an_instance_that_is_away_or_mute_is_left_alone(
    watch: CatalogueWatch, server: SimulatorProcess, records: Records
) -> None:
    server.stop()
    (server.root / "models" / "loras" / "new.safetensors").write_bytes(b"")
    looks_twice(watch, records)
    watch.forget()
    watch.look_again()
    assert records.offered == []
