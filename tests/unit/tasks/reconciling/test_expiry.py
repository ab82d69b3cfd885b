"""What is past its time goes, in small steps; what somebody may still want stays."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.ledger.durations import Durations
from core.ledger.input_files import InputFiles
from core.ledger.instances import Instances
from core.ledger.removal import Removal
from core.records.job import new_job_id
from core.storage import folders
from core.storage.folders import FRESH_S, LocalStorage
from core.storage.marker import StorageMarker
from tasks.reconciling import expiry
from tasks.reconciling.expiry import (
    BATCH,
    ORPHAN_S,
    SWEEP_EVERY_S,
    SWEPT,
    TIME_LIMIT_S,
    remove_expired,
    sweep,
    sweep_inputs,
    sweep_outputs,
)
from tests.ledger_moves import set_columns, submit, succeeded
from tests.makers import BrokerlessRuntime, Stopwatch


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(expiry, "time", watch)
    return watch


def folder(runtime: BrokerlessRuntime, name: str, *, age_s: float = 0.0) -> Path:
    """A folder of outputs, untouched for so long."""
    path = runtime.settings.outputs_dir / name
    path.mkdir(parents=True)
    (path / "a.png").write_bytes(b"a")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def input_file(runtime: BrokerlessRuntime, name: str, *, age_s: float) -> Path:
    path = runtime.settings.inputs_dir / name[:2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"a")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage that is seen here is not the fleet's."""
    monkeypatch.setattr(StorageMarker, "problem", lambda _self: "It is not the fleet's.")


class TestRemoval:
    def test_a_job_past_its_time_goes_with_its_files(self, runtime: BrokerlessRuntime) -> None:
        old, young = (succeeded(runtime.ledger).job_id for _ in range(2))
        set_columns(runtime.ledger, old, expires_at_ms=1, files_expire_at_ms=1)
        folders = [folder(runtime, job_id) for job_id in (old, young)]
        remove_expired(runtime)
        assert [job.id for job in runtime.ledger.jobs.page()] == [young]
        assert [path.exists() for path in folders] == [False, True]

    def test_files_may_go_before_their_job(self, runtime: BrokerlessRuntime) -> None:
        job_id = succeeded(runtime.ledger).job_id
        set_columns(runtime.ledger, job_id, files_expire_at_ms=1)
        path = folder(runtime, job_id)
        remove_expired(runtime)
        assert not path.exists()
        assert [output.is_expired for output in runtime.ledger.jobs.get(job_id).outputs] == [True]
        assert runtime.ledger.removal.expired_files(limit=1) == []

    def test_uploads_go_by_the_ledger(self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(InputFiles, "remove_expired", lambda _self, *, limit: ["ab/" + "ab" * 32])
        path = input_file(runtime, "ab" * 32, age_s=FRESH_S + 60)
        remove_expired(runtime)
        assert not path.exists()

    def test_drafts_of_the_dead_go(self, runtime: BrokerlessRuntime) -> None:
        draft = runtime.settings.inputs_dir / ".drafts" / "x"
        draft.parent.mkdir(parents=True)
        draft.write_bytes(b"half")
        os.utime(draft, (time.time() - FRESH_S - 60,) * 2)
        remove_expired(runtime)
        assert not draft.exists()

    def test_a_foreign_storage_keeps_everything_but_what_the_ledger_alone_has(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        foreign(monkeypatch)
        forgotten: list[str] = []

        def forget_keys(_self: Removal, *, limit: int) -> int:
            forgotten.append(f"keys {limit}")
            return 0

        monkeypatch.setattr(Removal, "forget_keys", forget_keys)
        monkeypatch.setattr(Instances, "forget_silent", lambda _self: forgotten.append("instances"))
        monkeypatch.setattr(Durations, "forget", lambda _self: forgotten.append("durations"))
        job_id = succeeded(runtime.ledger).job_id
        set_columns(runtime.ledger, job_id, expires_at_ms=1, files_expire_at_ms=1)
        path = folder(runtime, job_id)
        remove_expired(runtime)
        assert path.exists()
        assert runtime.ledger.jobs.page()
        assert forgotten == [f"keys {BATCH}", "instances", "durations"]


class TestSteps:
    """How often a step is repeated in one run."""

    def repeat(self, runtime: BrokerlessRuntime, watch: Stopwatch, took_s: float, *done: int) -> int:
        left = list(done)

        def step(_runtime: object) -> int:
            watch.now_s += took_s
            return left.pop(0)

        expiry._in_steps(step, runtime)
        return len(done) - len(left)

    def test_until_there_is_less_to_do_than_it_may(self, runtime: BrokerlessRuntime, watch: Stopwatch) -> None:
        assert self.repeat(runtime, watch, 0.125, BATCH, BATCH, BATCH - 1, BATCH) == 3
        assert watch.slept_s == [0.125] * 2, "others get the lock for as long"

    def test_or_its_time_is_over(self, runtime: BrokerlessRuntime, watch: Stopwatch) -> None:
        assert TIME_LIMIT_S == 1.0
        # After two steps and one pause, 0.75 s: another pause and step end when the time does.
        assert self.repeat(runtime, watch, 0.25, *[BATCH] * 9) == 2
        watch.slept_s.clear()
        assert self.repeat(runtime, watch, 0.125, *[BATCH] * 9) == 4
        assert watch.slept_s == [0.125] * 3

    def test_one_that_takes_too_long_is_done_once(self, runtime: BrokerlessRuntime, watch: Stopwatch) -> None:
        assert self.repeat(runtime, watch, 5.0, *[BATCH] * 9) == 1
        assert BATCH == 100


class TestSweeping:
    @pytest.fixture
    def swept(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        swept: list[str] = []

        def stand_in(what: str, removed: int) -> Callable[[object], int]:
            def note(_runtime: object) -> int:
                swept.append(what)
                return removed

            return note

        monkeypatch.setattr(expiry, "sweep_outputs", stand_in("outputs", 2))
        monkeypatch.setattr(expiry, "sweep_inputs", stand_in("inputs", 0))
        return swept

    @pytest.fixture
    def places(self, runtime: BrokerlessRuntime) -> tuple[Path, Path]:
        places = (runtime.settings.outputs_dir, runtime.settings.inputs_dir)
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        return places

    def test_now_and_then(
        self,
        runtime: BrokerlessRuntime,
        swept: list[str],
        places: tuple[Path, Path],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        sweep(runtime)
        sweep(runtime)
        assert swept == ["outputs", "inputs"]
        assert "2 folders of jobs that are no longer kept were removed" in caplog.text
        assert "input files" not in caplog.text

    @pytest.mark.parametrize(
        ("age_s", "is_due"), [(SWEEP_EVERY_S + 5, True), (SWEEP_EVERY_S - 60, False), (5, False), (-60, True)]
    )
    def test_a_mark_in_storage_spares_others_the_listing(
        self,
        runtime: BrokerlessRuntime,
        swept: list[str],
        places: tuple[Path, Path],
        age_s: float,
        is_due: bool,
    ) -> None:
        for place in places:
            (place / SWEPT).touch()
            os.utime(place / SWEPT, (time.time() - age_s,) * 2)
        sweep(runtime)
        assert swept == (["outputs", "inputs"] if is_due else [])
        sweep(runtime)
        assert len(swept) <= 2, "and it is set anew"
        assert SWEEP_EVERY_S == 600.0

    @pytest.mark.parametrize(("age_s", "is_due"), [(SWEEP_EVERY_S, True), (0.0, False)])
    def test_to_the_second(
        self,
        runtime: BrokerlessRuntime,
        swept: list[str],
        places: tuple[Path, Path],
        monkeypatch: pytest.MonkeyPatch,
        age_s: float,
        is_due: bool,
    ) -> None:
        monkeypatch.setattr(folders, "age_s", lambda _mark: age_s)
        sweep(runtime)
        assert bool(swept) is is_due

    def test_where_no_file_has_come_yet_there_is_nothing_to_sweep(
        self, runtime: BrokerlessRuntime, swept: list[str]
    ) -> None:
        sweep(runtime)
        assert swept == ["outputs"], "whoever looks whether it is the fleet's makes that folder"
        assert not runtime.settings.inputs_dir.exists()

    def test_a_foreign_storage_is_left_alone(
        self,
        runtime: BrokerlessRuntime,
        swept: list[str],
        places: tuple[Path, Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        foreign(monkeypatch)
        sweep(runtime)
        assert swept == []
        assert not (places[0] / SWEPT).exists()

    def test_input_files_are_counted(
        self,
        runtime: BrokerlessRuntime,
        places: tuple[Path, Path],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(expiry, "sweep_outputs", lambda _runtime: 0)
        monkeypatch.setattr(expiry, "sweep_inputs", lambda _runtime: 3)
        sweep(runtime)
        assert "3 input files" in caplog.text
        assert "folders" not in caplog.text


class TestOrphans:
    def test_folders_without_a_job_go_after_a_day(self, runtime: BrokerlessRuntime) -> None:
        assert ORPHAN_S == 86_400.0
        known = folder(runtime, submit(runtime.ledger).id, age_s=ORPHAN_S + 60)
        old = [folder(runtime, new_job_id(), age_s=ORPHAN_S + 60) for _ in range(2)]
        young = folder(runtime, new_job_id(), age_s=ORPHAN_S - 60)
        foreign_one = folder(runtime, "not-ours", age_s=ORPHAN_S + 60)
        assert sweep_outputs(runtime) == 2
        assert [path.exists() for path in (known, *old, young, foreign_one)] == [True, False, False, True, True]

    @pytest.mark.parametrize(("limit", "removed"), [(3, 3), (5, 5), (7, 5)])
    def test_not_more_than_so_many_at_once(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch, limit: int, removed: int
    ) -> None:
        monkeypatch.setattr(expiry, "SWEEP_LIMIT", limit)
        monkeypatch.setattr(expiry, "BATCH", 2)
        for _ in range(5):
            folder(runtime, new_job_id(), age_s=ORPHAN_S + 60)
        assert sweep_outputs(runtime) == removed

    def test_input_files_that_nothing_refers_to_go(
        self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[list[str]] = []

        def unknown(_self: InputFiles, keys: list[str]) -> list[str]:
            asked.append(keys)
            return [key for key in keys if not key.startswith("cc")]

        monkeypatch.setattr(InputFiles, "unknown", unknown)
        monkeypatch.setattr(expiry, "BATCH", 2)
        paths = [input_file(runtime, letters * 32, age_s=FRESH_S + 60) for letters in ("aa", "bb", "cc")]
        fresh = input_file(runtime, "dd" * 32, age_s=0)
        assert sweep_inputs(runtime) == 2
        assert [path.exists() for path in (*paths, fresh)] == [False, False, True, True]
        assert sorted(len(keys) for keys in asked) == [2, 2]

    def test_not_more_than_so_many_files(self, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
        def endless(_self: LocalStorage) -> Iterator[str]:
            while True:
                yield "aa/" + "aa" * 32

        asked: list[str] = []

        def unknown(_self: InputFiles, keys: list[str]) -> list[str]:
            asked.extend(keys)
            return []

        monkeypatch.setattr(LocalStorage, "keys", endless)
        monkeypatch.setattr(InputFiles, "unknown", unknown)
        assert sweep_inputs(runtime) == 0
        assert len(asked) == 5_000
