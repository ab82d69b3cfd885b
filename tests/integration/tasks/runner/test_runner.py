"""The heart of a GPU worker, piece by piece: claims and prompts on deck, its connection, leases, recovery, release."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from sqlalchemy import update

from comfy.client.history import History
from comfy.prompts.session import ComfySession, PromptHandle, PromptResult
from core.errors import ComfyOutOfMemory, ComfyUnavailable, LedgerUnavailable, PromptStuck
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.tables import instances
from core.ledger.instances import UNHEALTHY
from core.records.instance import InstanceRecord
from core.records.job import CANCELING, DELIVERING, QUEUED, RUNNING
from core.settings import Settings
from tasks.instance.release import JobRelease
from tasks.messaging.app import make_app
from tasks.runner.attempt_end import Failed
from tasks.runner.connection import Connection
from tasks.runner.distress import CondemnPipe
from tasks.runner.leases import Leases
from tasks.runner.recorder import Recorder
from tasks.runner.recovery import OUT_OF_MEMORY_LIMIT, Recovery
from tasks.runner.runner import JobRunner
from tasks.runtime import Runtime
from tests import simulator_process
from tests.fleet import work
from tests.ledger_moves import claimed, submit
from tests.simulator_process import SimulatorProcess
from tests.waiting import eventually

NAME = "gpu0@here"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with simulator_process.simulator(tmp_path_factory.mktemp("runner")) as running:
        yield running


@pytest.fixture
def runtime(sqlite_settings: Settings) -> Iterator[Runtime]:
    settings = sqlite_settings.model_copy(update={"lease_renew_s": 0.1, "host": "here", "look_ahead_s": 60.0})
    runtime = Runtime(settings, make_app(settings, "gpu"))
    yield runtime
    runtime.close()


@pytest.fixture
def ledger(runtime: Runtime) -> Ledger:
    return runtime.ledger


def come_up(ledger: Ledger, url: str = "http://127.0.0.1:1", *, kind: str = "simulator") -> InstanceRecord:
    ledger.instances.register(name=NAME, host="here", worker="w", kind=kind, gpu="0")
    ledger.instances.up(NAME, worker="w", url=url, output_dir=None, version="1", device="d", object_info={}, restarts=0)
    record = ledger.instances.get(NAME)
    assert record is not None
    return record


@pytest.fixture
def runner(runtime: Runtime, simulator: SimulatorProcess) -> Iterator[JobRunner]:
    come_up(runtime.ledger, simulator.base_url)
    runner = JobRunner(runtime, NAME, CondemnPipe(), worker="w")
    yield runner
    runner.close()


def job(ledger: Ledger, seconds: float, seed: int) -> str:
    graph = work(seconds, seed=seed)
    return submit(ledger, graph_text=json.dumps(graph), nodes_total=len(graph), shape="all alike").id


def held(ledger: Ledger, *job_ids: str) -> list[str]:
    """Which of these are claimed."""
    return [job_id for job_id in job_ids if ledger.jobs.get(job_id).status == RUNNING]


def on_deck(ledger: Ledger) -> int:
    with ledger.database.read() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM jobs WHERE on_deck").scalar_one())


@pytest.mark.parametrize(("part", "method"), [("_durations", "learn"), ("_node_times", "learn")])
def test_what_is_learned_from_a_job_holds_nobody_up(
    runner: JobRunner,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: str,
    method: str,
) -> None:
    def stumble(*_anything: object) -> None:
        raise AttributeError("nobody thought of this")

    monkeypatch.setattr(getattr(runner, part), method, stumble)
    job_id = job(ledger, 0.1, 40)
    working = threading.Thread(target=runner.work, args=(job_id,), daemon=True)
    working.start()
    working.join(20)

    assert not working.is_alive()
    assert ledger.jobs.get(job_id).status == DELIVERING
    assert eventually(lambda: "nobody thought of this" in caplog.text), "it is in the log"


class TestOnDeck:
    def test_one_prompt_waits_behind_the_running_one_and_no_more(self, runner: JobRunner, ledger: Ledger) -> None:
        taught = job(ledger, 0.2, 1)
        assert runner.work(taught) is not None, "how long such prompts take is known from here on"
        job_ids = [job(ledger, 1.5, seed) for seed in range(2, 7)]
        running = threading.Thread(target=runner.work, args=(job_ids[0],))
        running.start()
        assert eventually(lambda: on_deck(ledger) == 1)
        most, ends_at_s = 0, time.monotonic() + 1.0
        while time.monotonic() < ends_at_s:
            most = max(most, len(held(ledger, *job_ids)))
            time.sleep(0.02)
        assert most == 2
        running.join(20)

    def test_a_claim_that_was_under_way_at_the_end_is_given_back(
        self, runner: JobRunner, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = job(ledger, 5.0, 10)
        claim, claiming, may_claim = ledger.claims.claim, threading.Event(), threading.Event()

        def slow_claim(*arguments: Any, **options: Any) -> Claim | None:
            claiming.set()
            assert may_claim.wait(10)
            return claim(*arguments, **options)

        monkeypatch.setattr(ledger.claims, "claim", slow_claim)
        monkeypatch.setattr("core.ledger.scheduling.choice.idle_instances", lambda *_: [])
        ahead = threading.Thread(target=lambda: runner._begin(ahead=True))
        ahead.start()
        assert claiming.wait(10)
        closing = threading.Thread(target=runner.close)
        closing.start()
        may_claim.set()
        closing.join(20)
        ahead.join(20)
        assert ledger.jobs.get(job_id).status == QUEUED

    def test_nothing_is_claimed_after_the_end(self, runner: JobRunner, ledger: Ledger) -> None:
        job_id = job(ledger, 0.1, 20)
        runner._connection.get()
        runner.close()
        with pytest.raises(ComfyUnavailable):
            runner.work(job_id)
        assert ledger.jobs.get(job_id).status == QUEUED

    def test_whoever_was_about_to_claim_at_the_end_claims_nothing(
        self, runner: JobRunner, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id, connected = job(ledger, 0.1, 30), runner._connection.get()

        def closed_meanwhile() -> Any:
            runner.close()
            return connected

        monkeypatch.setattr(runner._connection, "get", closed_meanwhile)
        assert runner.work(job_id) is None
        found = ledger.jobs.get(job_id)
        assert (found.status, found.attempt) == (QUEUED, 0)


class TestConnection:
    @pytest.fixture
    def connection(self, runtime: Runtime) -> Iterator[Connection]:
        connection = Connection(runtime, NAME)
        yield connection
        connection.close()

    def test_an_instance_that_is_lost_meanwhile_is_never_half_there(
        self, connection: Connection, ledger: Ledger, simulator: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        come_up(ledger, simulator.base_url)
        connection.get()

        def lost_meanwhile(_session: ComfySession) -> bool:
            connection.lose()
            return True

        # Another thread loses it in the moment between the look at it and its use.
        monkeypatch.setattr(ComfySession, "is_connected", property(lost_meanwhile))
        instance, session = connection.get()
        assert instance.name == NAME
        assert session.client.base_url == simulator.base_url

    def test_one_that_is_not_healthy_is_not_used(
        self, connection: Connection, ledger: Ledger, simulator: SimulatorProcess
    ) -> None:
        come_up(ledger, simulator.base_url)
        connection.get()
        with ledger.database.write() as transaction:
            transaction.connection.execute(update(instances).values(state=UNHEALTHY))
        connection.lose()
        with pytest.raises(ComfyUnavailable, match="not healthy"):
            connection.get()

    def test_after_the_end_there_is_none(
        self, connection: Connection, ledger: Ledger, simulator: SimulatorProcess
    ) -> None:
        come_up(ledger, simulator.base_url)
        _, session = connection.get()
        connection.close()
        assert not session.is_connected
        with pytest.raises(ComfyUnavailable, match="ends"):
            connection.get()


class Handle:
    """A prompt that only notes that it was interrupted."""

    def __init__(self, error: Exception | None = None) -> None:
        self.interrupted = 0
        self._error = error

    def interrupt(self) -> None:
        self.interrupted += 1
        if self._error is not None:
            raise self._error


class TestLeases:
    @pytest.fixture
    def leases(self, ledger: Ledger) -> Iterator[Leases]:
        leases = Leases(ledger, renew_s=3600)
        yield leases
        leases.close()

    def held(self, leases: Leases, claim: Claim, error: Exception | None = None) -> Handle:
        handle = Handle(error)
        leases.hold(claim).watch(cast(PromptHandle, handle))
        return handle

    def test_a_job_that_is_to_be_cancelled_is_stopped_at_the_next_renewal(self, leases: Leases, ledger: Ledger) -> None:
        """The net under an interrupt that was lost on its way."""
        claims = [claimed(ledger, NAME), claimed(ledger, "gpu1@here")]
        handles = [self.held(leases, claim) for claim in claims]
        assert ledger.jobs.cancel(claims[0].job_id).status == CANCELING
        leases.renew()
        assert [handle.interrupted for handle in handles] == [1, 0]
        leases.renew()
        assert handles[0].interrupted == 2, "an interrupt can be missed"

    def test_a_job_that_was_taken_back_is_stopped(self, leases: Leases, ledger: Ledger) -> None:
        claim = claimed(ledger, NAME)
        handle = self.held(leases, claim)
        ledger.requeue.release(claim, reason="taken")
        leases.renew()
        assert handle.interrupted == 1

    @pytest.mark.parametrize("error", [ComfyUnavailable("away"), AttributeError("of ours")])
    def test_one_that_cannot_be_stopped_keeps_no_other(self, leases: Leases, ledger: Ledger, error: Exception) -> None:
        claims = [claimed(ledger, f"gpu{number}@here") for number in range(3)]
        handles = [self.held(leases, claim, error) for claim in claims]
        for claim in claims:
            ledger.jobs.cancel(claim.job_id)
        leases.renew()
        assert [handle.interrupted for handle in handles] == [1, 1, 1]

    def test_one_that_is_posted_after_it_was_stopped_is_stopped_then(self, leases: Leases, ledger: Ledger) -> None:
        claim = claimed(ledger, NAME)
        lease = leases.hold(claim)
        ledger.jobs.cancel(claim.job_id)
        leases.renew()
        handle = Handle()
        lease.watch(cast(PromptHandle, handle))
        assert handle.interrupted == 1

    def test_what_was_dropped_is_renewed_no_more(self, leases: Leases, ledger: Ledger) -> None:
        claim = claimed(ledger, NAME)
        handle = self.held(leases, claim)
        leases.drop(claim)
        ledger.requeue.release(claim, reason="taken")
        leases.renew()
        assert handle.interrupted == 0


class TestCare:
    @pytest.fixture
    def pipe(self) -> CondemnPipe:
        return CondemnPipe()

    @pytest.fixture
    def recovery(self, runtime: Runtime, pipe: CondemnPipe) -> Recovery:
        return Recovery(runtime, pipe)

    def test_prompts_out_of_memory_count_only_in_a_row(
        self, recovery: Recovery, ledger: Ledger, pipe: CondemnPipe
    ) -> None:
        instance = come_up(ledger)
        memory = ComfyOutOfMemory("CUDA out of memory")
        for _ in range(3):
            for _ in range(OUT_OF_MEMORY_LIMIT - 1):
                assert not recovery.after(memory, instance)
            recovery.is_well()
        for number in range(1, OUT_OF_MEMORY_LIMIT + 1):
            assert recovery.after(memory, instance) == (number == OUT_OF_MEMORY_LIMIT)
        found = ledger.instances.get(NAME)
        assert found is not None
        assert found.state == UNHEALTHY
        assert "out of memory" in os.read(pipe._reader, 1000).decode()
        assert not recovery.after(memory, instance), "the count begins anew with the next process"

    def test_a_prompt_that_hangs_costs_the_process_and_others_do_not(self, recovery: Recovery, ledger: Ledger) -> None:
        instance = come_up(ledger)
        assert not recovery.after(ComfyUnavailable("gone"), instance)
        assert ledger.instances.get(NAME) is not None
        assert recovery.after(PromptStuck("It hangs."), instance)


class TestJobRelease:
    @pytest.fixture
    def release(self, runtime: Runtime) -> JobRelease:
        return JobRelease(runtime.settings, NAME)

    def test_a_ledger_that_is_away_is_not_taken_for_a_busy_instance(
        self, release: JobRelease, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers: list[bool | None] = [None, None, None, False]

        def holds_jobs(_self: Any, _name: str) -> bool:
            answer = answers.pop(0)
            if answer is None:
                raise LedgerUnavailable("away")
            return answer

        monkeypatch.setattr("core.ledger.instances.Instances.holds_jobs", holds_jobs)
        assert release.wait_until_idle(0.1, threading.Event()), "though it was away for longer than the limit"

    def test_a_busy_instance_is_waited_for_as_long_as_was_said(self, release: JobRelease, ledger: Ledger) -> None:
        claim = claimed(ledger, NAME)
        assert not release.wait_until_idle(0.5, threading.Event())
        ledger.requeue.release(claim, reason="done")
        assert release.wait_until_idle(0.5, threading.Event())

    def test_waiting_can_be_called_off(self, release: JobRelease, ledger: Ledger) -> None:
        claimed(ledger, NAME)
        cancel = threading.Event()
        cancel.set()
        assert not release.wait_until_idle(3600, cancel)

    def test_what_waits_is_given_back_alone(
        self, release: JobRelease, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        running = claimed(ledger, NAME)
        submit(ledger)
        monkeypatch.setattr("core.ledger.scheduling.choice.idle_instances", lambda *_: [])
        waiting = ledger.claims.claim(NAME, ahead=True)
        assert waiting is not None
        interrupted: list[str] = []
        release.what_waits(interrupted.append)
        assert ledger.jobs.get(waiting.job_id).status == QUEUED
        assert ledger.jobs.get(running.job_id).status == RUNNING
        assert interrupted == [waiting.prompt_id]
        release.everything(interrupted.append)
        assert ledger.jobs.get(running.job_id).status == QUEUED

    def test_a_ledger_that_is_away_is_said(self, release: JobRelease, monkeypatch: pytest.MonkeyPatch) -> None:
        def release_all(*_arguments: Any, **_options: Any) -> None:
            raise LedgerUnavailable("away")

        monkeypatch.setattr("core.ledger.requeue.Requeue.release_all", release_all)
        with pytest.raises(LedgerUnavailable):
            release.what_waits(lambda _prompt_id: None)


class TestRecorder:
    def test_an_output_that_cannot_be_written_down_ends_its_job(self, postgres_settings: Settings) -> None:
        """Tried again, it would end likewise, and take up a GPU three times."""
        runtime = Runtime(postgres_settings, make_app(postgres_settings, "gpu"))
        instance = come_up(runtime.ledger)
        claim = claimed(runtime.ledger, NAME)
        result = PromptResult(
            prompt_id=claim.prompt_id,
            outputs=[],
            history=History(prompt_id=claim.prompt_id, status="success"),
            started_at_ms=1,
            finished_at_ms=2,
            cached_nodes=(),
        )
        sent = [("n" * 300, b"\x89PNG\r\n\x1a\n")]
        outcome = Recorder(runtime).record(claim, instance, lambda: result, sent, lambda: None)
        assert isinstance(outcome, Failed)
        job = runtime.ledger.jobs.get(claim.job_id)
        assert job.status == "failed"
        assert job.error is not None
        assert job.error.code == "invalid_request"
        runtime.close()
