"""One instance's runner: turns, the prompt on deck, what is given back at the end, and prompts that end badly."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from sqlalchemy import select

from core.clock import now_ms
from core.errors import (
    ComfyUnavailable,
    InputGone,
    LedgerUnavailable,
    PromptFailed,
    PromptRejected,
    PromptStuck,
    StorageUnavailable,
)
from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.database.tables import instances
from core.ledger.instances import UNHEALTHY
from core.records.job import (
    CANCELED,
    CANCELING,
    DELIVERING,
    FAILED,
    QUEUED,
    RUNNING,
    InputRef,
    prompt_id_of,
    second_prompt_id,
)
from tasks.runner import runner as runner_module
from tasks.runner.attempt_end import Dropped, Failed, Finished, Requeued
from tasks.runner.claimed import fetching as fetching_module
from tasks.runner.claimed import lineup as lineup_module
from tasks.runner.claimed import look_ahead as look_ahead_module
from tasks.runner.distress import CondemnPipe
from tasks.runner.runner import JobRunner
from tests.ledger_moves import set_columns, submit
from tests.makers import (
    GRAPH,
    NAME,
    WORKER,
    BrokerlessRuntime,
    FakeComfyUI,
    Prompt,
    Stopwatch,
    come_up,
    record_of,
    saved_file,
)
from tests.waiting import until

WAIT_S = 20.0
SHAPE = "all alike"
#: One of its nodes sends its pictures instead of saving them.
SENDS = {**GRAPH, "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}}


@pytest.fixture
def comfyui(monkeypatch: pytest.MonkeyPatch) -> FakeComfyUI:
    return FakeComfyUI(monkeypatch)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    for module in (runner_module, look_ahead_module, lineup_module):
        monkeypatch.setattr(module, "time", watch)
    return watch


@pytest.fixture
def runner(runtime: BrokerlessRuntime, comfyui: FakeComfyUI, watch: Stopwatch) -> Iterator[JobRunner]:
    """At a healthy instance; looks ahead when a prompt has 2 s to go."""
    runtime.settings = runtime.settings.model_copy(update={"look_ahead_s": 2.0, "lease_renew_s": 3600.0})
    come_up(runtime.ledger)
    pipe = CondemnPipe()
    runner = JobRunner(runtime, NAME, pipe, worker=WORKER)
    yield runner
    runner.close()
    for prompt in comfyui.prompts:
        if not prompt.is_over:
            prompt.fail(ComfyUnavailable("the test is over"))
    runner._threads.shutdown(wait=True)
    for descriptor in (pipe._reader, pipe._writer):
        os.close(descriptor)


def job(ledger: Ledger, **fields: Any) -> str:
    """A job with a graph of its own."""
    values: dict[str, Any] = {"graph_text": json.dumps(GRAPH), "nodes_total": 2, "shape": SHAPE}
    return submit(ledger, **{**values, **fields}).id


def turn(runner: JobRunner, job_id: str) -> Future[Any]:
    """Use one turn, as the task does, in a thread of its own."""
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(runner.work(job_id))
        except Exception as exc:  # noqa: BLE001 - the test looks at it
            future.set_exception(exc)

    threading.Thread(target=work, daemon=True).start()
    return future


def learn(runner: JobRunner, seconds: float) -> None:
    """Let it be known how long prompts take."""
    runner._durations.learn(SHAPE, seconds)


def status(ledger: Ledger, *job_ids: str) -> list[str]:
    return [ledger.jobs.get(job_id).status for job_id in job_ids]


def free_at_ms(ledger: Ledger) -> int:
    """When others expect the instance to be free."""
    with ledger.database.read() as connection:
        return int(connection.execute(select(instances.c.free_at_ms)).scalar_one())


class TestTurn:
    @pytest.mark.parametrize(("took_s", "is_told"), [(1.0, True), (45.4, True), (45.6, False)])
    def test_it_is_known_to_be_idle_when_it_ends_sooner_than_expected(
        self,
        runner: JobRunner,
        comfyui: FakeComfyUI,
        runtime: BrokerlessRuntime,
        watch: Stopwatch,
        took_s: float,
        is_told: bool,
    ) -> None:
        """Others would load its models, rather than leave a job to a GPU that they take for busy."""
        turned = turn(runner, job(runtime.ledger))
        prompt = comfyui.prompt(0)
        prompt.begin()
        watch.now_s += took_s
        prompt.end(outputs=[saved_file()])
        turned.result(WAIT_S)
        runner._threads.shutdown(wait=True)
        assert (free_at_ms(runtime.ledger) <= now_ms()) is is_told

    def test_it_runs_the_job_to_its_end(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        job_id = job(runtime.ledger, timeout_s=7.0)
        turned = turn(runner, job_id)
        prompt = comfyui.prompt(0)
        claim_prompt_id = runtime.ledger.jobs.get(job_id)
        assert prompt.posted["nodes_total"] == 2
        assert prompt.posted["extra_data"] is None
        prompt.begin()
        watch.now_s += 4.0
        prompt.end(outputs=[saved_file()])
        end = turned.result(WAIT_S)
        assert end == Finished(job_id=job_id, attempt=1, has_webhook=False)
        assert status(runtime.ledger, job_id) == [DELIVERING]
        assert prompt.timeout_s == 7.0
        assert runner._durations.expect(SHAPE) == 4.0
        assert runtime.published.sent == [], "the task's chain goes on by itself"
        assert runner._lineup.runs == []
        assert runner._leases._held == {}
        assert claim_prompt_id.status == RUNNING

    def test_without_a_limit_of_its_own_the_fleets_holds(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime
    ) -> None:
        turned = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).end(outputs=[saved_file()])
        turned.result(WAIT_S)
        assert comfyui.prompt(0).timeout_s == runtime.settings.job_timeout_s

    def test_nothing_to_run(self, runner: JobRunner) -> None:
        assert runner.work("nobody") is None
        assert runner.name == NAME

    def test_a_turn_for_an_instance_that_takes_no_jobs_is_somebody_elses(
        self, runner: JobRunner, runtime: BrokerlessRuntime
    ) -> None:
        runner._connection.get()
        job_id = job(runtime.ledger)
        runtime.ledger.instances.down(NAME, worker=WORKER, state="draining", reason="x")
        with pytest.raises(ComfyUnavailable, match="takes no jobs: it is drained"):
            runner.work(job_id)
        assert status(runtime.ledger, job_id) == [QUEUED]

    def test_one_that_is_not_there_claims_nothing(self, runner: JobRunner, runtime: BrokerlessRuntime) -> None:
        runtime.ledger.instances.down(NAME, worker=WORKER, state=UNHEALTHY, reason="x")
        with pytest.raises(ComfyUnavailable, match="not healthy"):
            runner.work(job(runtime.ledger))

    def test_a_worker_that_lost_its_name_claims_nothing(self, runner: JobRunner, runtime: BrokerlessRuntime) -> None:
        runner._connection.get()
        job_id = job(runtime.ledger)
        with runtime.ledger.database.write() as transaction:
            transaction.connection.exec_driver_sql("UPDATE instances SET worker = 'another'")
        assert runner.work(job_id) is None
        assert status(runtime.ledger, job_id) == [QUEUED]

    def test_the_ledger_learns_how_long_it_took(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime
    ) -> None:
        turned = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).node_seconds = {"1": 0.25}
        comfyui.prompt(0).end(outputs=[saved_file()])
        turned.result(WAIT_S)
        runner._threads.shutdown(wait=True)
        with runtime.ledger.database.read() as connection:
            learned = connection.exec_driver_sql("SELECT what, average_s FROM durations ORDER BY what").all()
        assert [tuple(row) for row in learned] == [("models:", 1.0), (f"shape:{SHAPE}", 1.0)]
        assert runner._node_times.expect(GRAPH, SHAPE).seconds["1"] == 0.25

    def test_a_prompt_that_waited_behind_others_is_said_to_begin_when_it_does(
        self,
        runner: JobRunner,
        comfyui: FakeComfyUI,
        runtime: BrokerlessRuntime,
        watch: Stopwatch,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        begun: list[str] = []
        monkeypatch.setattr(runtime.ledger.claims, "begun", lambda claim, **_: begun.append(claim.job_id))
        turns = []
        for waited_s in (0.99, 1.0):
            job_id = job(runtime.ledger)
            turns.append(turn(runner, job_id))
            prompt = comfyui.prompt(len(turns) - 1)
            watch.now_s += waited_s
            prompt.begin()
            prompt.progress()
            prompt.end(outputs=[saved_file()])
            turns[-1].result(WAIT_S)
        assert begun == [job_id]

    def test_a_ledger_that_is_not_told_so_ends_no_prompt(
        self,
        runner: JobRunner,
        comfyui: FakeComfyUI,
        runtime: BrokerlessRuntime,
        watch: Stopwatch,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def away(_claim: object, **_: object) -> None:
            raise LedgerUnavailable("away")

        monkeypatch.setattr(runtime.ledger.claims, "begun", away)
        turned = turn(runner, job(runtime.ledger))
        prompt = comfyui.prompt(0)
        watch.now_s += 5.0
        prompt.begin()
        prompt.end(outputs=[saved_file()])
        assert isinstance(turned.result(WAIT_S), Finished)


class TestOnDeck:
    @pytest.fixture
    def running(self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime) -> Prompt:
        """A prompt that runs for 10 s, with three more jobs waiting."""
        learn(runner, 10.0)
        self.jobs = [job(runtime.ledger) for _ in range(4)]
        for number, job_id in enumerate(self.jobs):
            set_columns(runtime.ledger, job_id, created_at_ms=number)
        self.turned = turn(runner, self.jobs[0])
        comfyui.prompt(0).begin()
        return comfyui.prompt(0)

    def test_one_waits_behind_the_running_one_and_no_more(
        self, running: Prompt, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        watch.now_s += 8.0
        for _ in range(5):
            running.progress()
        assert len(comfyui.prompts) == 2
        assert status(runtime.ledger, *self.jobs) == [RUNNING, RUNNING, QUEUED, QUEUED]

    def test_only_when_the_running_one_is_about_to_end(
        self, running: Prompt, comfyui: FakeComfyUI, watch: Stopwatch
    ) -> None:
        watch.now_s += 7.99
        running.progress()
        assert len(comfyui.prompts) == 1
        watch.now_s += 0.01
        running.progress()
        assert len(comfyui.prompts) == 2

    def test_the_one_on_deck_puts_none_there_before_it_begins(
        self, running: Prompt, comfyui: FakeComfyUI, watch: Stopwatch
    ) -> None:
        watch.now_s += 9.0
        running.progress()
        comfyui.prompt(1).progress()
        assert len(comfyui.prompts) == 2

    def test_when_it_begins_the_ledger_is_told_and_the_next_may_come(
        self, running: Prompt, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        watch.now_s += 9.0
        running.progress()
        assert on_deck(runtime.ledger) == [self.jobs[1]]
        running.end(outputs=[saved_file()])
        self.turned.result(WAIT_S)
        second = comfyui.prompt(1)
        second.begin()
        assert on_deck(runtime.ledger) == []
        assert len(comfyui.prompts) == 2
        watch.now_s += 9.0
        second.progress()
        assert len(comfyui.prompts) == 3

    def test_the_next_turn_takes_it_up(
        self, runner: JobRunner, running: Prompt, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        watch.now_s += 9.0
        running.progress()
        second = comfyui.prompt(1)
        taken_up = turn(runner, self.jobs[3])
        running.end(outputs=[saved_file()])
        self.turned.result(WAIT_S)
        second.end(outputs=[saved_file()])
        end = taken_up.result(WAIT_S)
        assert end.job_id == self.jobs[1], "and none is claimed for it"
        assert runtime.published.sent[0] == ("own_turn", self.jobs[1], NAME)

    def test_without_a_turn_it_is_recorded_and_moves_on_all_the_same(
        self, runner: JobRunner, running: Prompt, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        watch.now_s += 9.0
        running.progress()
        comfyui.prompt(1).end(outputs=[saved_file()])
        running.end(outputs=[saved_file()])
        self.turned.result(WAIT_S)
        runner._threads.shutdown(wait=True)
        assert status(runtime.ledger, self.jobs[1]) == [DELIVERING]
        assert ("store", self.jobs[1], 1, "here") in runtime.published.sent

    def test_not_while_an_idle_instance_could_start_it(
        self, running: Prompt, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        for number in range(1, 4):
            come_up(runtime.ledger, f"gpu{number}@here")
        watch.now_s += 9.0
        running.progress()
        assert len(comfyui.prompts) == 1

    def test_not_where_nothing_waits(
        self, running: Prompt, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        for job_id in self.jobs[1:]:
            runtime.ledger.jobs.cancel(job_id)
        watch.now_s += 9.0
        running.progress()
        assert len(comfyui.prompts) == 1

    def test_not_after_the_end(
        self, runner: JobRunner, running: Prompt, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        runner.close()
        watch.now_s += 9.0
        running.progress()
        assert len(comfyui.prompts) == 1
        assert status(runtime.ledger, self.jobs[1]) == [QUEUED]

    def test_looking_ahead_may_fail(
        self,
        running: Prompt,
        comfyui: FakeComfyUI,
        runtime: BrokerlessRuntime,
        watch: Stopwatch,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def away() -> bool:
            raise LedgerUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(runtime.ledger.claims, "anything_waits", away)
            watch.now_s += 9.0
            running.progress()
        assert len(comfyui.prompts) == 1
        watch.now_s += 2 * look_ahead_module.LOOK_EVERY_S
        running.progress()
        comfyui.prompt(1)

    def test_one_that_cannot_be_posted_moves_on_at_once(
        self, running: Prompt, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        comfyui.refusals = [PromptRejected("no")]
        watch.now_s += 9.0
        running.progress()
        assert status(runtime.ledger, self.jobs[1]) == [FAILED]

    def test_the_end_gives_it_back_and_leaves_the_running_one(
        self, runner: JobRunner, running: Prompt, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        watch.now_s += 9.0
        running.progress()
        runner.close()
        assert status(runtime.ledger, *self.jobs[:2]) == [RUNNING, QUEUED]
        assert runtime.ledger.jobs.get(self.jobs[1]).losses == ()
        assert [prompt.interrupted for prompt in comfyui.prompts] == [0, 1]
        assert runtime.published.sent[-1:] == [("turn", self.jobs[1])]
        assert not comfyui.sessions[0].is_connected
        assert runner._leases._loop.is_ending


def on_deck(ledger: Ledger) -> list[str]:
    with ledger.database.read() as connection:
        return list(connection.exec_driver_sql("SELECT id FROM jobs WHERE on_deck").scalars())


class TestNotAhead:
    def test_of_an_unknown_shape(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        turn(runner, job(runtime.ledger))
        job(runtime.ledger)
        comfyui.prompt(0).begin()
        comfyui.prompt(0).progress()
        assert len(comfyui.prompts) == 1

    def test_behind_one_that_names_its_files_itself(
        self,
        runner: JobRunner,
        comfyui: FakeComfyUI,
        runtime: BrokerlessRuntime,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        learn(runner, 1.0)
        monkeypatch.setattr(runner_module, "names_own_files", lambda _graph: True)
        turn(runner, job(runtime.ledger))
        job(runtime.ledger)
        comfyui.prompt(0).begin()
        assert len(comfyui.prompts) == 1


class TestBadEnds:
    def test_a_node_that_raises(self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime) -> None:
        job_id = job(runtime.ledger)
        folder = runtime.settings.gpu_dir("gpu0") / "output" / job_id
        folder.mkdir(parents=True)
        turned = turn(runner, job_id)
        comfyui.prompt(0).fail(PromptFailed("boom"))
        assert isinstance(turned.result(WAIT_S), Failed)
        assert status(runtime.ledger, job_id) == [FAILED]
        runner._threads.shutdown(wait=True)
        assert not folder.exists(), "what it left goes"
        assert runner._durations.expect(SHAPE) is None
        assert runner._lineup.runs == []

    def test_what_a_job_made_stays_if_it_goes_on(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        removed: list[str] = []
        monkeypatch.setattr(runner._recovery, "remove_files", lambda _instance, job_id: removed.append(job_id))
        ends: list[Callable[[Prompt], None]] = [
            lambda prompt: prompt.end(outputs=[saved_file()]),
            lambda prompt: prompt.fail(ComfyUnavailable("gone")),
        ]
        for number, end in enumerate(ends):
            turned = turn(runner, job(runtime.ledger))
            end(comfyui.prompt(number))
            assert isinstance(turned.result(WAIT_S), (Finished, Requeued))
        assert removed == []

    def test_a_graph_that_is_refused(self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime) -> None:
        comfyui.refusals = [PromptRejected("no")]
        job_id = job(runtime.ledger)
        assert isinstance(runner.work(job_id), Failed)
        assert status(runtime.ledger, job_id) == [FAILED]
        assert runner._lineup.runs == []
        assert runner._leases._held == {}

    def test_one_that_hangs_costs_the_instance(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime
    ) -> None:
        turned = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).fail(PromptStuck("It hangs."))
        assert isinstance(turned.result(WAIT_S), Requeued)
        assert record_of(runtime.ledger).state == UNHEALTHY
        assert comfyui.prompt(0).interrupted == 0, "its process is ended"
        with pytest.raises(ComfyUnavailable):
            runner.work(job(runtime.ledger))

    @pytest.mark.parametrize("answers", [True, False])
    def test_elsewhere_it_is_interrupted(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, answers: bool
    ) -> None:
        come_up(runtime.ledger, kind="attached")
        turned = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).interrupt_error = None if answers else ComfyUnavailable("away")
        comfyui.prompt(0).fail(PromptStuck("It hangs."))
        assert isinstance(turned.result(WAIT_S), Requeued)
        assert comfyui.prompt(0).interrupted == 1

    def test_one_that_only_failed_costs_nothing(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime
    ) -> None:
        come_up(runtime.ledger, kind="attached")
        turned = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).fail(PromptFailed("boom"))
        turned.result(WAIT_S)
        assert comfyui.prompt(0).interrupted == 0
        assert len(comfyui.sessions) == 1

    def test_a_cancelled_job_is_interrupted_at_the_next_renewal(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime
    ) -> None:
        job_id = job(runtime.ledger)
        turned = turn(runner, job_id)
        prompt = comfyui.prompt(0)
        prompt.begin()
        runtime.ledger.jobs.cancel(job_id)
        assert status(runtime.ledger, job_id) == [CANCELING]
        runner._leases.renew()
        assert prompt.interrupted == 1
        prompt.fail(PromptFailed("interrupted"))
        assert isinstance(turned.result(WAIT_S), Dropped)
        assert status(runtime.ledger, job_id) == [CANCELED]

    def test_a_prompt_that_ran_whole_ends_the_count_of_those_out_of_memory(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime
    ) -> None:
        runner._recovery._out_of_memory = 2
        turned = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).end(outputs=[saved_file()])
        turned.result(WAIT_S)
        assert runner._recovery._out_of_memory == 0

    def test_a_fault_of_ours_holds_no_gpu(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stumble(_graph: object) -> str:
            raise AttributeError("of ours")

        job_id = job(runtime.ledger, shape=None)
        with monkeypatch.context() as patch:
            patch.setattr(runner_module, "shape_of", stumble)
            with pytest.raises(AttributeError):
                runner.work(job_id)
        assert runner._lineup.runs == []
        assert runner._leases._held == {}, "its lease lapses, and the reconciler finds it"

    def test_one_of_ours_while_it_is_recorded(
        self,
        runner: JobRunner,
        comfyui: FakeComfyUI,
        runtime: BrokerlessRuntime,
    ) -> None:
        turned = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).fail(AttributeError("of ours"))
        with pytest.raises(AttributeError):
            turned.result(WAIT_S)
        assert runner._lineup.runs == []
        assert runner._leases._held == {}

    @pytest.mark.parametrize("part", ["_durations", "_node_times"])
    def test_what_is_learned_holds_nobody_up(
        self,
        runner: JobRunner,
        comfyui: FakeComfyUI,
        runtime: BrokerlessRuntime,
        monkeypatch: pytest.MonkeyPatch,
        part: str,
    ) -> None:
        def stumble(*_anything: object) -> None:
            raise AttributeError("nobody thought of this")

        monkeypatch.setattr(getattr(runner, part), "learn", stumble)
        turned = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).begin()
        comfyui.prompt(0).end(outputs=[saved_file()])
        assert isinstance(turned.result(WAIT_S), Finished)


class TestInputs:
    def test_they_are_brought_and_removed(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moves: list[str] = []
        monkeypatch.setattr(fetching_module, "stage_inputs", lambda *_arguments: moves.append("in"))
        monkeypatch.setattr(runner_module, "remove_staged", lambda *_arguments: moves.append("out"))
        turned = turn(runner, job(runtime.ledger, inputs=(InputRef(name="a.png", key="k"),)))
        comfyui.prompt(0).end(outputs=[saved_file()])
        turned.result(WAIT_S)
        runner._threads.shutdown(wait=True)
        assert moves == ["in", "out"]

    def test_a_job_without_any_leaves_none(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        removed: list[str] = []
        monkeypatch.setattr(runner_module, "remove_staged", lambda *_arguments: removed.append("out"))
        turned = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).end(outputs=[saved_file()])
        turned.result(WAIT_S)
        assert removed == []

    @pytest.mark.parametrize("is_away", [True, False])
    def test_what_is_not_in_storage_is_gone_only_if_the_storage_is_there(
        self, runner: JobRunner, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch, is_away: bool
    ) -> None:
        if is_away:
            monkeypatch.setattr(runtime.storage, "problem", lambda: "It is not mounted.")
        job_id = job(runtime.ledger, inputs=(InputRef(name="a.png", key="k/none"),))
        end = runner.work(job_id)
        assert isinstance(end, Requeued if is_away else Failed)
        if not is_away:
            error = runtime.ledger.jobs.get(job_id).error
            assert error is not None
            assert error.code == InputGone.code


class Files:
    """Takes the place of what brings input files: the test says when those of a job are there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        #: The jobs whose files are fetched, and what lets each go on.
        self.begun: list[str] = []
        self.removed: list[str] = []
        self._gates: dict[str, Future[None]] = {}
        self._is_over = False
        self._changed = threading.Condition()
        monkeypatch.setattr(fetching_module, "stage_inputs", self._bring)
        monkeypatch.setattr(runner_module, "remove_staged", lambda claim, *_: self.removed.append(claim.job_id))

    def wait_for(self, *job_ids: str) -> None:
        """Until the files of these jobs, and no others, are or were on their way."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: sorted(self.begun) == sorted(job_ids), WAIT_S)
        assert arrived, self.begun

    def come(self, job_id: str) -> None:
        self._gates[job_id].set_result(None)

    def fail(self, job_id: str, error: Exception) -> None:
        self._gates[job_id].set_exception(error)

    def end(self) -> None:
        """Let nobody wait any more."""
        self._is_over = True
        for gate in self._gates.values():
            if not gate.done():
                gate.set_exception(InputGone("the test is over"))

    def _bring(self, claim: Claim, *_arguments: object) -> None:
        with self._changed:
            gate = self._gates[claim.job_id] = Future()
            if self._is_over:
                gate.set_exception(InputGone("the test is over"))
            self.begun.append(claim.job_id)
            self._changed.notify_all()
        # The end of the test lets all of them go on.
        gate.result(10 * WAIT_S)


def ended(ledger: Ledger, job_id: str, *wanted: str) -> None:
    until(lambda: ledger.jobs.get(job_id).status in wanted, what=f"{wanted} of {job_id}", timeout_s=WAIT_S)


class TestSlowInputs:
    """Files that take a while: a GPU has other work meanwhile, and jobs are claimed in time."""

    INPUTS = (InputRef(name="a.png", key="k"),)

    @pytest.fixture
    def files(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
        files = Files(monkeypatch)
        yield files
        files.end()

    def jobs(self, ledger: Ledger, *with_files: bool) -> list[str]:
        """Jobs in this order."""
        job_ids = [job(ledger, inputs=self.INPUTS if has else ()) for has in with_files]
        for number, job_id in enumerate(job_ids):
            set_columns(ledger, job_id, created_at_ms=number)
        return job_ids

    def slow(self, runner: JobRunner, seconds: float = 2.0) -> None:
        """Let it be known how long files take."""
        runner._lineup._leads.learn(seconds)

    def on_their_way(
        self, runner: JobRunner, ledger: Ledger, files: Files, count: int
    ) -> tuple[Future[Any], list[str]]:
        """A turn, and so many jobs whose files are being fetched, for it is known that these take two seconds."""
        learn(runner, 1.0)
        self.slow(runner)
        job_ids = self.jobs(ledger, *[True] * count)
        turned = turn(runner, job_ids[0])
        files.wait_for(*job_ids)
        return turned, job_ids

    def test_the_gpu_goes_on_with_jobs_that_need_none(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files, watch: Stopwatch
    ) -> None:
        """Nothing runs, nothing is known, and the first job's files do not come."""
        first, second = self.jobs(runtime.ledger, True, False)
        turned = turn(runner, first)
        files.wait_for(first)
        assert comfyui.prompts == []
        watch.now_s += 1.1
        other = comfyui.prompt(0)
        assert other.prompt_id == prompt_id_of(second, 1)
        other.begin()
        other.end(outputs=[saved_file()])
        ended(runtime.ledger, second, DELIVERING)
        files.come(first)
        comfyui.prompt(1).begin()
        comfyui.prompt(1).end(outputs=[saved_file()])
        assert turned.result(WAIT_S) == Finished(job_id=first, attempt=1, has_webhook=False)

    def test_so_many_are_fetched_that_the_gpu_has_work_when_they_come(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files
    ) -> None:
        learn(runner, 1.0)
        self.slow(runner)
        job_ids = self.jobs(runtime.ledger, *[True] * 8)
        turn(runner, job_ids[0])
        # Four seconds of work: two that files take, and two to spare.
        files.wait_for(*job_ids[:5])
        until(lambda: not runner._look_ahead._is_filling, what="the end of looking", timeout_s=WAIT_S)
        assert status(runtime.ledger, *job_ids[4:6]) == [RUNNING, QUEUED]
        assert sorted(on_deck(runtime.ledger)) == sorted(job_ids[1:5])

    def test_those_that_are_there_are_posted_one_behind_the_other(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files
    ) -> None:
        _, job_ids = self.on_their_way(runner, runtime.ledger, files, 4)
        for job_id in (job_ids[2], job_ids[1], job_ids[3]):
            files.come(job_id)
            until(lambda: any(run.is_ready for run in runner._lineup.runs), what="it", timeout_s=WAIT_S)
        third = comfyui.prompt(0)
        assert third.prompt_id == prompt_id_of(job_ids[2], 1)
        until(lambda: sum(run.is_ready for run in runner._lineup.runs) == 3, what="all", timeout_s=WAIT_S)
        assert len(comfyui.prompts) == 1, "one waits in ComfyUI at most"
        third.begin()
        assert comfyui.prompt(1).prompt_id == prompt_id_of(job_ids[1], 1), "the oldest that is there"
        third.end(outputs=[saved_file()])
        ended(runtime.ledger, job_ids[2], DELIVERING)
        assert len(comfyui.prompts) == 2

    def test_none_is_posted_behind_one_that_names_its_files_itself(
        self,
        runner: JobRunner,
        comfyui: FakeComfyUI,
        runtime: BrokerlessRuntime,
        files: Files,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(runner_module, "names_own_files", lambda _graph: True)
        _, (first, second) = self.on_their_way(runner, runtime.ledger, files, 2)
        files.come(first)
        comfyui.prompt(0).begin()
        files.come(second)
        until(lambda: runner._lineup.runs[-1].is_ready, what="the second", timeout_s=WAIT_S)
        comfyui.prompt(0).progress()
        assert len(comfyui.prompts) == 1
        comfyui.prompt(0).end(outputs=[saved_file()])
        assert comfyui.prompt(1).prompt_id == prompt_id_of(second, 1)

    def test_one_whose_files_are_gone_ends_and_the_next_begins(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files
    ) -> None:
        first, second = self.jobs(runtime.ledger, True, False)
        turned = turn(runner, first)
        files.wait_for(first)
        files.fail(first, InputGone("gone"))
        assert isinstance(turned.result(WAIT_S), Failed)
        assert comfyui.prompt(0).prompt_id == prompt_id_of(second, 1)

    def test_after_a_fault_of_storage_nothing_is_claimed_ahead_for_a_while(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files
    ) -> None:
        turned, (first, second) = self.on_their_way(runner, runtime.ledger, files, 2)
        files.fail(second, StorageUnavailable("away"))
        until(lambda: runner._fetching.rests, what="the fault", timeout_s=WAIT_S)
        ended(runtime.ledger, second, QUEUED)
        files.come(first)
        comfyui.prompt(0).begin()
        comfyui.prompt(0).progress()
        assert not runner._look_ahead.wants_more()
        assert files.begun == [first, second]
        comfyui.prompt(0).end(outputs=[saved_file()])
        assert isinstance(turned.result(WAIT_S), Finished)

    def test_a_cancelled_one_ends_before_its_files_are_there(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files
    ) -> None:
        (job_id,) = self.jobs(runtime.ledger, True)
        turned = turn(runner, job_id)
        files.wait_for(job_id)
        runtime.ledger.jobs.cancel(job_id)
        runner._leases.renew()
        assert isinstance(turned.result(WAIT_S), Dropped)
        assert status(runtime.ledger, job_id) == [CANCELED]
        until(lambda: files.removed == [job_id], what="what is there to go", timeout_s=WAIT_S)
        files.come(job_id)
        until(lambda: files.removed == [job_id, job_id], what="what came late to go", timeout_s=WAIT_S)
        assert comfyui.prompts == []
        assert runner._lineup.runs == []

    def test_one_that_is_anothers_by_now_is_not_posted(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files, watch: Stopwatch
    ) -> None:
        (job_id,) = self.jobs(runtime.ledger, True)
        turned = turn(runner, job_id)
        files.wait_for(job_id)
        watch.now_s += 60.0
        runtime.ledger.requeue.release_all(NAME, reason="drained")
        files.come(job_id)
        assert isinstance(turned.result(WAIT_S), Dropped)
        assert comfyui.prompts == []
        assert status(runtime.ledger, job_id) == [QUEUED]

    def test_the_loss_of_its_instance_meanwhile_is_not_its_own(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files
    ) -> None:
        (job_id,) = self.jobs(runtime.ledger, True)
        turned = turn(runner, job_id)
        files.wait_for(job_id)
        runtime.ledger.instances.down(NAME, worker=WORKER, state=UNHEALTHY, reason="It hangs.")
        runner._connection.lose()
        files.come(job_id)
        assert isinstance(turned.result(WAIT_S), Requeued)
        assert status(runtime.ledger, job_id) == [QUEUED]
        assert runtime.ledger.jobs.get(job_id).losses == ()
        assert comfyui.prompts == []

    def test_the_end_gives_back_what_is_on_its_way(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files
    ) -> None:
        turned, (first, second) = self.on_their_way(runner, runtime.ledger, files, 2)
        runner.close()
        assert status(runtime.ledger, first, second) == [RUNNING, QUEUED]
        until(lambda: len(runner._lineup.runs) == 1, what="the end of it", timeout_s=WAIT_S)
        files.come(second)
        files.fail(first, ComfyUnavailable("the test is over"))
        assert isinstance(turned.result(WAIT_S), Requeued)
        assert comfyui.prompts == []

    def test_a_fault_of_ours_keeps_no_other_from_its_turn(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files
    ) -> None:
        turned, (first, second) = self.on_their_way(runner, runtime.ledger, files, 2)
        files.come(first)
        posted = comfyui.prompt(0)
        files.come(second)
        until(lambda: runner._lineup.runs[-1].is_ready, what="the second", timeout_s=WAIT_S)
        posted.fail(AttributeError("of ours"))
        with pytest.raises(AttributeError):
            turned.result(WAIT_S)
        assert comfyui.prompt(1).prompt_id == prompt_id_of(second, 1)
        assert [run.claim.job_id for run in runner._lineup.runs] == [second]

    def test_nor_does_one_while_files_are_brought(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files
    ) -> None:
        (job_id,) = self.jobs(runtime.ledger, True)
        turned = turn(runner, job_id)
        files.wait_for(job_id)
        files.fail(job_id, AttributeError("of ours"))
        with pytest.raises(AttributeError):
            turned.result(WAIT_S)
        assert runner._lineup.runs == []
        assert runner._leases._held == {}, "its lease lapses, and the reconciler finds it"
        until(lambda: files.removed == [job_id], what="what has come to go", timeout_s=WAIT_S)
        assert comfyui.prompts == []

    def test_the_ledger_is_told_when_it_begins_and_what_is_behind_it(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, files: Files, watch: Stopwatch
    ) -> None:
        _, (first, *_behind) = self.on_their_way(runner, runtime.ledger, files, 3)
        files.come(first)
        prompt, claimed_ms = comfyui.prompt(0), runtime.ledger.jobs.get(first).started_at_ms
        watch.now_s += 5.0
        prompt.begin()
        record = runtime.ledger.jobs.get(first)
        assert (record.started_at_ms or 0) > (claimed_ms or 0)
        # Its own run, which is what the fleet takes an unknown job for, and a second for each of the others.
        run_ms = 1000 * runner._lineup.runs[0].claim.run_s
        assert free_at_ms(runtime.ledger) == (record.started_at_ms or 0) + run_ms + 2000


class TestCache:
    """What the cache spared although it is needed runs again, once."""

    def test_files_that_are_gone_run_again(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, watch: Stopwatch
    ) -> None:
        come_up(runtime.ledger, kind="attached")
        turned = turn(runner, job(runtime.ledger))
        first = comfyui.prompt(0)
        first.end(outputs=[saved_file()], cached_nodes=("1", "2"))
        again = comfyui.prompt(1)
        assert again.prompt_id == second_prompt_id(first.prompt_id)
        again.end(outputs=[saved_file()])
        assert isinstance(turned.result(WAIT_S), Finished)
        runner._threads.shutdown(wait=True)
        with runtime.ledger.database.read() as connection:
            assert connection.exec_driver_sql("SELECT * FROM durations").all() == [], (
                "of two prompts nothing is learned"
            )

    def test_files_that_are_there_do_not(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime
    ) -> None:
        come_up(runtime.ledger, kind="attached")
        turned = turn(runner, job(runtime.ledger))
        prompt = comfyui.prompt(0)
        comfyui.sessions[0].client.has_files.add("picture_00001_.png")
        prompt.end(outputs=[saved_file()], cached_nodes=("1", "2"))
        assert isinstance(turned.result(WAIT_S), Finished)
        assert len(comfyui.prompts) == 1

    def test_it_waits_for_what_an_earlier_prompt_secures(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waited: list[float] = []
        monkeypatch.setattr(threading.Event, "wait", _noting(waited, threading.Event.wait))
        first = turn(runner, job(runtime.ledger))
        comfyui.prompt(0).begin()
        second = turn(runner, job(runtime.ledger))
        comfyui.prompt(1).end(outputs=[saved_file()], cached_nodes=("1",))
        while 5.0 not in waited:
            threading.Event().wait(0.001)
        comfyui.prompt(0).end(outputs=[saved_file()])
        assert isinstance(second.result(WAIT_S), Finished)
        assert isinstance(first.result(WAIT_S), Finished)
        assert waited.count(5.0) == 1, "for the earlier one, and not for itself"


def _noting(waited: list[float], wait: Callable[..., bool]) -> Callable[..., bool]:
    def noted(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout == 5.0:
            waited.append(timeout)
        return wait(event, timeout)

    return noted


class TestSentPictures:
    @pytest.mark.parametrize(
        ("arrived", "in_part", "is_lost"), [(False, True, True), (True, True, False), (False, False, False)]
    )
    def test_those_that_were_lost_with_the_websocket_run_again(
        self,
        runner: JobRunner,
        comfyui: FakeComfyUI,
        runtime: BrokerlessRuntime,
        arrived: bool,
        in_part: bool,
        is_lost: bool,
    ) -> None:
        turned = turn(runner, job(runtime.ledger, graph_text=json.dumps(SENDS)))
        prompt = comfyui.prompt(0)
        if arrived:
            prompt.preview("3", b"\x89PNG\r\n\x1a\n")
        prompt.end(outputs=[saved_file()], is_heard_in_part=in_part)
        assert isinstance(turned.result(WAIT_S), Requeued if is_lost else Finished)


class TestClosing:
    def test_a_claim_that_was_under_way_is_given_back(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = job(runtime.ledger)
        claim, claiming, may_claim = runtime.ledger.claims.claim, threading.Event(), threading.Event()

        def slow_claim(*arguments: Any, **options: Any) -> Any:
            claiming.set()
            assert may_claim.wait(WAIT_S)
            return claim(*arguments, **options)

        monkeypatch.setattr(runtime.ledger.claims, "claim", slow_claim)
        monkeypatch.setattr("core.ledger.scheduling.choice.idle_instances", lambda *_: [])
        ahead = threading.Thread(target=lambda: runner._begin(ahead=True))
        ahead.start()
        assert claiming.wait(WAIT_S)
        closing = threading.Thread(target=runner.close)
        closing.start()
        may_claim.set()
        closing.join(WAIT_S)
        ahead.join(WAIT_S)
        assert status(runtime.ledger, job_id) == [QUEUED]

    def test_whoever_was_about_to_claim_claims_nothing(
        self, runner: JobRunner, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id, connected = job(runtime.ledger), runner._connection.get()

        def closed_meanwhile() -> Any:
            runner.close()
            return connected

        monkeypatch.setattr(runner._connection, "get", closed_meanwhile)
        assert runner.work(job_id) is None
        found = runtime.ledger.jobs.get(job_id)
        assert (found.status, found.attempt) == (QUEUED, 0)

    def test_one_that_cannot_be_given_back_keeps_no_other(
        self, runner: JobRunner, comfyui: FakeComfyUI, runtime: BrokerlessRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("core.ledger.scheduling.choice.idle_instances", lambda *_: [])
        jobs = [job(runtime.ledger) for _ in range(2)]
        for _ in jobs:
            run = runner._begin(ahead=True)
            assert run is not None
            run.started_s = 1.0
        release, errors = runtime.ledger.requeue.release, [AttributeError("of ours")]

        def stumble(*arguments: Any, **options: Any) -> Any:
            if errors:
                raise errors.pop()
            return release(*arguments, **options)

        monkeypatch.setattr(runtime.ledger.requeue, "release", stumble)
        runner.close()
        assert sorted(status(runtime.ledger, *jobs)) == [QUEUED, RUNNING]
