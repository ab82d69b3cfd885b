"""What Flower and the logs say of a fleet at work: which job ran where, nothing of the reconciler, and no prompts."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from cli.local.queue_lengths import queue_lengths
from core.errors import BrokerUnavailable
from core.ledger import Ledger
from core.records.output_options import OutputOptions
from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.messaging.names import GENERATE, GPU_QUEUE, RECONCILE, io_queue_of
from tasks.messaging.publish import Publisher
from tests.fleet import Fleet, work
from tests.ledger_moves import submit
from tests.ports import free_port
from tests.services import Broker, make_settings
from tests.waiting import until

pytestmark = pytest.mark.slow

AUTH = ("user", "password")
#: What the simulator's failing node says: it stands for a prompt that a node repeats.
NODE_WORDS = "boom"


@pytest.fixture(scope="module")
def fleet(shared_rabbitmq: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"broker_url": shared_rabbitmq.url, "broker_namespace": shared_rabbitmq.namespace, "reconcile_s": "0.5"}
    settings |= {"flower_port": str(free_port()), "flower_basic_auth": ":".join(AUTH), "simulated_gpus": "1"}
    settings |= {"simulator_args": "--simulate-test-nodes"}
    with Fleet(tmp_path_factory.mktemp("flower"), **settings) as fleet:
        fleet.start("api", "gpu0", "io", "beat", "flower").ready(gpus=1)
        until(lambda: get(fleet, "/healthcheck", is_up=False), what="Flower")
        yield fleet


@pytest.fixture(scope="module")
def settings(fleet: Fleet) -> Settings:
    """Those of the fleet."""
    environment = fleet.environment()
    return Settings(
        data_dir=fleet.data_dir,
        broker_url=environment["COMFYLINE_BROKER_URL"],
        broker_namespace=environment["COMFYLINE_BROKER_NAMESPACE"],
    )


@pytest.fixture(scope="module")
def ledger(settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger(settings)
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def publisher(settings: Settings) -> Publisher:
    return Publisher(make_app(settings, "api"))


def get(fleet: Fleet, path: str, *, is_up: bool = True) -> Any:
    """What Flower answers; JSON where it is."""
    try:
        port = fleet.environment()["COMFYLINE_FLOWER_PORT"]
        answer = requests.get(f"http://127.0.0.1:{port}{path}", auth=AUTH, timeout=20)
    except requests.ConnectionError:
        if is_up:
            raise
        return None
    assert answer.status_code == 200, answer.text
    return answer.json() if "json" in answer.headers["Content-Type"] else answer.text


def ended_task(fleet: Fleet, task_id: str) -> dict[str, Any]:
    """A task as Flower shows it, once it has ended."""
    found: dict[str, Any] = until(
        lambda: {task_id: task for task_id, task in get(fleet, "/api/tasks").items() if task["succeeded"]}.get(task_id),
        what=f"the end of task {task_id} in Flower",
    )
    return found


@contextmanager
def no_reconciler(fleet: Fleet, settings: Settings) -> Iterator[None]:
    """Freeze the clock of the reconciler's ticks, and wait until what they published has been taken."""
    fleet.signal("beat", signal.SIGSTOP)
    try:
        # Both workers have worked through what was published before this job's turn and chain.
        fleet.wait(fleet.submit(work(0.0)))
        app = make_app(settings, "api")
        until(lambda: all(q["messages"] == 0 for q in queue_lengths(app, [GPU_QUEUE, "maintenance"])), what="no turns")
        yield
    finally:
        fleet.signal("beat", signal.SIGCONT)


def lines(fleet: Fleet, process: str, words: str) -> list[str]:
    return [line for line in fleet.log(process).splitlines() if words in line]


def test_the_job_that_ran_is_named_whichever_the_turn_was_for(
    fleet: Fleet, ledger: Ledger, publisher: Publisher, settings: Settings
) -> None:
    graph = '{"1":{"class_type":"EmptyImage","inputs":{"width":64,"height":64,"batch_size":1,"color":0}},'
    graph += '"2":{"class_type":"SaveImage","inputs":{"images":["1",0],"filename_prefix":"x"}}}'
    with no_reconciler(fleet, settings):
        # No turn but this one is about: while a job's own turn runs it, nothing has been published for the next.
        busy = fleet.submit(work(1.5))
        fleet.wait(busy, "running")
        job = submit(ledger, graph_text=graph, output_options=OutputOptions(strip_metadata=True))
        assert publisher.turn("for-another")

        assert fleet.wait(job.id)["status"] == "succeeded"

    [name] = [record.name for record in ledger.instances.all()]
    task = ended_task(fleet, "for-another")
    assert (task["name"], task["state"]) == (GENERATE, "SUCCESS")
    assert re.fullmatch(rf"\['{job.id}', 1, '{name}', [\d.]+\]", task["result"])
    assert task["args"] == "a turn, published for for-another"
    assert "result" in str(get(fleet, "/tasks"))
    [line] = lines(fleet, "gpu0", job.id)
    said = rf"INFO comfyline.tasks: {GENERATE} success seconds=[\d.]+: job {job.id} attempt 1 on {name}( \w+=\w+)*$"
    assert re.search(said, line)
    assert any(f"job {job.id} attempt 1" in line for line in lines(fleet, "io", "fleet.upload"))


def test_a_turn_that_finds_nothing_is_a_success_and_no_line(fleet: Fleet, publisher: Publisher) -> None:
    assert publisher.turn("for-nobody")

    task = ended_task(fleet, "for-nobody")

    assert (task["state"], task["result"]) == ("SUCCESS", "'nothing to do'")
    assert lines(fleet, "gpu0", "for-nobody") == []


def test_what_the_reconciler_does_all_day_fills_nothing(fleet: Fleet) -> None:
    def ticks() -> int:
        counted = 0
        for name in (GPU_QUEUE, "io", "maintenance"):
            counted += name in str(get(fleet, "/broker"))
        return counted

    assert ticks() == 3
    # By now there were many ticks: the jobs above took longer than one.
    assert {task["name"] for task in get(fleet, "/api/tasks").values()} & {RECONCILE} == set()
    assert lines(fleet, "io", RECONCILE + " ") == []
    assert lines(fleet, "beat", "Sending due task") == []


def test_a_graph_that_fails_is_a_line_and_its_reason_goes_to_the_job_alone(fleet: Fleet) -> None:
    graph = {**work(0.0), "3": {"class_type": "T_Err", "inputs": {"image": ["2", 0], "kind": "runtime"}}}
    graph["4"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}}
    job_id = fleet.submit(graph)

    job = fleet.wait(job_id)

    assert job["status"] == "failed"
    assert NODE_WORDS in job["error"]["message"]
    task = ended_task(fleet, job_id)
    assert task["state"] == "SUCCESS"
    assert f"job {job_id} attempt 1 on gpu0@" in task["result"]
    assert "failed (node_execution_error)" in task["result"]
    [line] = until(lambda: lines(fleet, "gpu0", job_id), what="the line")
    assert " INFO " in line
    pages = [str(get(fleet, path)) for path in ("/api/tasks", "/tasks", f"/task/{job_id}", "/api/workers")]
    for text in [*pages, *(fleet.log(name) for name in fleet.processes)]:
        assert NODE_WORDS not in text
        assert "Traceback (most" not in text


def test_queues_show_with_nobody_to_consume_them(fleet: Fleet, publisher: Publisher, settings: Settings) -> None:
    fleet.signal("io", signal.SIGSTOP)
    try:
        assert publisher.store("nobody", 1, "a-host-that-is-away")
        page, listed = get(fleet, "/broker"), get(fleet, "/api/queues/length")["active_queues"]
    finally:
        fleet.signal("io", signal.SIGCONT)
    names = {"gpu", f"gpu.gpu0@{settings.host}", "io", io_queue_of(settings.host), "maintenance"}
    assert {queue["name"] for queue in listed} == names
    assert all(name in page for name in names)
    assert "No queue data" not in page


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_lengths_are_known_on_each_broker(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    found: Broker = request.getfixturevalue(f"shared_{broker}")
    # Queues of hosts, for nobody else of this session reads them.
    settings = found.settings(tmp_path, host="lonely")
    app = make_app(settings, "api")
    for _ in range(3):
        assert Publisher(app).store("nobody", 1, "lonely")

    queues = queue_lengths(app, [io_queue_of("lonely"), io_queue_of("not-there")])

    assert [(queue["name"], queue["messages"], queue["messages_ready"]) for queue in queues] == [
        ("io.lonely", 3, 3),
        ("io.not-there", 0, 0),
    ]
    assert queues[0]["consumers"] == (0 if broker == "rabbitmq" else None)


def test_a_broker_that_is_away_is_said(tmp_path: Path) -> None:
    with pytest.raises(BrokerUnavailable, match="does not answer"):
        queue_lengths(make_app(make_settings(tmp_path), "api"), ["gpu"])
