"""What the ledger hears of an instance, also while it is away, or another worker has the name."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from comfy.process.spec import InstanceSpec
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.instances import DRAINED, HEALTHY, QUARANTINED, STARTING, STOPPED, UNHEALTHY, Instances
from core.storage.marker import StorageMarker
from tasks.instance.admission import Admission, Condition
from tasks.instance.probe import InstanceInfo
from tasks.instance.reporting import RETRY_S, StateReporter
from tasks.instance.tenure import Tenure
from tests.ledger_moves import generated
from tests.makers import NAME, BrokerlessRuntime, record_of

INFO = InstanceInfo(version="0.3.64", device="cuda:0", object_info={"KSampler": {}})


class Stopping(threading.Event):
    """Waiting for it takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s: list[float | None] = []
        #: It is set with the wait of this number.
        self.comes_after = 100

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s.append(timeout)
        return len(self.waited_s) >= self.comes_after


def away(*_arguments: object, **_options: object) -> None:
    raise LedgerUnavailable("away")


@pytest.fixture
def admission() -> Admission:
    return Admission()


@pytest.fixture
def reporter(runtime: BrokerlessRuntime, admission: Admission, tmp_path: Path) -> Iterator[StateReporter]:
    """One that was not opened yet."""
    spec = InstanceSpec(name="gpu0", gpu="0", kind="simulator", data_dir=tmp_path)
    tenure = Tenure(runtime.settings, spec, worker="me")
    reporter = StateReporter(runtime.settings, tenure, admission, restarts=lambda: 3)
    yield reporter
    reporter.close()


@pytest.fixture
def opened(reporter: StateReporter) -> StateReporter:
    reporter.open(Stopping())
    return reporter


@pytest.fixture
def up(opened: StateReporter) -> StateReporter:
    """One whose instance is up."""
    opened.up("http://i", INFO, output_dir=Path("/out"), warmup_s=2.5)
    return opened


def lose_the_name(ledger: Ledger) -> None:
    """Another worker takes the row, as it may after a long silence."""
    owner = ledger.instances.owner_of(NAME)
    assert (
        ledger.instances.register(
            name=NAME, host="here", worker="other", kind="simulator", gpu="0", place="else 1:2", pid=7, over=owner
        )
        is not None
    )


def give_it_back(ledger: Ledger) -> None:
    """That worker ends in order."""
    assert ledger.instances.heartbeat(NAME, worker="other", state=STOPPED, reason=None, is_drained=False, restarts=0)


class TestOpening:
    def test_the_instance_is_registered(self, reporter: StateReporter, ledger: Ledger, admission: Admission) -> None:
        assert not reporter.is_open
        reporter.open(Stopping())
        assert reporter.is_open
        assert (record_of(ledger).state, record_of(ledger).worker) == (STARTING, "me")
        assert (admission.taken_by, admission.is_drained) == (None, False)
        assert reporter.storage_problem() is None

    def test_what_is_wrong_with_the_storage_is_said(
        self, opened: StateReporter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(StorageMarker, "problem", lambda _self: "It is not the fleet's.")
        assert opened.storage_problem() == "It is not the fleet's."

    def test_a_drain_outlasts_a_restart(self, reporter: StateReporter, ledger: Ledger, admission: Admission) -> None:
        ledger.instances.register(name=NAME, host="here", worker="old", kind="simulator", gpu="0")
        ledger.instances.heartbeat(NAME, worker="old", state=STOPPED, reason=None, is_drained=True, restarts=0)
        reporter.open(Stopping())
        assert admission.is_drained

    def test_a_ledger_that_is_away_is_waited_for(
        self, reporter: StateReporter, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
    ) -> None:
        register, failures = Instances.register, [1, 2]

        def sometimes(self: Instances, **fields: object) -> bool | None:
            if failures:
                failures.pop()
                raise LedgerUnavailable("away")
            return register(self, **fields)  # type: ignore[arg-type]

        monkeypatch.setattr(Instances, "register", sometimes)
        stopping = Stopping()
        reporter.open(stopping)
        assert stopping.waited_s == [RETRY_S] * 2 == [1.0, 1.0]
        assert record_of(ledger).worker == "me"

    def test_until_the_worker_stops(self, reporter: StateReporter, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Instances, "register", away)
        stopping = Stopping()
        stopping.comes_after = 2
        reporter.open(stopping)
        assert len(stopping.waited_s) == 2

    def test_closing_says_that_the_worker_stopped(
        self, up: StateReporter, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[Ledger] = []
        monkeypatch.setattr(Ledger, "close", lambda self: closed.append(self))
        up.close()
        monkeypatch.undo()
        assert len(closed) == 1
        assert (record_of(ledger).state, record_of(ledger).reason) == (STOPPED, "The worker stopped.")

    def test_one_that_was_never_opened_has_nothing_to_close(self, reporter: StateReporter, ledger: Ledger) -> None:
        reporter.close()
        assert ledger.instances.get(NAME) is None


class TestTelling:
    def test_that_it_is_up(self, up: StateReporter, ledger: Ledger, admission: Admission) -> None:
        record = record_of(ledger)
        assert (record.state, record.reason, record.restarts, record.warmup_s) == (HEALTHY, None, 3, 2.5)
        assert (record.url, record.output_dir, record.version, record.device) == (
            "http://i",
            "/out",
            "0.3.64",
            "cuda:0",
        )
        assert list(ledger.instances.catalogues().values()) == [[NAME]]
        assert admission.takes_jobs

    def test_one_of_another_machine_has_no_folder(self, opened: StateReporter, ledger: Ledger) -> None:
        opened.up("http://i", INFO, output_dir=None, warmup_s=None)
        assert record_of(ledger).output_dir is None

    def test_while_that_is_not_recorded_it_takes_no_jobs(
        self, opened: StateReporter, admission: Admission, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened.is_unrecorded = True
        monkeypatch.setattr(Instances, "up", away)
        with pytest.raises(LedgerUnavailable):
            opened.up("http://i", INFO, output_dir=None, warmup_s=None)
        assert not admission.is_up
        assert opened.is_unrecorded

    def test_that_it_went_away(self, up: StateReporter, ledger: Ledger, admission: Admission) -> None:
        up.is_unrecorded = True
        up.go_away(Condition(state=QUARANTINED, reason="Too many failures.", quarantined_until_ms=5))
        record = record_of(ledger)
        assert (record.state, record.reason, record.quarantined_until_ms) == (QUARANTINED, "Too many failures.", 5)
        assert not admission.is_up
        assert not up.is_unrecorded, "what comes up anew is recorded anyway"
        assert record.restarts == 3

    def test_a_ledger_that_is_away_is_no_reason_to_stumble(
        self, up: StateReporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(Instances, "heartbeat", away)
        up.go_away(Condition(state=UNHEALTHY))
        up.tell()
        up.beat(trouble=None, stopping=threading.Event())
        assert caplog.text.count("the ledger was not told") == 3
        assert "ours again" not in caplog.text

    def test_the_present_state(self, up: StateReporter, ledger: Ledger, admission: Admission) -> None:
        admission.is_drained = True
        up.tell()
        assert record_of(ledger).state == DRAINED

    def test_a_new_catalogue(self, up: StateReporter, ledger: Ledger) -> None:
        before = set(ledger.instances.catalogues())
        up.offers({"Other": {}}, {"a.sft": 7})
        assert set(ledger.instances.catalogues()) != before

    def test_what_lies_there_still(self, up: StateReporter, ledger: Ledger) -> None:
        claim = generated(ledger)
        generated(ledger, instance="gpu1@here")
        assert up.unstored() == [claim.job_id]

    def test_that_it_has_looked(self, up: StateReporter, monkeypatch: pytest.MonkeyPatch) -> None:
        told: list[tuple[str, str]] = []
        monkeypatch.setattr(Instances, "has_looked", lambda _self, name, *, worker: told.append((name, worker)))
        up.has_looked()
        assert told == [(NAME, "me")]


class TestBeating:
    def test_what_an_operator_should_know_stands_behind_what_is_wrong(
        self, up: StateReporter, ledger: Ledger, admission: Admission
    ) -> None:
        up.beat(trouble="A thread fails.", stopping=threading.Event())
        assert (record_of(ledger).state, record_of(ledger).reason) == (HEALTHY, "A thread fails.")
        admission.storage_problem = "It is not the fleet's."
        up.beat(trouble="A thread fails.", stopping=threading.Event())
        assert record_of(ledger).reason == "It is not the fleet's."
        assert admission.condition == replace(admission.condition, reason="It is not the fleet's.")

    def test_not_any_more_once_the_worker_ends(self, up: StateReporter, ledger: Ledger, admission: Admission) -> None:
        stopping = threading.Event()
        stopping.set()
        admission.is_drained = True
        up.beat(trouble=None, stopping=stopping)
        assert record_of(ledger).state == HEALTHY


class TestLostName:
    def test_while_another_worker_has_it_no_jobs_are_taken(
        self, up: StateReporter, ledger: Ledger, admission: Admission, caplog: pytest.LogCaptureFixture
    ) -> None:
        lose_the_name(ledger)
        for _ in range(2):
            up.beat(trouble=None, stopping=threading.Event())
        assert not admission.takes_jobs
        assert "worker other" in str(admission.taken_by)
        assert admission.is_up
        assert caplog.text.count("takes no jobs until that worker is gone") == 1
        assert record_of(ledger).worker == "other"

    def test_it_is_taken_back_once_that_one_is_gone(
        self, up: StateReporter, ledger: Ledger, admission: Admission, caplog: pytest.LogCaptureFixture
    ) -> None:
        lose_the_name(ledger)
        up.beat(trouble=None, stopping=threading.Event())
        give_it_back(ledger)
        up.beat(trouble=None, stopping=threading.Event())
        assert admission.taken_by is None
        assert record_of(ledger).worker == "me"
        assert up.is_unrecorded
        assert not admission.is_up
        assert (admission.away.state, "being taken back" in str(admission.away.reason)) == (STARTING, True)
        assert "the name is ours again" in caplog.text
        up.up("http://i", INFO, output_dir=None, warmup_s=None)
        assert not up.is_unrecorded
        assert admission.takes_jobs

    def test_one_that_was_not_up_has_nothing_to_record(
        self, opened: StateReporter, ledger: Ledger, admission: Admission
    ) -> None:
        lose_the_name(ledger)
        give_it_back(ledger)
        opened.beat(trouble=None, stopping=threading.Event())
        assert record_of(ledger).worker == "me"
        assert not opened.is_unrecorded

    def test_a_ledger_that_is_away_changes_nothing(
        self, up: StateReporter, ledger: Ledger, admission: Admission, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lose_the_name(ledger)
        monkeypatch.setattr(Instances, "register", away)
        up.beat(trouble=None, stopping=threading.Event())
        assert admission.takes_jobs
        assert not up.is_unrecorded
