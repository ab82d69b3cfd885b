"""The name of an instance: who has it, and when another may take it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from comfy.process.spec import InstanceSpec
from core.errors import ConfigurationError, LedgerUnavailable
from core.ledger import Ledger
from core.settings import Settings
from tasks.instance import tenure as tenure_module
from tasks.instance.directory_lock import place_of
from tasks.instance.tenure import (
    LOOK_S,
    NameTaken,
    Tenure,
    check_host_name,
    refuse_taken_names,
    take_or_refuse,
)
from tests.makers import NAME, BrokerlessRuntime, StoppedClock, Stopwatch

SILENCE_S = 20.0
OURS = "b" * 8 + "-0000-0000-0000-" + "b" * 12
THEIRS = "c" * 8 + "-0000-0000-0000-" + "c" * 12


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(tenure_module, "time", watch)
    return watch


@pytest.fixture
def settings(runtime: BrokerlessRuntime) -> Settings:
    return runtime.settings


@pytest.fixture
def tenure(settings: Settings, tmp_path: Path, watch: Stopwatch) -> Tenure:
    return tenure_of(settings, tmp_path / "mine", "me")


def tenure_of(settings: Settings, folder: Path, worker: str) -> Tenure:
    folder.mkdir(exist_ok=True)
    spec = InstanceSpec(name="gpu0", gpu="0", kind="simulator", data_dir=folder)
    return Tenure(settings, spec, worker=worker, silence_s=SILENCE_S)


@pytest.fixture
def other(settings: Settings, tmp_path: Path, ledger: Ledger, clock: StoppedClock) -> Tenure:
    """Another worker, which has the name."""
    other = tenure_of(settings, tmp_path / "theirs", "other")
    assert other.take(ledger) is False
    return other


def speak(ledger: Ledger, clock: StoppedClock, worker: str = "other") -> None:
    """A heartbeat of whoever has the name."""
    clock.pass_ms(1)
    assert ledger.instances.heartbeat(NAME, worker=worker, state="healthy", reason=None, is_drained=False, restarts=0)


class TestTaking:
    def test_a_free_name(self, tenure: Tenure, ledger: Ledger, tmp_path: Path) -> None:
        assert tenure.take(ledger) is False
        found = ledger.instances.owner_of(NAME)
        assert found is not None
        assert (found.worker, found.pid, found.place) == ("me", os.getpid(), place_of(tmp_path / "mine"))
        assert tenure.name == NAME
        assert tenure.rival is None

    def test_what_an_operator_wants_is_kept(self, tenure: Tenure, ledger: Ledger) -> None:
        tenure.take(ledger)
        ledger.instances.heartbeat(NAME, worker="me", state="draining", reason=None, is_drained=True, restarts=0)
        assert tenure.take(ledger) is True

    def test_one_that_another_has(self, tenure: Tenure, other: Tenure, ledger: Ledger) -> None:
        assert tenure.take(ledger) is None
        assert tenure.rival == ledger.instances.owner_of(NAME)
        assert not tenure.rival_lives, "that is seen with the next heartbeat"
        assert f"worker other, process {os.getpid()}" in tenure.problem
        assert "COMFYLINE_HOST (now here)" in tenure.problem

    def test_a_heartbeat_is_life(self, tenure: Tenure, other: Tenure, ledger: Ledger, clock: StoppedClock) -> None:
        tenure.take(ledger)
        tenure.take(ledger)
        assert not tenure.rival_lives
        speak(ledger, clock)
        tenure.take(ledger)
        assert tenure.rival_lives

    def test_another_rival_has_yet_to_show_life(
        self, tenure: Tenure, other: Tenure, ledger: Ledger, clock: StoppedClock, settings: Settings, tmp_path: Path
    ) -> None:
        tenure.take(ledger)
        third = tenure_of(settings, tmp_path / "theirs", "third")
        assert third.take(ledger) is False, "it holds the directory of its predecessor"
        tenure.take(ledger)
        assert tenure.rival is not None
        assert tenure.rival.worker == "third"
        assert not tenure.rival_lives

    def test_silence_loses_the_name(
        self, tenure: Tenure, other: Tenure, ledger: Ledger, watch: Stopwatch, clock: StoppedClock
    ) -> None:
        tenure.take(ledger)
        watch.now_s += SILENCE_S
        assert tenure.take(ledger) is None
        watch.now_s += 0.5
        assert tenure.take(ledger) is False
        assert (tenure.rival, tenure.rival_lives) == (None, False)
        assert other.take(ledger) is None, "and now the other is the rival"

    def test_each_heartbeat_begins_the_silence_anew(
        self, tenure: Tenure, other: Tenure, ledger: Ledger, watch: Stopwatch, clock: StoppedClock
    ) -> None:
        tenure.take(ledger)
        watch.now_s += SILENCE_S
        speak(ledger, clock)
        assert tenure.take(ledger) is None
        watch.now_s += SILENCE_S
        assert tenure.take(ledger) is None

    def test_one_that_speaks_in_the_last_moment_keeps_it(
        self, tenure: Tenure, other: Tenure, ledger: Ledger, watch: Stopwatch, clock: StoppedClock
    ) -> None:
        tenure.take(ledger)
        watch.now_s += SILENCE_S + 1
        speak(ledger, clock)
        assert tenure.take(ledger) is None


class TestStart:
    def waits(self, *events: object) -> tuple[list[float], object]:
        """What was waited, and a function that waits: each time the next of these happens."""
        waited: list[float] = []
        left = list(events)

        def wait(seconds: float) -> None:
            waited.append(seconds)
            happens = left.pop(0)
            assert callable(happens)
            happens()

        return waited, wait

    def test_a_free_name_is_taken_at_once(self, tenure: Tenure, ledger: Ledger) -> None:
        waited, wait = self.waits()
        take_or_refuse(tenure, ledger, wait=wait)  # type: ignore[arg-type]
        assert waited == []

    def test_a_rival_that_lives_is_refused(
        self, tenure: Tenure, other: Tenure, ledger: Ledger, clock: StoppedClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        waited, wait = self.waits(lambda: None, lambda: speak(ledger, clock))
        with pytest.raises(ConfigurationError, match="belongs to another worker"):
            take_or_refuse(tenure, ledger, wait=wait)  # type: ignore[arg-type]
        assert waited == [LOOK_S, LOOK_S]
        assert caplog.text.count("waiting to see whether that one is alive") == 1

    def test_a_rival_that_is_dead_is_followed(
        self, tenure: Tenure, other: Tenure, ledger: Ledger, watch: Stopwatch
    ) -> None:
        def silence() -> None:
            watch.now_s += SILENCE_S + 1

        _, wait = self.waits(silence)
        take_or_refuse(tenure, ledger, wait=wait)  # type: ignore[arg-type]
        assert tenure.rival is None

    def test_a_ledger_that_is_away_is_waited_for(
        self, tenure: Tenure, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def away(_ledger: Ledger) -> bool | None:
            raise LedgerUnavailable("away")

        monkeypatch.setattr(tenure, "take", away)
        waited, wait = self.waits(lambda: None, lambda: monkeypatch.undo())
        take_or_refuse(tenure, ledger, wait=wait)  # type: ignore[arg-type]
        assert waited == [0.5, 0.5]
        assert caplog.text.count("waiting for the ledger: away") == 2


class TestNamesOfAMachine:
    """Before its workers are started."""

    @pytest.fixture
    def spec(self, tmp_path: Path) -> InstanceSpec:
        folder = tmp_path / "mine"
        folder.mkdir()
        return InstanceSpec(name="gpu0", gpu="0", kind="simulator", data_dir=folder)

    @pytest.fixture
    def named(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"host": NAME.partition("@")[2], "lease_renew_s": 5.0})

    def test_a_name_whose_owner_lives_is_refused_at_its_next_word(
        self, named: Settings, spec: InstanceSpec, other: Tenure, ledger: Ledger, clock: StoppedClock, watch: Stopwatch
    ) -> None:
        # What other machines' workers say under other names does not matter.
        happens: list[Callable[[], object]] = [lambda: None, lambda: speak(ledger, clock)]
        heartbeats = iter(happens)
        with pytest.raises(NameTaken, match=r"set COMFYLINE_HOST \(now .*\) to another one"):
            refuse_taken_names(named, [spec], ledger, wait=lambda _: next(heartbeats)())
        assert next(heartbeats, None) is None

    def test_a_machine_that_crashed_and_came_back_is_let_in(
        self, named: Settings, spec: InstanceSpec, other: Tenure, ledger: Ledger, watch: Stopwatch
    ) -> None:
        """Its record is of a moment ago, and of another boot: the workers wait for it to be old enough."""
        refuse_taken_names(named, [spec], ledger, wait=watch.sleep)
        assert sum(watch.slept_s) == pytest.approx(2 * 5.0 + LOOK_S)

    def test_nobody_waits_for_a_predecessor_of_the_same_directory(
        self, named: Settings, spec: InstanceSpec, tmp_path: Path, ledger: Ledger, watch: Stopwatch
    ) -> None:
        refuse_taken_names(named, [spec], ledger, wait=watch.sleep)
        assert tenure_of(named, tmp_path / "mine", "before").take(ledger) is False
        refuse_taken_names(named, [spec], ledger, wait=watch.sleep)
        assert watch.slept_s == []

    def test_nobody_waits_for_one_that_has_long_been_silent(
        self, named: Settings, spec: InstanceSpec, other: Tenure, ledger: Ledger, clock: StoppedClock, watch: Stopwatch
    ) -> None:
        clock.pass_ms(int(1000 * SILENCE_S) + 1)
        refuse_taken_names(named, [spec], ledger, wait=watch.sleep)
        assert watch.slept_s == []


class TestHostName:
    @pytest.mark.parametrize(
        ("ours", "place", "is_refused"),
        [
            (OURS, f"{THEIRS} 1:2", True),
            (OURS, f"{OURS} 1:2", False),
            (OURS, "a-host-name 1:2", False),
            (OURS, None, False),
            ("", f"{THEIRS} 1:2", False),
        ],
    )
    def test_another_machines_name_is_refused(
        self,
        settings: Settings,
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
        ours: str,
        place: str | None,
        is_refused: bool,
    ) -> None:
        monkeypatch.setattr(tenure_module, "boot_id", lambda: ours)
        ledger.instances.register(name=NAME, host="here", worker="w", kind="simulator", gpu="0", place=place, pid=7)
        if is_refused:
            with pytest.raises(ConfigurationError, match="another machine, which runs worker w, process 7"):
                check_host_name(settings, ledger)
        else:
            check_host_name(settings, ledger)
