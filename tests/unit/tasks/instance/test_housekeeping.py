"""Room on the disk of an instance, and files that nobody will ask for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from comfy.process.instance import Instance
from comfy.process.spec import InstanceSpec
from core.clock import ledger_clock
from core.errors import LedgerUnavailable
from core.settings import Settings
from core.storage.input_cache import InputCache
from tasks.instance import housekeeping
from tasks.instance.housekeeping import MEBIBYTE, ROOM_AGAIN, TIDY_EVERY_S, Housekeeper
from tests.makers import Stopwatch
from tests.services import make_settings

WANTED = 100 * MEBIBYTE


@dataclass
class Tenement:
    """Stands for an instance: its directories, and how often its log was rotated."""

    spec: InstanceSpec
    is_attached: bool = False
    rotated: int = 0
    #: What was removed: age and spared names of each time.
    removed: list[tuple[Path, float, Collection[str]]] = field(default_factory=list)

    def rotate_log(self) -> None:
        self.rotated += 1


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path, min_free_disk_bytes=WANTED, instance_files_s=7_200)


@pytest.fixture
def tenement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tenement:
    found = Tenement(InstanceSpec(name="gpu0", gpu=None, kind="simulator", data_dir=tmp_path))

    def remove(data_dir: Path, *, older_than_s: float, spare: Collection[str]) -> int:
        found.removed.append((data_dir, older_than_s, spare))
        return 3

    monkeypatch.setattr(housekeeping, "remove_old_files", remove)
    return found


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(housekeeping, "time", watch)
    return watch


@pytest.fixture
def housekeeper(settings: Settings, tenement: Tenement, watch: Stopwatch) -> Housekeeper:
    return Housekeeper(settings, cast(Instance, tenement))


class TestRoom:
    @pytest.fixture
    def free(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """What the disk says, one answer after the other."""
        answers: list[Any] = []

        def free_bytes(_path: Path) -> int:
            answer = answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return int(answer)

        monkeypatch.setattr(housekeeping, "free_bytes", free_bytes)
        return answers

    def test_enough_is_enough(self, housekeeper: Housekeeper, free: list[Any]) -> None:
        free += [WANTED, WANTED - 1]
        assert housekeeper.disk_problem() is None
        assert housekeeper.disk_problem() == (
            "The disk of its outputs has 99 MiB left; COMFYLINE_MIN_FREE_DISK_BYTES asks for 100 MiB."
        )

    def test_a_full_one_needs_some_more_before_jobs_come_again(self, housekeeper: Housekeeper, free: list[Any]) -> None:
        free += [WANTED - 1, WANTED, WANTED * ROOM_AGAIN - 1, WANTED * ROOM_AGAIN + 1, WANTED]
        assert [housekeeper.disk_problem() is None for _ in range(5)] == [False, False, False, True, True]

    @pytest.mark.parametrize(("went", "after", "is_enough"), [(1, WANTED * 2, True), (1, 0, False), (0, None, False)])
    def test_input_files_that_may_come_again_give_way(
        self,
        housekeeper: Housekeeper,
        free: list[Any],
        monkeypatch: pytest.MonkeyPatch,
        went: int,
        after: int | None,
        is_enough: bool,
    ) -> None:
        monkeypatch.setattr(InputCache, "give_way", lambda _cache: went)
        free += [WANTED - 1] if after is None else [WANTED - 1, after]
        assert (housekeeper.disk_problem() is None) is is_enough
        assert free == []

    def test_one_that_cannot_be_looked_at(self, housekeeper: Housekeeper, free: list[Any]) -> None:
        free += [OSError(5, "Input/output error")]
        assert housekeeper.disk_problem() == "The disk of its outputs cannot be looked at: Input/output error."

    def test_a_tenth_more(self) -> None:
        assert (ROOM_AGAIN, MEBIBYTE, TIDY_EVERY_S) == (1.1, 1_048_576, 600.0)


class TestKeeping:
    def test_old_files_go_now_and_then_and_the_log_always(
        self, housekeeper: Housekeeper, tenement: Tenement, watch: Stopwatch
    ) -> None:
        for step_s in (0.0, TIDY_EVERY_S - 1, 1.0):
            watch.now_s += step_s
            housekeeper.keep(lambda: ["wanted"])
        assert tenement.rotated == 3
        assert tenement.removed == [(tenement.spec.data_dir, 7_200, ["wanted"])] * 2

    def test_of_an_attached_one_nothing_is_removed(self, housekeeper: Housekeeper, tenement: Tenement) -> None:
        tenement.is_attached = True
        housekeeper.keep(list)
        assert (tenement.rotated, tenement.removed) == (1, [])

    def test_while_the_clock_was_set_lately_files_have_no_age(
        self, housekeeper: Housekeeper, tenement: Tenement, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger_clock, "shift_ms", 3 * 24 * 3_600_000)
        housekeeper.keep(list)
        assert (tenement.rotated, tenement.removed) == (1, [])

    def test_a_ledger_that_is_away_spares_all(self, housekeeper: Housekeeper, tenement: Tenement) -> None:
        def away() -> Collection[str]:
            raise LedgerUnavailable("away")

        housekeeper.keep(away)
        assert tenement.removed == []

    def test_only_what_was_removed_is_logged(
        self, housekeeper: Housekeeper, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        caplog.set_level("INFO")
        housekeeper.keep(list)
        assert "gpu0: removed 3 old files" in caplog.text


@pytest.mark.parametrize("is_attached", [True, False])
def test_input_files_that_nobody_used_for_long_go(
    settings: Settings,
    housekeeper: Housekeeper,
    tenement: Tenement,
    watch: Stopwatch,
    monkeypatch: pytest.MonkeyPatch,
    is_attached: bool,
) -> None:
    forgotten: list[float] = []
    monkeypatch.setattr(InputCache, "forget", lambda _cache, *, unused_s: forgotten.append(unused_s))
    tenement.is_attached = is_attached
    watch.now_s += TIDY_EVERY_S
    for _ in range(2):
        housekeeper.keep(lambda: ())
    assert forgotten == [settings.instance_files_s]
