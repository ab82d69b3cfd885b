"""The short road into storage: what takes it, what is left to the io worker, and what a worker that is late may do."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.ledger.claims import Claim
from core.records.job_error import JobError
from core.records.output import FileSource, OutputFile
from core.records.output_options import ConvertOptions, OutputOptions
from core.storage.placing import digest_of
from tasks.runner import direct_store as direct_store_module
from tasks.runner.direct_store import MOST_FILES, DirectStore
from tests.ledger_moves import claimed
from tests.makers import BrokerlessRuntime
from tests.waiting import eventually

PNG = b"\x89PNG a picture"


@pytest.fixture
def store(runtime: BrokerlessRuntime) -> DirectStore:
    return DirectStore(runtime)


@pytest.fixture
def claim(runtime: BrokerlessRuntime) -> Claim:
    return claimed(runtime.ledger)


def made(runtime: BrokerlessRuntime, claim: Claim, name: str = "a.png", data: bytes = PNG, **fields: Any) -> OutputFile:
    """A file of a job as its instance has left it."""
    root = runtime.settings.gpu_dir("gpu0") / "output"
    path = root / claim.job_id / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    given: dict[str, Any] = {"id": f"id of {name}", "node_id": "3", "name": name, "kind": "image"}
    given |= {"content_type": "image/png", "source": FileSource(root=str(root), path=str(path))}
    return OutputFile(job_id=claim.job_id, **{**given, **fields})


def place(runtime: BrokerlessRuntime, claim: Claim, name: str = "a.png") -> Path:
    """Where a file has its place in storage."""
    return runtime.settings.outputs_dir / claim.job_id / name


def test_small_files_and_texts_are_stored_and_stay_at_their_source(
    store: DirectStore, runtime: BrokerlessRuntime, claim: Claim
) -> None:
    file = made(runtime, claim)
    text = replace(file, id="t", name="a.png", kind="text", source=FileSource(text="words"))
    stored = store.store(claim, [file, text])
    assert stored is not None
    assert [(each.storage_key, each.size_bytes) for each in stored] == [
        (f"{claim.job_id}/a.png", len(PNG)),
        (f"{claim.job_id}/a (2).png", 5),
    ]
    assert stored[0].hash == digest_of(place(runtime, claim))
    assert place(runtime, claim).read_bytes() == PNG
    assert place(runtime, claim, "a (2).png").read_bytes() == b"words"
    assert Path(str(file.source.path)).read_bytes() == PNG, "until the job has ended"
    assert sorted(path.name for path in place(runtime, claim).parent.iterdir()) == ["a (2).png", "a.png"]

    store.leave_sources(stored)
    assert not Path(str(file.source.path)).parent.exists()
    assert place(runtime, claim).read_bytes() == PNG


def test_a_job_without_files_needs_no_storage(store: DirectStore, claim: Claim) -> None:
    assert store.store(claim, []) == []


def test_what_lies_on_another_file_system_is_copied(
    store: DirectStore, runtime: BrokerlessRuntime, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, file = os.link, made(runtime, claim)

    def link_within(source: Path, target: Path) -> None:
        if source.parent != target.parent:
            raise OSError("another file system")
        link(source, target)

    monkeypatch.setattr(os, "link", link_within)
    assert store.store(claim, [file]) is not None
    assert [path.name for path in place(runtime, claim).parent.iterdir()] == ["a.png"]
    assert place(runtime, claim).read_bytes() == PNG


@pytest.mark.parametrize(
    "options", [OutputOptions(strip_metadata=True), OutputOptions(convert=ConvertOptions(format="webp"))]
)
def test_files_that_are_to_be_changed_are_left(
    store: DirectStore, runtime: BrokerlessRuntime, claim: Claim, options: OutputOptions
) -> None:
    assert store.store(replace(claim, output_options=options), [made(runtime, claim)]) is None
    assert not place(runtime, claim).exists()


def test_a_claim_says_what_is_to_be_done_with_outputs(runtime: BrokerlessRuntime) -> None:
    options = OutputOptions(strip_metadata=True)
    assert claimed(runtime.ledger, output_options=options).output_options == options


@pytest.mark.parametrize("what", ["elsewhere", "of others", "twice", "many", "large", "missing", "a link"])
def test_whatever_is_odd_is_left(
    store: DirectStore, runtime: BrokerlessRuntime, claim: Claim, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made(runtime, claim)
    files = [file]
    if what == "elsewhere":
        files = [replace(file, source=FileSource(url="http://127.0.0.1:1/view?filename=a.png"))]
    elif what == "of others":
        files = [replace(file, folder="input")]
    elif what == "twice":
        files = [file, replace(file, id="again")]
    elif what == "many":
        files = [made(runtime, claim, f"{number}.png") for number in range(MOST_FILES + 1)]
    elif what == "large":
        monkeypatch.setattr(direct_store_module, "MOST_BYTES", len(PNG) - 1)
    else:
        path = Path(str(file.source.path))
        path.rename(path.with_name("b.png"))
        if what == "a link":
            path.symlink_to("b.png")
    assert store.store(claim, files) is None
    assert not place(runtime, claim).exists()


def test_one_that_is_late_writes_over_nothing(store: DirectStore, runtime: BrokerlessRuntime, claim: Claim) -> None:
    """Another attempt has stored its file meanwhile, and the job may have ended with that."""
    place(runtime, claim).parent.mkdir(parents=True)
    place(runtime, claim).write_bytes(b"the other attempt's")
    assert store.store(claim, [made(runtime, claim)]) is None
    assert place(runtime, claim).read_bytes() == b"the other attempt's"


def test_a_storage_that_is_slow_holds_nobody_up(
    store: DirectStore, runtime: BrokerlessRuntime, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, asked = threading.Event(), []

    def wait() -> None:
        asked.append(1)
        assert answers.wait(20)

    monkeypatch.setattr(runtime.storage, "require", wait)
    monkeypatch.setattr(direct_store_module, "LIMIT_S", 0.05)
    file = made(runtime, claim)
    try:
        assert store.store(claim, [file]) is None
        assert store.store(claim, [file]) is None
        assert asked == [1], "it is not asked again before it has answered"
    finally:
        answers.set()
    monkeypatch.setattr(direct_store_module, "LIMIT_S", 20.0)
    other = made(runtime, claim, "b.png")
    assert eventually(lambda: store.store(claim, [other]) is not None), "once it has answered, it is"


@pytest.mark.parametrize("is_near", [True, False])
def test_a_storage_on_the_disk_of_the_instances_costs_no_thread(
    store: DirectStore, runtime: BrokerlessRuntime, claim: Claim, monkeypatch: pytest.MonkeyPatch, is_near: bool
) -> None:
    asked_by: list[str] = []
    monkeypatch.setattr(runtime.storage, "require", lambda: asked_by.append(threading.current_thread().name))
    assert store.store(claim, [made(runtime, claim)]) is not None
    if not is_near:
        assert store._is_near
        store._is_near = False
    assert store.store(claim, [made(runtime, claim, "b.png")]) is not None
    assert asked_by == ["store", threading.current_thread().name if is_near else "store"]


class TestTidy:
    def test_a_job_that_ended_without_it_leaves_nothing(
        self, store: DirectStore, runtime: BrokerlessRuntime, claim: Claim
    ) -> None:
        store.store(claim, [made(runtime, claim)])
        store.tidy(claim.job_id)
        assert place(runtime, claim).exists(), "another attempt may be at it"
        runtime.ledger.jobs.cancel(claim.job_id)
        runtime.ledger.claims.canceled(claim)
        store.tidy(claim.job_id)
        assert not place(runtime, claim).parent.exists()

    def test_one_that_has_succeeded_keeps_its_files(
        self, store: DirectStore, runtime: BrokerlessRuntime, claim: Claim
    ) -> None:
        stored = store.store(claim, [made(runtime, claim)])
        assert stored is not None
        runtime.ledger.outputs.succeed_at_once(claim, stored, outputs_reused=False)
        store.tidy(claim.job_id)
        assert place(runtime, claim).exists()


def test_a_file_of_a_job_that_runs_is_placed_and_found_there_at_its_end(
    store: DirectStore, runtime: BrokerlessRuntime, claim: Claim
) -> None:
    file = made(runtime, claim)
    placed = store.place_early(claim, [file])
    assert placed is not None
    assert placed[0].storage_key == f"{claim.job_id}/a.png"
    assert place(runtime, claim).read_bytes() == PNG
    stored = store.store(claim, [file])
    assert stored is not None, "on the short road, as if nothing had been there"
    assert [each.storage_key for each in stored] == [f"{claim.job_id}/a.png"]


def test_an_early_file_is_never_written_over_another(
    store: DirectStore, runtime: BrokerlessRuntime, claim: Claim
) -> None:
    place(runtime, claim).parent.mkdir(parents=True)
    place(runtime, claim).write_bytes(b"of an attempt before")
    assert store.place_early(claim, [made(runtime, claim)]) is None
    assert place(runtime, claim).read_bytes() == b"of an attempt before"


def test_early_files_go_with_a_job_that_fails(store: DirectStore, runtime: BrokerlessRuntime, claim: Claim) -> None:
    assert store.place_early(claim, [made(runtime, claim)]) is not None
    assert runtime.ledger.claims.fail(claim, JobError(code="node_execution_error", message="boom"))
    store.end_early(claim.job_id, is_kept=False)
    assert not place(runtime, claim).exists()


def test_early_files_of_a_job_that_is_tried_again_stay(
    store: DirectStore, runtime: BrokerlessRuntime, claim: Claim
) -> None:
    assert store.place_early(claim, [made(runtime, claim)]) is not None
    store.end_early(claim.job_id, is_kept=False)
    assert place(runtime, claim).exists(), "it has not ended"
