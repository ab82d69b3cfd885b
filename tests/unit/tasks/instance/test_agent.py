"""The main process of a GPU worker: what it has done about its instance, in which order, and what the ledger shows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from comfy.liveness.muteness import MuteLimits
from comfy.process.spec import InstanceSpec
from comfy.process.supervisor import InstanceUnfit
from core.errors import ComfyUnavailable, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.instances import DISK_FULL, DRAINED, HEALTHY, QUARANTINED, STARTING, STOPPED, UNHEALTHY, Instances
from core.settings import Settings
from tasks.instance import agent as agent_module
from tasks.instance.admission import MUTE
from tasks.instance.agent import LEAVE_S, InstanceAgent
from tasks.instance.probe import InstanceInfo
from tasks.instance.reporting import StateReporter
from tasks.instance.tenure import Tenure
from tests.makers import NAME, BrokerlessRuntime, record_of

URL = "http://127.0.0.1:8188"
INFO = InstanceInfo(version="0.3.64", device="cuda:0 NVIDIA L4", object_info={"KSampler": {}})


class Stopping:
    """The agent's wish to end; whoever waits for it is told at once whether it came."""

    def __init__(self) -> None:
        self.waited_s: list[float] = []
        #: What the next waits say.
        self.answers: list[bool] = []
        self._is_set = False

    def wait(self, timeout: float) -> bool:
        self.waited_s.append(timeout)
        return self.answers.pop(0) if self.answers else self._is_set

    def set(self) -> None:
        self._is_set = True

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set


class World:
    """Everything around an agent but the ledger: what was asked of it, in order, and what it answers."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        #: What was done, as `name` or `name argument`.
        self.done: list[str] = []
        self.callbacks: dict[str, Any] = {}
        self.hear: Callable[[str], None] = lambda _reason: None
        self.beat: Callable[[], None] = lambda: None
        self.pause_s = 0.0
        #: Work for threads, by name, until `work` does it.
        self.background: list[tuple[str, Callable[[], None]]] = []
        #: How often a first turn was to be published.
        self.first_turns = 0
        self.stopping = Stopping()
        self.instance = SimpleNamespace(base_url=URL, is_attached=False, output_dir=Path("/gpu0/output"))
        self.is_idle = True
        self.info: InstanceInfo | Exception = INFO
        self.warmup: float | Exception | None = 2.5
        #: Model files that the warm-up has loaded, until they are recorded.
        self.loaded: tuple[str, ...] = ("a.sft",)
        #: Of its files, those that are not fetched yet; after a warm-up that failed, and before it.
        self.missing: list[str] = []
        self.lacking: list[str] = []
        self.disk: str | Exception | None = None
        self.storage: str | Exception | None = None
        #: Prompts that ComfyUI runs.
        self.running: set[str] | Exception = set()
        self.interrupt_error: Exception | None = None
        #: What giving jobs back raises.
        self.release_error: Exception | None = None
        #: The ledger's state of the instance whenever jobs were given back.
        self.shown: list[str] = []
        self.clients: list[FakeClient] = []
        self.wanted: list[str] | None = None

    def note(self, what: str, *more: object) -> None:
        self.done.append(" ".join((what, *(str(part) for part in more))))

    def note_all(self, prefix: str, *names: str) -> SimpleNamespace:
        """An object whose methods are noted."""
        return SimpleNamespace(
            **{name: (lambda *more, name=name: self.note(f"{prefix}.{name}", *more)) for name in names}
        )

    def work(self) -> None:
        """Do what threads of their own would."""
        while self.background:
            self.background.pop(0)[1]()

    def in_background(self, name: str, work: Callable[[], None]) -> None:
        if name == "first-turn":
            self.first_turns += 1
        else:
            self.background.append((name, work))

    def supervisor(self, _instance: object, **options: Any) -> SimpleNamespace:
        self.callbacks = options
        made = self.note_all("supervisor", "start", "stop", "replace", "restart", "release")
        made.restarts = 3
        return made

    def loop(self, name: str, step: Callable[[], None], *, pause_s: float) -> SimpleNamespace:
        self.beat, self.pause_s = step, pause_s
        return self.note_all(name, "start", "wake", "end")

    def pipe(self) -> SimpleNamespace:
        def listen(hear: Callable[[str], None]) -> None:
            self.hear = hear
            self.note("listen")

        return SimpleNamespace(listen=listen)

    def warm_up(self, *_arguments: object) -> SimpleNamespace:
        made = self.note_all("warmup", "call_off")
        made.run = lambda _base_url: value_of(self.warmup)
        made.loaded, made.files = self.loaded, self.loaded

        def is_recorded() -> None:
            made.loaded = ()

        made.is_recorded = is_recorded
        return made

    def housekeeper(self, *_arguments: object) -> SimpleNamespace:
        def keep(wanted: Callable[[], list[str]]) -> None:
            self.wanted = wanted()
            self.note("keep house")

        return SimpleNamespace(disk_problem=lambda: value_of(self.disk), keep=keep)

    def catalogue(self, _name: str, **_options: object) -> SimpleNamespace:
        return self.note_all("catalogue", "start", "end", "watch", "forget", "look_again")

    def models(self, _settings: Settings, **_options: object) -> SimpleNamespace:
        made = self.note_all("models", "start", "end", "wake")
        made.missing = lambda names: [name for name in self.missing if name in names]
        made.lacking = lambda names: [name for name in self.lacking if name in names]
        return made

    def release(self, _settings: Settings, name: str) -> SimpleNamespace:
        def give_back(what: str) -> Callable[..., None]:
            def act(interrupt: Callable[[str], None] | None = None) -> None:
                self.note(f"release.{what}")
                self.shown += [record.state for record in [self.ledger.instances.get(name)] if record is not None]
                if self.release_error is not None:
                    raise self.release_error
                if interrupt is not None:
                    interrupt(f"prompt of {what}")

            return act

        def wait_until_idle(seconds: float, _stopping: object) -> bool:
            self.note("wait", seconds)
            return self.is_idle

        names = ("what_waits", "everything", "of_dead_process")
        return SimpleNamespace(wait_until_idle=wait_until_idle, **{name: give_back(name) for name in names})

    def client(self, base_url: str, *, read_timeout_s: float = 0.0) -> FakeClient:
        self.clients.append(FakeClient(self, base_url, read_timeout_s))
        return self.clients[-1]


class FakeClient:
    def __init__(self, world: World, base_url: str, read_timeout_s: float) -> None:
        self._world = world
        self.base_url, self.read_timeout_s = base_url, read_timeout_s
        self.interrupted: list[str] = []
        self.is_closed = False

    def running_prompts(self) -> set[str]:
        return value_of(self._world.running)  # type: ignore[no-any-return]

    def interrupt(self, prompt_id: str) -> None:
        self.interrupted.append(prompt_id)
        if self._world.interrupt_error is not None:
            raise self._world.interrupt_error

    def close(self) -> None:
        self.is_closed = True


def value_of(outcome: Any) -> Any:
    """Return what was set, or raise it."""
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@pytest.fixture
def world(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(ledger)
    stand_ins: dict[str, Any] = {
        "Supervisor": world.supervisor,
        "Instance": lambda _spec: world.instance,
        "ComfyClient": world.client,
        "Loop": world.loop,
        "CondemnPipe": world.pipe,
        "WarmUp": world.warm_up,
        "Housekeeper": world.housekeeper,
        "CatalogueWatch": world.catalogue,
        "JobRelease": world.release,
        "ModelFetcher": world.models,
        "in_background": world.in_background,
        "read_info": lambda _base_url: value_of(world.info),
        "problem_of": lambda _base_url: None,
        "lives": list,
        "threading": SimpleNamespace(Event=lambda: world.stopping),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(agent_module, name, stand_in)
    monkeypatch.setattr(StateReporter, "storage_problem", lambda _self: value_of(world.storage))
    return world


@pytest.fixture
def settings(runtime: BrokerlessRuntime) -> Settings:
    return runtime.settings


def make_agent(settings: Settings, folder: Path, **fields: Any) -> InstanceAgent:
    spec = InstanceSpec(**{"name": "gpu0", "gpu": "0", "kind": "simulator", "data_dir": folder, **fields})
    return InstanceAgent(settings, spec, Tenure(settings, spec, worker="w"))


@pytest.fixture
def agent(world: World, settings: Settings, tmp_path: Path) -> Iterator[InstanceAgent]:
    """One that was started."""
    agent = make_agent(settings, tmp_path)
    agent.start()
    world.done.clear()
    yield agent
    agent.stop()


@pytest.fixture
def healthy(agent: InstanceAgent, world: World) -> InstanceAgent:
    """One whose instance is up."""
    world.callbacks["on_up"]()
    world.done.clear()
    return agent


@pytest.fixture
def taken(healthy: InstanceAgent) -> InstanceAgent:
    """One whose name another worker has."""
    healthy._admission.taken_by = "Another worker has it."
    return healthy


def shown(ledger: Ledger) -> tuple[str, str | None]:
    """State and reason."""
    record = record_of(ledger)
    return record.state, record.reason


class TestLife:
    def test_it_registers_before_anything_is_started(
        self, world: World, settings: Settings, tmp_path: Path, ledger: Ledger
    ) -> None:
        agent = make_agent(settings, tmp_path)
        assert agent.name == NAME
        agent.start()
        assert shown(ledger)[0] == STARTING
        assert world.done == ["listen", "supervisor.start", "heartbeat.start", "catalogue.start"]
        assert world.pause_s == settings.lease_renew_s
        agent.stop()

    @pytest.mark.parametrize(("start_timeout_s", "window_s"), [(1.0, 600.0), (600.0, 3600.0)])
    def test_the_supervisor_knows_the_settings(
        self, world: World, settings: Settings, tmp_path: Path, start_timeout_s: float, window_s: float
    ) -> None:
        settings = settings.model_copy(update={"quarantine_after": 3})
        make_agent(settings, tmp_path, start_timeout_s=start_timeout_s)
        assert world.callbacks["quarantine_window_s"] == window_s
        assert world.callbacks["quarantine_after"] == 3
        assert world.callbacks["quarantine_s"] == settings.quarantine_s
        assert world.callbacks["mute_limits"] == MuteLimits(idle_s=settings.mute_idle_s, busy_s=settings.mute_s)

    def test_it_ends_everything_once(self, healthy: InstanceAgent, world: World, ledger: Ledger) -> None:
        assert healthy.takes_jobs
        healthy.stop()
        assert not healthy.takes_jobs
        assert world.stopping.is_set()
        assert world.done == ["heartbeat.end", "catalogue.end", "warmup.call_off", "supervisor.stop"]
        assert shown(ledger) == (STOPPED, "The worker stopped.")
        healthy.stop()
        assert len(world.done) == 4


class TestLettingGo:
    def test_what_waits_goes_and_then_what_runs_and_then_the_instance(
        self, healthy: InstanceAgent, world: World, settings: Settings
    ) -> None:
        healthy.begin_to_stop()
        healthy.begin_to_stop()
        assert not healthy.takes_jobs
        assert [name for name, _ in world.background] == ["let-go"]
        world.work()
        assert world.done == ["release.what_waits", "release.everything", "warmup.call_off", "supervisor.stop"]
        assert world.shown == [DRAINED, DRAINED], "the ledger is told first"
        assert world.stopping.waited_s == [settings.drain_grace_s, 0.0]
        assert [client.interrupted for client in world.clients] == [
            ["prompt of what_waits"],
            ["prompt of everything"],
        ]

    def test_an_attached_instance_gets_time_to_react(self, healthy: InstanceAgent, world: World) -> None:
        world.instance.is_attached = True
        healthy.begin_to_stop()
        world.work()
        assert world.stopping.waited_s[1] == LEAVE_S == 3.0

    @pytest.mark.parametrize(
        ("answers", "done"),
        [([True], ["release.what_waits"]), ([False, True], ["release.what_waits", "release.everything"])],
    )
    def test_who_ends_meanwhile_does_the_rest(
        self, healthy: InstanceAgent, world: World, answers: list[bool], done: list[str]
    ) -> None:
        world.stopping.answers = answers
        healthy.begin_to_stop()
        world.work()
        assert world.done == done

    def test_jobs_of_another_worker_are_left_alone(self, taken: InstanceAgent, world: World, ledger: Ledger) -> None:
        taken.begin_to_stop()
        world.work()
        assert world.done == ["warmup.call_off", "supervisor.stop"]

    def test_a_ledger_that_is_away_does_not_keep_it(
        self, healthy: InstanceAgent, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.release_error = ComfyUnavailable("away")
        healthy.begin_to_stop()
        world.work()
        assert world.done[-1] == "supervisor.stop"
        assert f"{NAME}: let go" in caplog.text

    def test_one_that_has_not_begun_has_told_nobody(self, world: World, settings: Settings, tmp_path: Path) -> None:
        agent = make_agent(settings, tmp_path)
        agent.begin_to_stop()
        world.work()
        assert "release.what_waits" not in world.done


class TestOperators:
    def test_an_interrupt(self, healthy: InstanceAgent, world: World) -> None:
        healthy.interrupt("p1")
        assert world.clients == [], "it waits for nothing"
        world.work()
        [client] = world.clients
        assert (client.base_url, client.read_timeout_s, client.interrupted) == (URL, 10.0, ["p1"])
        assert client.is_closed

    def test_an_interrupt_that_fails(
        self, healthy: InstanceAgent, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        world.interrupt_error = ComfyUnavailable("refused")
        healthy.interrupt("p1")
        world.work()
        assert "interrupt of p1 failed: refused" in caplog.text
        assert world.clients[0].is_closed

    def test_an_interrupt_while_there_is_no_instance(self, healthy: InstanceAgent, world: World) -> None:
        world.instance.base_url = None
        healthy.interrupt("p1")
        world.work()
        assert world.clients == []

    def test_another_look(self, healthy: InstanceAgent, world: World) -> None:
        healthy.look_again()
        assert world.done == ["catalogue.look_again"]

    def test_another_look_is_one_for_model_files_too(self, world: World, settings: Settings, tmp_path: Path) -> None:
        (tmp_path / "models").mkdir()
        agent = make_agent(settings.model_copy(update={"models_dir": tmp_path / "models"}), tmp_path)
        agent.start()
        agent.look_again()
        agent.stop()
        assert [done for done in world.done if str(done).startswith("models.")] == [
            *("models.start", "models.wake", "models.end")
        ]

    def test_a_drain(self, healthy: InstanceAgent, world: World, ledger: Ledger) -> None:
        healthy.drain()
        assert not healthy.takes_jobs
        world.work()
        assert (world.done, world.shown) == (["release.what_waits"], [DRAINED])

    def test_a_drain_that_was_ended_before_it_was_told(self, healthy: InstanceAgent, world: World) -> None:
        healthy.drain()
        healthy.resume()
        world.work()
        assert healthy.takes_jobs
        assert world.done == ["heartbeat.wake", "supervisor.release"]

    def test_each_time_it_takes_jobs_again_there_is_a_first_turn(self, healthy: InstanceAgent, world: World) -> None:
        told = [world.first_turns]
        for change in (None, healthy.drain, healthy.resume, None):
            if change is not None:
                change()
            world.beat()
            told.append(world.first_turns)
        assert told == [1, 1, 1, 2, 2]

    def test_a_restart(self, healthy: InstanceAgent, world: World, ledger: Ledger) -> None:
        healthy.restart()
        healthy.restart()
        assert not healthy.takes_jobs
        assert [name for name, _ in world.background] == ["restart"]
        world.work()
        assert world.done == [
            "release.what_waits",
            "wait inf",
            "catalogue.forget",
            "warmup.call_off",
            "supervisor.restart",
        ]
        assert world.shown == [DRAINED]
        assert shown(ledger) == (UNHEALTHY, "It is being restarted by an operator.")
        healthy.restart()
        assert len(world.background) == 1, "the next one may come"

    def test_a_restart_that_has_waited_long_enough(
        self, healthy: InstanceAgent, world: World, settings: Settings
    ) -> None:
        world.is_idle = False
        healthy.restart()
        world.work()
        assert world.done[1:4] == ["wait inf", f"wait {settings.drain_grace_s}", "release.everything"]

    def test_a_restart_comes_about_whatever_goes_wrong(self, healthy: InstanceAgent, world: World) -> None:
        world.is_idle, world.release_error = False, ComfyUnavailable("away")
        healthy.restart()
        world.work()
        assert world.done[-1] == "supervisor.restart"
        world.callbacks["on_up"]()
        assert healthy.takes_jobs

    def test_a_restart_leaves_jobs_of_another_worker_alone(self, taken: InstanceAgent, world: World) -> None:
        taken.restart()
        world.work()
        assert world.done == ["catalogue.forget", "warmup.call_off", "supervisor.restart"]

    def test_jobs_of_a_dead_process_are_given_back(self, healthy: InstanceAgent, world: World) -> None:
        healthy.lose_jobs()
        assert world.done == []
        world.work()
        assert world.done == ["release.of_dead_process"]

    def test_but_not_those_of_another_worker(self, taken: InstanceAgent, world: World) -> None:
        taken.lose_jobs()
        assert world.background == []


class TestComingUp:
    def test_it_is_recorded_and_takes_jobs(self, agent: InstanceAgent, world: World, ledger: Ledger) -> None:
        assert not agent.takes_jobs
        world.callbacks["on_up"]()
        assert agent.takes_jobs
        record = record_of(ledger)
        assert (record.state, record.reason, record.restarts) == (HEALTHY, None, 3)
        assert (record.url, record.output_dir, record.version) == (URL, "/gpu0/output", "0.3.64")
        assert record.warmup_s == 2.5
        assert world.done == [f"catalogue.watch {URL} {INFO.object_info}"]
        assert world.clients == [], "its queue is its own"

    def test_it_holds_what_the_warm_up_loaded_until_it_comes_up_again(
        self, agent: InstanceAgent, world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Instances, "up", lambda *_arguments, **_options: value_of(LedgerUnavailable("away")))
            with pytest.raises(LedgerUnavailable):
                world.callbacks["on_up"]()
        world.callbacks["on_up"]()
        assert [model.name for model in record_of(ledger).held] == ["a.sft"]
        world.callbacks["on_up"]()
        assert record_of(ledger).held == (), "jobs may have run in the meantime"

    def test_one_that_is_unfit_is_not_waited_for(self, agent: InstanceAgent, world: World, ledger: Ledger) -> None:
        world.warmup = InstanceUnfit("the warm-up failed")
        with pytest.raises(InstanceUnfit):
            world.callbacks["on_up"]()
        assert shown(ledger)[0] == STARTING
        assert world.done == []

    def test_one_whose_warm_up_lacks_a_file_waits_until_that_was_fetched(
        self, settings: Settings, world: World, ledger: Ledger, tmp_path: Path
    ) -> None:
        (tmp_path / "models").mkdir()
        make_agent(settings.model_copy(update={"models_dir": tmp_path / "models"}), tmp_path).start()
        world.warmup, world.missing = InstanceUnfit("Value not in list"), ["a.sft"]
        with pytest.raises(ComfyUnavailable) as caught:
            world.callbacks["on_up"]()
        assert not isinstance(caught.value, InstanceUnfit)
        assert shown(ledger) == (UNHEALTHY, "The warm-up waits for a.sft to be fetched.")
        world.missing, world.lacking = [], ["a.sft"]
        with pytest.raises(ComfyUnavailable) as caught:
            world.callbacks["on_up"]()
        assert not isinstance(caught.value, InstanceUnfit), "it came while the warm-up failed for want of it"
        world.lacking = []
        with pytest.raises(InstanceUnfit):
            world.callbacks["on_up"]()
        world.warmup = 2.5
        world.callbacks["on_up"]()
        assert shown(ledger)[0] == HEALTHY

    def test_one_that_does_not_answer_says_why_once(self, agent: InstanceAgent, world: World, ledger: Ledger) -> None:
        world.info = ComfyUnavailable("no answer")
        for _ in range(2):
            with pytest.raises(ComfyUnavailable):
                world.callbacks["on_up"]()
        assert shown(ledger) == (UNHEALTHY, "no answer")
        assert world.done == ["catalogue.forget"]
        world.callbacks["on_wait"]("something else")
        assert shown(ledger) == (UNHEALTHY, "something else")

    def test_a_full_disk_is_seen_at_once(self, agent: InstanceAgent, world: World, ledger: Ledger) -> None:
        world.disk = "It is full."
        world.callbacks["on_up"]()
        assert shown(ledger) == (DISK_FULL, "It is full.")
        assert not agent.takes_jobs

    def test_a_foreign_storage_too(self, agent: InstanceAgent, world: World, ledger: Ledger) -> None:
        world.storage = "It is not the fleet's."
        world.callbacks["on_up"]()
        assert shown(ledger) == (UNHEALTHY, "It is not the fleet's.")

    @pytest.mark.parametrize(
        ("is_attached", "problem", "note"),
        [
            (False, "it is refused", None),
            (True, None, None),
            (True, "it is refused", "Its prompts are polled, without progress and previews: it is refused."),
        ],
    )
    def test_an_attached_one_without_a_websocket_is_noted(
        self,
        agent: InstanceAgent,
        world: World,
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
        is_attached: bool,
        problem: str | None,
        note: str | None,
    ) -> None:
        monkeypatch.setattr(agent_module, "problem_of", lambda _base_url: problem)
        world.instance.is_attached = is_attached
        world.callbacks["on_up"]()
        assert shown(ledger) == (HEALTHY, note)


class TestReplacing:
    def test_one_of_ours_is_replaced(self, healthy: InstanceAgent, world: World) -> None:
        world.running = {"p1"}
        world.hear("it is stuck")
        assert world.done == ["supervisor.replace it is stuck"]
        assert world.clients == []
        world.callbacks["on_up"]()

    def test_an_attached_one_has_to_end_what_is_in_the_way(self, healthy: InstanceAgent, world: World) -> None:
        world.instance.is_attached = True
        world.callbacks["on_up"]()
        assert world.clients == [], "nothing is in the way yet"
        world.running = {"p1", "p2"}
        world.hear("it is stuck")
        assert world.done[-1] == "supervisor.replace it is stuck"
        assert world.clients[0].read_timeout_s == 10.0
        world.running = {"p2", "p3"}
        with pytest.raises(ComfyUnavailable, match="gpu0 still runs a prompt that is stuck"):
            world.callbacks["on_up"]()
        world.running = {"p1", "p3"}
        world.callbacks["on_up"]()
        assert healthy.takes_jobs
        assert all(client.is_closed for client in world.clients)

    def test_one_that_did_not_say_is_asked_when_it_answers(self, healthy: InstanceAgent, world: World) -> None:
        world.instance.is_attached = True
        world.running = ComfyUnavailable("no answer")
        world.hear("it is stuck")
        world.running = {"p1"}
        for _ in range(2):
            with pytest.raises(ComfyUnavailable):
                world.callbacks["on_up"]()
        world.running = {"p2"}
        world.callbacks["on_up"]()
        assert healthy.takes_jobs

    def test_one_without_an_address_is_asked_later(self, healthy: InstanceAgent, world: World) -> None:
        world.instance.is_attached, world.instance.base_url = True, None
        world.hear("it is stuck")
        assert world.clients[0].base_url == ""


class TestGoingAway:
    def test_the_ledger_has_the_first_line(self, healthy: InstanceAgent, world: World, ledger: Ledger) -> None:
        world.callbacks["on_mute"](True)
        world.callbacks["on_down"]("It has ended.\n/home/me/ComfyUI: Traceback")
        assert shown(ledger) == (UNHEALTHY, "It has ended.")
        assert world.done == ["heartbeat.wake", "catalogue.forget"]
        world.callbacks["on_up"]()
        assert shown(ledger) == (HEALTHY, None), "a new one is not mute"

    def test_one_that_is_mute_is_noted(self, healthy: InstanceAgent, world: World, ledger: Ledger) -> None:
        world.callbacks["on_mute"](True)
        world.beat()
        assert shown(ledger) == (HEALTHY, MUTE)
        world.callbacks["on_mute"](False)
        world.beat()
        assert shown(ledger) == (HEALTHY, None)

    def test_a_quarantine_says_how_long(self, healthy: InstanceAgent, world: World, ledger: Ledger) -> None:
        world.callbacks["on_quarantine"]("It has ended.\nTraceback", 1_700_000_000.25)
        record = record_of(ledger)
        assert record.state == QUARANTINED
        assert record.quarantined_until_ms == 1_700_000_000_250
        until = time.strftime("%H:%M:%S", time.gmtime(1_700_000_000))
        assert str(record.reason).startswith(f"Quarantined until {until} UTC")
        assert str(record.reason).endswith("The last: It has ended.")
        assert world.done == ["catalogue.forget"]


class TestHeartbeat:
    def test_it_looks_tells_and_keeps_house(self, healthy: InstanceAgent, world: World, ledger: Ledger) -> None:
        world.disk = "It is full."
        world.beat()
        assert shown(ledger) == (DISK_FULL, "It is full.")
        assert (world.done, world.wanted) == (["keep house"], [])
        world.disk, world.storage = None, "It is not the fleet's."
        world.beat()
        assert shown(ledger) == (UNHEALTHY, "It is not the fleet's.")

    def test_whatever_is_wrong_the_ledger_hears_of_it(
        self, healthy: InstanceAgent, world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.disk, world.storage = OSError("gone"), OSError("gone")
        healthy.drain()
        world.beat()
        assert shown(ledger)[0] == DRAINED

    def test_it_tells_nothing_any_more_once_the_worker_ends(
        self, healthy: InstanceAgent, world: World, ledger: Ledger
    ) -> None:
        world.stopping.set()
        world.disk = "It is full."
        world.beat()
        assert shown(ledger)[0] == HEALTHY
        world.stopping._is_set = False

    @pytest.mark.parametrize(
        ("failures", "is_alive", "is_told"), [(0, True, False), (1, True, True), (0, False, True), (1, False, True)]
    )
    def test_parts_that_fail_are_named(
        self,
        healthy: InstanceAgent,
        world: World,
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
        failures: int,
        is_alive: bool,
        is_told: bool,
    ) -> None:
        life = SimpleNamespace(name="housekeeper", last_error="OSError", failures=failures, is_alive=is_alive)
        monkeypatch.setattr(agent_module, "lives", lambda: [life])
        world.beat()
        reason = "Parts of its worker fail, see its log: housekeeper (OSError)." if is_told else None
        assert shown(ledger) == (HEALTHY, reason)

    def test_what_was_lost_with_the_name_is_recorded_again(
        self, healthy: InstanceAgent, world: World, ledger: Ledger
    ) -> None:
        healthy._reporter.is_unrecorded = True
        world.info = InstanceInfo(version="2", device=None, object_info={})
        world.beat()
        assert record_of(ledger).version == "2"
        assert not healthy._reporter.is_unrecorded
        world.info = INFO
        world.beat()
        assert record_of(ledger).version == "2", "once"

    def test_and_that_it_cannot_be_now_is_said(
        self, healthy: InstanceAgent, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        healthy._reporter.is_unrecorded = True
        world.info = ComfyUnavailable("no answer")
        world.beat()
        assert "saying so failed: no answer" in caplog.text
        assert world.done == ["keep house"]
