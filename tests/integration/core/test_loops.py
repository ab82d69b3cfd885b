"""Every loop of the fleet outlives an error that nobody foresaw, and does its work afterwards."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu import Producer
from kombu.transport.virtual import Channel
from sqlalchemy import delete, event

from api.service.publishing import BackgroundPublisher
from api.service.waiting import Hub
from comfy.process.spawner import Order, spawn_from_lasting_thread
from core import background
from core.background import Loop, lives
from core.ledger import Ledger
from core.ledger.database.fleet_tables import catalogues
from core.ledger.database.tables import instances
from core.ledger.instances import HEALTHY, UNHEALTHY
from core.messaging import notices
from core.messaging.notices import Notice, NoticeListener, NoticeSender
from core.outbound import deadline
from core.outbound.deadline import Deadline
from core.records.instance import InstanceRecord
from core.records.webhook_target import WebhookTarget
from core.settings import Settings
from tasks.instance.agent import InstanceAgent
from tasks.instance.plan import plan_instances
from tasks.instance.release import JobRelease
from tasks.instance.tenure import Tenure
from tasks.messaging.app import make_app
from tasks.messaging.publish import BackgroundSender, Publisher
from tasks.runner.distress import CondemnPipe
from tasks.runner.leases import Leases
from tasks.webhooks.dispatcher import WebhookDispatcher
from tasks.webhooks.posting import ConnectionThread
from tests.integration.api_fixtures import running_api
from tests.ledger_moves import claimed, submit, succeeded
from tests.own_servers import OwnValkey
from tests.receivers import receiving
from tests.services import Broker, make_settings
from tests.waiting import eventually


@pytest.fixture(autouse=True)
def _quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FIRST_REST_S", 0.02)
    monkeypatch.setattr(background, "LONGEST_REST_S", 0.2)
    monkeypatch.setattr(notices, "RECONNECT_S", 0.1)


@pytest.fixture
def sqlite_ledger(sqlite_settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger(sqlite_settings)
    yield ledger
    ledger.close()


class Stumbles:
    """Raises what nobody foresees, as often as it was told to."""

    def __init__(self) -> None:
        self.left = 0
        self.count = 0

    def __call__(self, *_arguments: Any, **_options: Any) -> None:
        if self.left:
            self.left -= 1
            self.count += 1
            raise AttributeError("'NoneType' object has no attribute 'send'")


@contextmanager
def stumbling(ledger: Ledger, *, times: int) -> Iterator[Stumbles]:
    """Statements of a ledger that fail in a way of their own."""
    stumbles = Stumbles()
    stumbles.left = times
    event.listen(ledger.database.engine, "before_cursor_execute", stumbles)
    yield stumbles
    event.remove(ledger.database.engine, "before_cursor_execute", stumbles)


def is_well(name: str) -> bool:
    return any(life.name == name and life.is_alive and not life.failures for life in lives())


def test_leases(sqlite_ledger: Ledger) -> None:
    claim = claimed(sqlite_ledger)
    leases = Leases(sqlite_ledger, renew_s=0.02)
    with stumbling(sqlite_ledger, times=2) as stumbles:
        leases.hold(claim)
        assert eventually(lambda: stumbles.count == 2)
    before_ms = lease_of(sqlite_ledger, claim.job_id)
    assert eventually(lambda: lease_of(sqlite_ledger, claim.job_id) > before_ms)
    assert is_well("leases")
    leases.close()


def lease_of(ledger: Ledger, job_id: str) -> int:
    with ledger.database.read() as connection:
        return int(connection.exec_driver_sql("SELECT lease_until_ms FROM jobs WHERE id = ?", (job_id,)).scalar_one())


def test_the_backstop_of_waiting_clients(sqlite_ledger: Ledger) -> None:
    job = submit(sqlite_ledger)
    hub = Hub(sqlite_ledger.jobs.states, sqlite_ledger.jobs.many, poll_s=0.02)
    with stumbling(sqlite_ledger, times=2) as stumbles, hub.watch(job.id) as watch:
        assert eventually(lambda: stumbles.count == 2)
        assert watch.wait(10), "news that no notice told of"
        assert watch.seq == 1
    hub.close()


@pytest.mark.parametrize("times", [1, 2, 3, 5])
def test_the_dispatcher(sqlite_settings: Settings, sqlite_ledger: Ledger, times: int) -> None:
    dispatcher = WebhookDispatcher(sqlite_settings, sqlite_ledger)
    with receiving() as receiver:
        webhook = WebhookTarget(url=receiver.url)
        job_id = succeeded(sqlite_ledger, webhook=webhook).job_id
        with stumbling(sqlite_ledger, times=times) as stumbles:
            dispatcher.call(job_id)
            assert eventually(lambda: stumbles.count == times)
        # That one is sent now, or when its hold lapses, if it had been taken.
        other_id = succeeded(sqlite_ledger, webhook=webhook).job_id
        dispatcher.call(other_id)
        assert eventually(lambda: is_delivered(sqlite_ledger, other_id))
    dispatcher.close()


def is_delivered(ledger: Ledger, job_id: str) -> bool:
    return ledger.deliveries.page(job_id=job_id)[0].state == "delivered"


def test_the_dispatcher_writes_what_can_be_written(
    sqlite_settings: Settings, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One result that the ledger will never take does not keep those of others from it."""
    record = sqlite_ledger.outbox.record
    refused: list[str] = []

    def choosy(results: list[Any]) -> None:
        if any(post.job_id in refused for post, _outcome in results):
            raise ValueError("of ours")
        record(results)

    monkeypatch.setattr(sqlite_ledger.outbox, "record", choosy)
    dispatcher = WebhookDispatcher(sqlite_settings, sqlite_ledger)
    with receiving() as receiver:
        webhook = WebhookTarget(url=receiver.url)
        ids = [succeeded(sqlite_ledger, webhook=webhook).job_id for _ in range(4)]
        refused.append(ids[1])
        for job_id in ids:
            dispatcher.call(job_id)
        assert eventually(lambda: all(is_delivered(sqlite_ledger, job_id) for job_id in ids if job_id not in refused))
    dispatcher.close()


def test_a_connection_thread() -> None:
    idle: list[ConnectionThread] = []
    done: list[str] = []
    thread = ConnectionThread("https://example.com:443", idle.append)
    thread.carry(stumble_once())
    thread.carry(lambda: done.append("next"))
    assert eventually(lambda: done == ["next"])
    thread.dismiss()


def stumble_once() -> Callable[[], None]:
    stumbles = Stumbles()
    stumbles.left = 1
    return stumbles


class Broken:
    """A publisher that stumbles over its first messages."""

    def __init__(self, times: int) -> None:
        self.stumbles = Stumbles()
        self.stumbles.left = times
        self.published: list[str] = []

    def turn(self, job_id: str, *, recorded_s: float | None = None) -> bool:
        self.stumbles()
        self.published.append(job_id)
        return True

    notify = check_upload = turn

    def pass_gates(self) -> bool:
        return self.turn("gates")

    def interrupt(self, job_id: str, attempt: int, instance: str) -> None:
        self.turn(job_id)

    def store(self, job_id: str, attempt: int, host: str) -> bool:
        return self.turn(job_id)

    def look_again(self) -> bool:
        return False


@pytest.mark.parametrize("times", [1, 2])
def test_publishing_in_the_api(times: int) -> None:
    broken = Broken(times)
    publisher = BackgroundPublisher(broken)
    assert publisher.turn("a"), "recorded, and no error of the request"
    assert eventually(lambda: broken.stumbles.count == times)
    for job_id in ("b", "c"):
        assert publisher.turn(job_id)
    assert eventually(lambda: broken.published[-2:] == ["b", "c"])


def test_thesender(sqlite_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    publisher = Publisher(make_app(sqlite_settings, "io"))
    broken = Broken(1)
    monkeypatch.setattr(publisher, "notify", broken.notify)
    notifier = BackgroundSender(publisher)
    for job_id in ("a", "b"):
        notifier.notify(job_id)
    assert eventually(lambda: broken.published == ["b"])


def test_publishing_fails_nobody(own_valkey: OwnValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(make_settings(tmp_path, broker_url=own_valkey.url), "io")
    publisher = Publisher(app)
    monkeypatch.setattr("tasks.messaging.publish.BREAK_S", 0.0)
    stumbles = Stumbles()
    stumbles.left = 1
    with monkeypatch.context() as patched:
        patched.setattr(Channel, "basic_publish", stumbles)
        assert not publisher.turn("a")
    assert publisher.turn("b")
    app.close()


def test_notices(own_valkey: OwnValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender that stumbles, and a reader that does."""
    settings = make_settings(tmp_path, broker_url=own_valkey.url)
    heard: list[str] = []
    stumbles = Stumbles()
    stumbles.left = 1

    def hear(notice: Notice) -> None:
        stumbles()
        heard.append(notice.job_id)

    listener = NoticeListener(settings, hear)
    listener.start()
    assert listener.connected.wait(10)
    sender = NoticeSender(settings)
    with monkeypatch.context() as patched:
        patched.setattr(Producer, "publish", stumble_once())
        sender.send(Notice(job_id="lost", kind="status"))
        assert eventually(lambda: any(life.failures for life in lives() if life.name == "notices"))
    sender.send(Notice(job_id="unreadable", kind="status", data={"value": {1, 2}}))
    sender.send(Notice(job_id="stumbled over", kind="status"))
    sender.send(Notice(job_id="heard", kind="status"))
    assert eventually(lambda: heard == ["heard"])
    sender.close()
    listener.stop()


def test_the_line_between_the_processes_of_a_worker() -> None:
    heard: list[str] = []
    stumbles = Stumbles()
    stumbles.left = 1

    def hear(what: str) -> None:
        stumbles()
        heard.append(what)

    line = CondemnPipe()
    line.listen(hear)
    line.say("lost")
    line.say("heard")
    assert eventually(lambda: heard == ["heard"])


def test_the_thread_that_forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("wb") as log:
        order = Order(command=[sys.executable, "-c", ""], cwd=tmp_path, environment={}, log=log)
        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "Popen", stumble_once())
            answer: Future[Any] = Future()

            def ask() -> None:
                try:
                    answer.set_result(spawn_from_lasting_thread(order))
                except AttributeError as exc:
                    answer.set_exception(exc)

            threading.Thread(target=ask, daemon=True).start()
            with pytest.raises(AttributeError):
                answer.result(10)
        assert spawn_from_lasting_thread(order).wait(30) == 0


def test_the_limit_of_an_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    shut, stumble = deadline._shut, stumble_once()

    def shut_at_second_try(own: socket.socket) -> None:
        stumble()
        shut(own)

    monkeypatch.setattr(deadline, "_shut", shut_at_second_try)
    limit = Deadline(0.1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        limit.watch(ours)
        theirs.settimeout(10)
        assert theirs.recv(1) == b""
    limit.close()


def test_ready_shows_them(sqlite_settings: Settings) -> None:
    stumbles = Stumbles()
    stumbles.left = 1_000_000
    failing = Loop("fails", stumbles, pause_s=0.01)
    with running_api(sqlite_settings) as api:
        failing.start()
        assert eventually(lambda: failing.life.failures > 1)
        shown = api.get("/ready").json()
        (loop,) = [loop for loop in shown["loops"] if loop["name"] == "fails"]
        assert (loop["alive"], loop["last_error"]) == (True, "AttributeError")
        assert loop["failures"] > 1
        assert loop["failing_since"] is not None
        assert shown["ledger"] == {"ok": True, "reason": None}
        stumbles.left = 0
        assert eventually(lambda: failing.life.failures == 0)
        failing.end()
        assert eventually(lambda: not [loop for loop in api.get("/ready").json()["loops"] if loop["name"] == "fails"])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_server_is_not_ready_while_one_of_them_is_dead(tmp_path: Path, shared_redis: Broker) -> None:
    def die() -> None:
        raise SystemExit

    dying = Loop("dies", die, pause_s=0.01)
    with running_api(shared_redis.settings(tmp_path)) as api:
        api.worker.come_up()
        assert eventually(lambda: api.get("/ready").status_code == 200)
        dying.start()
        assert eventually(lambda: api.get("/ready").status_code == 503)
        (loop,) = [loop for loop in api.get("/ready").json()["loops"] if loop["name"] == "dies"]
        assert not loop["alive"]
        dying.end()
        assert eventually(lambda: api.get("/ready").status_code == 200)


def test_ready_tells_of_a_broker_that_refuses_us(sqlite_settings: Settings, shared_rabbitmq: Broker) -> None:
    url = shared_rabbitmq.url.rpartition("/")[0] + "/nowhere"
    with running_api(sqlite_settings.model_copy(update={"broker_url": url})) as api:
        answer = api.get("/ready")

    assert answer.status_code == 503
    assert answer.json()["broker"] == {"ok": False, "reason": "The broker does not answer (NotAllowed)."}


# The main process of a GPU worker.


@pytest.fixture
def agent(sqlite_settings: Settings) -> Iterator[InstanceAgent]:
    settings = sqlite_settings.model_copy(update={"simulated_gpus": 1, "host": "left", "lease_renew_s": 0.1})
    (spec,) = plan_instances(settings)
    spec.data_dir.mkdir(parents=True)
    agent = InstanceAgent(settings, spec, Tenure(settings, spec, worker="w"))
    agent.start()
    yield agent
    agent.stop()


def record_of(ledger: Ledger) -> InstanceRecord:
    record = ledger.instances.get("gpu0@left")
    assert record is not None
    return record


def test_the_heartbeat(agent: InstanceAgent, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert eventually(lambda: record_of(sqlite_ledger).state == HEALTHY, 30)
    with monkeypatch.context() as patched:
        # What is told to the ledger, and what is done beside that.
        patched.setattr("core.ledger.instances.Instances.heartbeat", stumble_once())
        patched.setattr("tasks.instance.housekeeping.Housekeeper.disk_problem", stumble_once())
        assert eventually(lambda: any(life.failures for life in lives() if life.name == "heartbeat"))
    before_ms = record_of(sqlite_ledger).heartbeat_at_ms
    assert eventually(lambda: record_of(sqlite_ledger).heartbeat_at_ms > before_ms)
    with monkeypatch.context() as patched:
        patched.setattr("tasks.instance.housekeeping.Housekeeper.keep", lambda *_: stumble_once()())
        # Its ledger is told all the same, and also what is wrong.
        assert eventually(lambda: "heartbeat (AttributeError)" in (record_of(sqlite_ledger).reason or ""))
        assert record_of(sqlite_ledger).state == HEALTHY
    assert eventually(lambda: "heartbeat" not in (record_of(sqlite_ledger).reason or ""))


def test_a_restart_that_stumbles_over_handing_jobs_back(
    agent: InstanceAgent, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert eventually(lambda: record_of(sqlite_ledger).state == HEALTHY, 30)
    with monkeypatch.context() as patched:
        for name in ("what_waits", "wait_until_idle"):
            patched.setattr(f"tasks.instance.release.JobRelease.{name}", stumble_once())
        agent.restart()
        assert eventually(lambda: record_of(sqlite_ledger).state == UNHEALTHY, 30)
    assert eventually(lambda: record_of(sqlite_ledger).state == HEALTHY, 30)
    assert record_of(sqlite_ledger).restarts == 1
    assert agent.takes_jobs


def test_a_lost_pool_process_is_tidied_up_after_at_the_second_try(
    agent: InstanceAgent, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert eventually(lambda: record_of(sqlite_ledger).state == HEALTHY, 30)
    job = submit(sqlite_ledger)
    assert sqlite_ledger.claims.claim("gpu0@left") is not None
    whole = JobRelease.of_dead_process
    stumble = stumble_once()

    def stumbling_once(self: JobRelease) -> None:
        stumble()
        whole(self)

    monkeypatch.setattr(JobRelease, "of_dead_process", stumbling_once)
    agent.lose_jobs()
    assert eventually(lambda: sqlite_ledger.jobs.get(job.id).status == "queued")


def test_a_worker_that_was_forgotten_says_again_all_there_is_to_say(
    agent: InstanceAgent, sqlite_ledger: Ledger
) -> None:
    """Its machine slept for days, and its row has gone, and its catalogue with it."""
    assert eventually(lambda: record_of(sqlite_ledger).state == HEALTHY, 30)
    before = record_of(sqlite_ledger)
    (digest,) = sqlite_ledger.instances.known_catalogues()
    with sqlite_ledger.database.write() as transaction:
        for table in (instances, catalogues):
            transaction.connection.execute(delete(table))
    assert eventually(lambda: (sqlite_ledger.instances.get("gpu0@left") or before).state == HEALTHY, 30)
    assert eventually(lambda: sqlite_ledger.instances.catalogues() == {digest: ["gpu0@left"]}, 30)
    again = record_of(sqlite_ledger)
    assert (again.url, again.version, again.device, again.kind) == (
        before.url,
        before.version,
        before.device,
        before.kind,
    )
    assert sqlite_ledger.instances.catalogue(digest)
    job = submit(sqlite_ledger)
    claim = sqlite_ledger.claims.claim("gpu0@left")
    assert claim is not None
    assert claim.job_id == job.id
