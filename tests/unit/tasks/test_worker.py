"""Worker processes: how Celery runs them, and what is made before and ended after."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import billiard.pool
import pytest
from celery import signals
from celery.exceptions import WorkerLostError

from core.errors import ConfigurationError
from core.settings import Settings
from tasks import worker as worker_module
from tasks.instance.agent import InstanceAgent
from tasks.instance.bootsteps import GateStep, InstanceStep
from tasks.messaging import consumer
from tasks.messaging.context import ProcessContext
from tasks.webhooks.dispatcher import WebhookDispatcher
from tasks.worker import gpu_options, io_options, run_beat, run_gpu_worker, run_io_worker


class Celery:
    """An app whose worker does what a test says."""

    def __init__(self, role: str) -> None:
        self.process_context = ProcessContext(role)  # type: ignore[arg-type]
        self.steps: dict[str, set[Any]] = {"worker": set(), "consumer": set()}
        self.options: dict[str, Any] = {}
        self.exitcode: int | None = None
        self.act: Callable[[], None] = lambda: None
        self.beats: list[str] = []

    def Worker(self, **options: Any) -> Any:  # noqa: N802 - Celery's name
        self.options = options
        return SimpleNamespace(start=lambda: self.act(), exitcode=self.exitcode)

    def Beat(self, *, loglevel: str) -> Any:  # noqa: N802 - Celery's name
        return SimpleNamespace(run=lambda: self.beats.append(loglevel))


class World:
    """What surrounds a worker process; what happened, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.apps: list[Celery] = []
        self.act: Callable[[], None] = lambda: None
        self.exitcode: int | None = None
        #: What hears of prompts that are recalled.
        self.listeners: list[object] = []
        #: Whether a rollout wants the process to start anew.
        self.is_renewed = False

    def make_app(self, _settings: Settings, role: str) -> Celery:
        app = Celery(role)

        def act() -> None:
            self.done.append("run")
            self.act()

        app.act, app.exitcode = act, self.exitcode
        self.apps.append(app)
        return app


LEDGER = SimpleNamespace(machines="its machines")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    def note(name: str) -> Callable[..., None]:
        return lambda *_arguments, **_options: world.done.append(name)

    def agent(_settings: Settings, _spec: object, tenure: Any) -> Any:
        made = InstanceAgent.__new__(InstanceAgent)
        made.name, made.condemn_pipe = tenure.name, "pipe"  # type: ignore[assignment]
        made.recall_pipe = SimpleNamespace(listen=world.listeners.append)  # type: ignore[assignment]
        made.renewal = SimpleNamespace(is_due=world.is_renewed)  # type: ignore[assignment]
        for name in ("stop", "begin_to_stop", "lose_jobs"):
            monkeypatch.setattr(made, name, note(name), raising=False)
        return made

    class Runner:
        def __init__(self, _runtime: object, name: str, pipe: object, *, worker: str) -> None:
            self.made_with = (name, pipe, worker.partition(".")[0])
            self.close, self.recall = note("close runner"), f"recalls of {name}"

    def dispatcher(_settings: Settings, ledger: object) -> Any:
        made = WebhookDispatcher.__new__(WebhookDispatcher)
        made._ledger = ledger  # type: ignore[assignment]
        monkeypatch.setattr(made, "close", note("close dispatcher"), raising=False)
        return made

    class Watch:
        def __init__(self, machines: object) -> None:
            assert machines == "its machines"
            self.start, self.close = note("watch for neighbours"), note("watch no more")

    class Renewal:
        def __init__(self, _settings: Settings, _ledger: object, role: str) -> None:
            world.done.append(f"hear of rollouts as {role}")
            self.close = note("hear no more of rollouts")

        def start_anew_if_due(self) -> None:
            if world.is_renewed:
                world.done.append("start anew")

    stand_ins: dict[str, Any] = {
        "make_app": world.make_app,
        "migrate": note("migrate"),
        "take_or_refuse": note("take the name"),
        "check_host_name": note("check the name"),
        "InstanceAgent": agent,
        "JobRunner": Runner,
        "WebhookDispatcher": dispatcher,
        "NeighbourWatch": Watch,
        "SelfRenewal": Renewal,
        "start_anew": note("start anew"),
        "equip": lambda _app, _settings: SimpleNamespace(ledger=LEDGER, storage=None, end_reports=lambda: None),
    }
    monkeypatch.setattr(consumer, "install", note("install the door"))
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(worker_module, name, stand_in)
    for name in ("worker_process_init", "worker_shutting_down", "worker_process_shutdown", "task_failure"):
        monkeypatch.setattr(getattr(signals, name), "receivers", [])
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(billiard.pool, "GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT", 300)
    return world


@pytest.fixture
def settings(sqlite_settings: Settings) -> Settings:
    return sqlite_settings.model_copy(update={"host": "here"})


class TestOptions:
    def test_of_a_gpu(self) -> None:
        options = gpu_options("gpu0", "gpu0@here")
        name, _, host = options.pop("hostname").partition("@")
        assert (name[:5], len(name), bool(host)) == ("gpu0.", 13, True)
        assert options == {
            "pool_cls": "prefork",
            "concurrency": 1,
            "queues": ["gpu", "gpu.gpu0@here"],
            "without_gossip": True,
            "without_mingle": True,
            "loglevel": "INFO",
        }
        assert gpu_options("gpu0", "gpu0@here")["hostname"] != gpu_options("gpu0", "gpu0@here")["hostname"], (
            "new at each start"
        )

    def test_of_an_io_worker(self, settings: Settings) -> None:
        options = io_options(settings)
        assert (options["pool_cls"], options["concurrency"]) == ("threads", 32)
        assert options["queues"] == ["io", "io.here", "maintenance"]
        assert options["hostname"].startswith("io.")


class TestGpu:
    def test_the_name_is_taken_before_and_the_instance_ends_after(self, world: World, settings: Settings) -> None:
        run_gpu_worker(settings, "gpu0")
        assert world.done == ["migrate", "take the name", "install the door", "run", "stop"]
        [app] = world.apps
        assert app.process_context.role == "gpu"
        assert app.process_context[InstanceAgent].name == "gpu0@here"
        assert app.steps == {"worker": {InstanceStep}, "consumer": {GateStep}}
        assert app.options["queues"] == ["gpu", "gpu.gpu0@here"]
        assert sys.argv == ["-m", "cli.main", "worker", "gpu0"]
        assert billiard.pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT == 30

    def test_the_instance_ends_though_the_worker_fails(self, world: World, settings: Settings) -> None:
        def fail() -> None:
            raise KeyError

        world.act = fail
        with pytest.raises(KeyError):
            run_gpu_worker(settings, "gpu0")
        assert world.done[-1] == "stop"

    def test_its_pool_process_gets_a_runner(self, world: World, settings: Settings) -> None:
        def act() -> None:
            signals.worker_process_shutdown.send(None)
            assert "close runner" not in world.done, "it had none yet"
            signals.worker_process_init.send(None)
            runner: Any = world.apps[0].process_context[vars(worker_module)["JobRunner"]]
            assert runner.made_with == ("gpu0@here", "pipe", "gpu0")
            assert world.listeners == ["recalls of gpu0@here"]
            signals.worker_process_shutdown.send(None)
            assert world.done[-1] == "close runner"

        world.act = act
        run_gpu_worker(settings, "gpu0")
        assert "close runner" in world.done

    @pytest.mark.parametrize(
        ("error", "is_lost"), [(WorkerLostError("x"), True), (KeyError("x"), False), (None, False)]
    )
    def test_jobs_of_a_process_that_died_are_given_back(
        self, world: World, settings: Settings, error: Exception | None, is_lost: bool
    ) -> None:
        world.act = lambda: signals.task_failure.send(None, exception=error)  # type: ignore[assignment]
        run_gpu_worker(settings, "gpu0")
        assert ("lose_jobs" in world.done) is is_lost

    def test_told_to_end_it_takes_no_more_jobs(self, world: World, settings: Settings) -> None:
        world.act = lambda: signals.worker_shutting_down.send(None)  # type: ignore[assignment]
        run_gpu_worker(settings, "gpu0")
        assert world.done[-2:] == ["begin_to_stop", "stop"]

    def test_an_instance_that_is_none_of_this_machine_is_refused(self, world: World, settings: Settings) -> None:
        with pytest.raises(ConfigurationError, match="There is no gpu9 on this machine; the settings give gpu0"):
            run_gpu_worker(settings, "gpu9")
        assert world.done == []

    def test_renewed_by_a_rollout_it_starts_anew_when_its_instance_has_ended(
        self, world: World, settings: Settings
    ) -> None:
        world.is_renewed = True
        run_gpu_worker(settings, "gpu0")
        assert world.done[-2:] == ["stop", "start anew"]

    def test_its_directory_is_held_meanwhile(self, world: World, settings: Settings) -> None:
        def act() -> None:
            assert (settings.gpu_dir("gpu0") / "worker.lock").read_text().startswith('{"pid"')

        world.act = act
        run_gpu_worker(settings, "gpu0")
        assert "run" in world.done


class TestIo:
    def test_its_dispatcher_is_there_before_and_closed_after(self, world: World, settings: Settings) -> None:
        run_io_worker(settings)
        begun = ["migrate", "check the name", "watch for neighbours", "hear of rollouts as io", "install the door"]
        assert world.done == [*begun, "run", "hear no more of rollouts", "watch no more", "close dispatcher"]
        [app] = world.apps
        assert app.process_context.role == "io"
        dispatcher: Any = app.process_context[WebhookDispatcher]
        assert dispatcher._ledger is LEDGER
        assert app.options["queues"] == ["io", "io.here", "maintenance"]
        assert sys.argv == ["-m", "cli.main", "io"]

    def test_it_is_closed_though_the_worker_fails(self, world: World, settings: Settings) -> None:
        def fail() -> None:
            raise KeyError

        world.act = fail
        with pytest.raises(KeyError):
            run_io_worker(settings)
        assert world.done[-1] == "close dispatcher"

    def test_renewed_by_a_rollout_it_starts_anew_when_all_has_ended(self, world: World, settings: Settings) -> None:
        world.is_renewed = True
        run_io_worker(settings)
        assert world.done[-2:] == ["close dispatcher", "start anew"]

    @pytest.mark.parametrize("exitcode", [None, 0, 1])
    def test_one_that_nobody_told_to_end_says_so(self, world: World, settings: Settings, exitcode: int | None) -> None:
        world.exitcode = exitcode
        if exitcode:
            with pytest.raises(SystemExit) as caught:
                run_io_worker(settings)
            assert caught.value.code == exitcode
        else:
            run_io_worker(settings)


class TestBeat:
    def test_it_beats_without_a_line_for_each(
        self, world: World, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = ("celery.app.trace", "celery.worker.strategy", "celery.beat")
        for name in names:
            monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
        run_beat(settings)
        assert world.done == ["migrate", "hear of rollouts as beat", "hear no more of rollouts"]
        assert (world.apps[0].process_context.role, world.apps[0].beats) == ("beat", ["INFO"])
        assert [logging.getLogger(name).level for name in names] == [logging.WARNING] * 3

    def test_its_directory_is_made(self, world: World, settings: Settings) -> None:
        changed = settings.model_copy(update={"data_dir": settings.data_dir / "new"})
        run_beat(changed)
        assert changed.data_dir.is_dir()
