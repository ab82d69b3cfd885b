"""What is no message of ours, in every queue and exchange, on each broker: it is dropped, and everybody lives."""

from __future__ import annotations

import base64
import copy
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

import amqp
import pytest
import redis
import requests
from kombu import Connection

from tasks.messaging.names import GENERATE, NOTIFY, RECONCILE, UPLOAD, io_queue_of
from tests.fleet import Fleet, work
from tests.ports import free_port
from tests.services import Broker, rabbitmq_broker, redis_broker
from tests.waiting import until

pytestmark = pytest.mark.slow

CANARY = "a lighthouse nobody may know of"
#: What each queue holds when all is well.
TASK_OF = {"gpu": GENERATE, "io": NOTIFY, io_queue_of(socket.gethostname()): UPLOAD, "maintenance": RECONCILE}
EMBEDDED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

DEEP = b"[" * 100_000
#: Bodies of messages whose headers are right.
BODIES: dict[str, bytes] = {
    "empty": b"",
    "list": b"[]",
    "number": b"5",
    "null": b"null",
    "deep": DEEP,
    "short and deep": DEEP[:50_000],
    "no JSON": CANARY.encode(),
    "not UTF-8": b'["\xff\xfe"]',
    "an argument too many": json.dumps([[CANARY, 1], {}, EMBEDDED]).encode(),
    "an argument of the wrong kind": json.dumps([[{"id": CANARY}], {}, EMBEDDED]).encode(),
    "a zero byte": json.dumps([["\0"], {}, EMBEDDED]).encode(),
    "keywords": json.dumps([[str(uuid.uuid4())], {CANARY: 1}, EMBEDDED]).encode(),
    "keywords of the wrong kind": json.dumps([[str(uuid.uuid4())], [CANARY], EMBEDDED]).encode(),
    "embedded": json.dumps([[str(uuid.uuid4())], {}, [CANARY]]).encode(),
    "chain": json.dumps([[str(uuid.uuid4())], {}, {**EMBEDDED, "chain": [CANARY]}]).encode(),
    "error callback": json.dumps([[str(uuid.uuid4())], {}, {**EMBEDDED, "errbacks": [{"task": CANARY}]}]).encode(),
    "too long": json.dumps([[CANARY * 10_000], {}, EMBEDDED]).encode(),
    "protocol 1": json.dumps({"task": CANARY, "id": 5, "args": 7, "kwargs": []}).encode(),
}
#: Of what follows a task, steps that Celery could not publish.
STEPS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "arguments that are none": {"args": 5, "kwargs": {}, "options": {}},
    "keywords": {"args": [], "kwargs": {CANARY: 1}, "options": {}},
    "a queue that is none": {"args": [], "kwargs": {}, "options": {"queue": [1]}},
    "a countdown": {"args": [], "kwargs": {}, "options": {"countdown": "x"}},
    "an unknown type": {"args": [], "kwargs": {}, "options": {}, "subtask_type": CANARY},
}
for _name, _step in STEPS.items():
    _chain = [{"task": NOTIFY, **_step}]
    BODIES[f"chain with {_name}"] = json.dumps([[str(uuid.uuid4())], {}, {**EMBEDDED, "chain": _chain}]).encode()
#: What is wrong with the headers of messages whose bodies are right; `...` takes the header away.
HEADERS: dict[str, dict[str, Any]] = {
    "no headers": {"task": ..., "id": ...},
    "no id": {"id": ...},
    "id a list": {"id": [1]},
    "id a table": {"id": {"a": 1}},
    "no task": {"task": ...},
    "task a number": {"task": 5},
    "task a list": {"task": [1]},
    "unknown task": {"task": "celery.backend_cleanup"},
    "eta in the year 9999": {"eta": "9999-12-31T23:59:59+00:00"},
    "eta garbage": {"eta": "tomorrow"},
    "eta a number": {"eta": 17},
    "expires garbage": {"expires": "never"},
    "expires a list": {"expires": [1]},
    "expires in the year 9999": {"expires": "9999-12-31T23:59:59.999999-12:00", "task": "nobody's"},
    "compressed": {"compression": "zlib"},
    "compressed unknown": {"compression": "x-nobody-knows"},
}
#: Headers that are wrong in what we do not use: such a message is as good as any.
HARMLESS = {
    "retries": -1,
    "timelimit": "long",
    "argsrepr": 5,
    "kwargsrepr": [1],
    "root_id": [1],
    "parent_id": {"a": 1},
    "group": 3,
    "shadow": [1],
    "stamps": 1,
    "stamped_headers": 5,
    "ignore_result": [0],
    "replaced_task_nesting": "x",
    "delivery_info": 5,
    "lang": 7,
}
CONTENT = {
    "content type": ("application/x-python-serialize", "binary"),
    "no content type": (None, None),
    "content encoding": ("text/plain", "x-nobody-knows"),
}
#: Commands and notices share their exchanges with everybody.
BROADCASTS: dict[str, bytes] = {
    "empty": b"",
    "list": b"[]",
    "number": b"5",
    "text": json.dumps(CANARY).encode(),
    "deep": DEEP,
    "no JSON": CANARY.encode(),
    "not UTF-8": b"\xff\xfe",
    "no method": b"{}",
    "unknown method": json.dumps({"method": CANARY}).encode(),
    "method a list": b'{"method": []}',
    "arguments": json.dumps({"method": "ping", "arguments": 5}).encode(),
    "reply": json.dumps({"method": "ping", "reply_to": [1], "ticket": 5}).encode(),
    "itself": json.dumps({"method": "ping", "self": 5, "task": CANARY}).encode(),
    "notice without a job": json.dumps({"kind": "status"}).encode(),
    "notice of the wrong kind": json.dumps({"job_id": [CANARY], "kind": 5, "seq": "x", "data": [1]}).encode(),
}
#: Whole payloads in a Redis list or on one of its channels.
RAW: dict[str, bytes] = {
    "empty list": b"[]",
    "number": b"5",
    "null": b"null",
    "object": b"{}",
    "deep": DEEP,
    "no JSON": CANARY.encode(),
    "not UTF-8": b"\xff\xfe",
    "a type kombu makes": b'{"__type__": "datetime", "__value__": "never"}',
    "properties a list": b'{"properties": []}',
    "no delivery info": b'{"body": "", "properties": {"delivery_tag": "a"}}',
    "a tag that is a list": json.dumps(
        {"properties": {"delivery_tag": [1], "delivery_info": {"exchange": "", "routing_key": ""}}}
    ).encode(),
    "headers a list": json.dumps(
        {"headers": [1], "properties": {"delivery_tag": "a", "delivery_info": {"exchange": "", "routing_key": ""}}}
    ).encode(),
    "body no base64": json.dumps(
        {
            "body": "é",
            "properties": {
                "delivery_tag": "a",
                "body_encoding": "base64",
                "delivery_info": {"exchange": "", "routing_key": ""},
            },
        }
    ).encode(),
}


def headers_of(task: str, wrong: dict[str, Any] | None = None) -> dict[str, Any]:
    """Headers as Celery writes them, with something wrong."""
    task_id = str(uuid.uuid4())
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "root_id": task_id,
        "eta": None,
        "expires": None,
    }
    headers |= {"retries": 0, "timelimit": [None, None], "argsrepr": "()", "kwargsrepr": "{}"} | (wrong or {})
    return {name: value for name, value in headers.items() if value is not ...}


def body_of(task: str, job_id: str | None = None) -> bytes:
    """A body as Celery writes it."""
    job_id = job_id or str(uuid.uuid4())
    arguments = {GENERATE: [job_id], NOTIFY: [job_id], UPLOAD: [[job_id, 1]], RECONCILE: []}[task]
    # As `Publisher` has it: the last step first.
    steps = [{"task": NOTIFY, "args": [], "kwargs": {}, "options": {"queue": "io"}, "immutable": False}]
    steps += [{"task": UPLOAD, "args": [], "kwargs": {}, "options": {}, "immutable": False}]
    return json.dumps([arguments, {}, {**EMBEDDED, "chain": steps if task == GENERATE else None}]).encode()


class Mouth(Protocol):
    """Puts anything at all into a broker."""

    def say(
        self, queue: str, body: bytes, headers: dict[str, Any], content_type: str | None, encoding: str | None
    ) -> None:
        """Put a message into a queue."""

    def shout(self, exchange: str, body: bytes) -> None:
        """Put a message into an exchange that reaches everybody."""

    def spit(self, queue: str, exchanges: list[str]) -> int:
        """Put what is not even a message there; returns how many into the queue."""

    def close(self) -> None:
        """Leave the broker."""


class RedisMouth:
    """Lists and channels of Redis."""

    def __init__(self, broker: Broker) -> None:
        self._redis = redis.Redis.from_url(broker.url)
        self._prefix = f"{broker.namespace}:"

    def close(self) -> None:
        self._redis.close()

    def say(
        self, queue: str, body: bytes, headers: dict[str, Any], content_type: str | None, encoding: str | None
    ) -> None:
        self._redis.lpush(self._prefix + queue, self._envelope(queue, body, headers, content_type, encoding))

    def shout(self, exchange: str, body: bytes) -> None:
        payload = self._envelope("", body, {"clock": "late"}, "application/json", "utf-8")
        assert self._redis.publish(self._channel(exchange), payload) > 0

    def spit(self, queue: str, exchanges: list[str]) -> int:
        for payload in RAW.values():
            self._redis.lpush(self._prefix + queue, payload)
            for exchange in exchanges:
                self._redis.publish(self._channel(exchange), payload)
        return len(RAW)

    def _channel(self, exchange: str) -> str:
        topic = "/task.multi" if exchange == "celeryev" else ""
        return f"{self._prefix}/{self._redis.get_connection_kwargs()['db']}.{exchange}{topic}"

    def _envelope(self, queue: str, body: bytes, headers: Any, content_type: str | None, encoding: str | None) -> str:
        properties = {
            "delivery_info": {"exchange": "comfyline", "routing_key": queue},
            "delivery_tag": str(uuid.uuid4()),
            "body_encoding": "base64",
            "priority": "high",
            "reply_to": [1],
            "correlation_id": {"a": 1},
        }
        payload = {"body": base64.b64encode(body).decode(), "headers": headers, "properties": properties}
        return json.dumps({**payload, "content-type": content_type, "content-encoding": encoding})


class Undated(amqp.Message):
    """A message whose headers hold a date that Python has no word for."""

    def _serialize_properties(self) -> bytes:
        table = b"\x04whenT" + (2**60).to_bytes(8, "big")
        return (1 << 13).to_bytes(2, "big") + len(table).to_bytes(4, "big") + table


#: A routing key that is no UTF-8; what fans out takes any.
ODD_KEY: Any = b"\xff\xfe"


class RabbitMouth:
    """Queues and exchanges of RabbitMQ."""

    def __init__(self, broker: Broker) -> None:
        self._connection = Connection(broker.url)

    def close(self) -> None:
        self._connection.release()

    def say(
        self, queue: str, body: bytes, headers: dict[str, Any], content_type: str | None, encoding: str | None
    ) -> None:
        message = amqp.Message(
            body, content_type=content_type, content_encoding=encoding, application_headers=copy.deepcopy(headers)
        )
        self._channel().basic_publish(message, routing_key=queue)

    def shout(self, exchange: str, body: bytes) -> None:
        message = amqp.Message(body, content_type="application/json", application_headers={"clock": "late"})
        self._channel().basic_publish(message, exchange=exchange, routing_key="task.multi")

    def spit(self, queue: str, exchanges: list[str]) -> int:
        channel = self._channel()
        channel.basic_publish(Undated(CANARY), routing_key=queue)
        for exchange in exchanges:
            channel.basic_publish(Undated(CANARY), exchange=exchange, routing_key="task.multi")
            channel.basic_publish(amqp.Message(CANARY), exchange=exchange, routing_key=ODD_KEY)
        return 1

    def _channel(self) -> Any:
        return self._connection.default_channel


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """Each broker in turn, under names of its own: what is broken here is no other test's."""
    with (redis_broker if request.param == "redis" else rabbitmq_broker)() as found:
        yield found


@pytest.fixture(scope="module")
def fleet(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One GPU, one of each other process, and no reconciler that would mend what is broken."""
    settings = {"broker_url": broker.url, "broker_namespace": broker.namespace, "simulated_gpus": "1"}
    settings |= {"flower_port": str(free_port()), "flower_basic_auth": "user:password"}
    with Fleet(tmp_path_factory.mktemp("fleet"), **settings) as fleet:
        yield fleet.start("api", "gpu0", "io", "flower").ready(gpus=1)


@pytest.fixture
def mouth(broker: Broker) -> Iterator[Mouth]:
    """What puts anything into the broker."""
    mouth = RedisMouth(broker) if broker.kind == "redis" else RabbitMouth(broker)
    yield mouth
    mouth.close()


def run_a_job(fleet: Fleet) -> str:
    """A job goes its whole way: turn, upload."""
    job_id = fleet.submit(work(0.0))
    assert fleet.wait(job_id)["status"] == "succeeded"
    return job_id


def refusals(fleet: Fleet, name: str) -> int:
    """Lines in which a process said that it dropped something."""
    return sum("dropped" in line for line in fleet.log(name).splitlines())


def flower_tasks(fleet: Fleet) -> dict[str, Any]:
    """What Flower knows of tasks."""
    port = fleet.environment()["COMFYLINE_FLOWER_PORT"]
    answer = requests.get(f"http://127.0.0.1:{port}/api/tasks", auth=("user", "password"), timeout=10)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


def check_all_live(fleet: Fleet, pids: dict[str, int]) -> None:
    """The same processes as before are there, and no log has a body or a traceback."""
    assert {name: process.pid for name, process in fleet.processes.items() if process.poll() is None} == pids
    for name in pids:
        assert CANARY not in fleet.log(name)
        assert "[[[[" not in fleet.log(name)
        assert "Traceback" not in fleet.log(name), fleet.log(name)[-5000:]


@pytest.mark.parametrize("queue", TASK_OF, ids=list(TASK_OF.values()))
def test_what_is_no_message_of_ours_costs_a_line_in_the_log(fleet: Fleet, mouth: Mouth, queue: str) -> None:
    name, task = ("gpu0" if queue == "gpu" else "io"), TASK_OF[queue]
    pids = {name: process.pid for name, process in fleet.processes.items()}
    run_a_job(fleet)
    before = refusals(fleet, name)

    for body in BODIES.values():
        mouth.say(queue, body, headers_of(task), "application/json", "utf-8")
    for wrong in HEADERS.values():
        mouth.say(queue, body_of(task), headers_of(task, wrong), "application/json", "utf-8")
    for content_type, encoding in CONTENT.values():
        mouth.say(queue, body_of(task), headers_of(task), content_type, encoding)
    said = len(BODIES) + len(HEADERS) + len(CONTENT) + mouth.spit(queue, [])

    until(lambda: refusals(fleet, name) - before >= said, what=f"{said} refusals")
    assert refusals(fleet, name) - before == said
    run_a_job(fleet)
    check_all_live(fleet, pids)


def test_headers_that_nobody_needs_spoil_nothing(fleet: Fleet, mouth: Mouth) -> None:
    for name, wrong in HARMLESS.items():
        mouth.say("gpu", body_of(GENERATE), headers_of(GENERATE, {name: wrong}), "application/json", "utf-8")

    run_a_job(fleet)
    assert "Traceback" not in fleet.log("gpu0")


def test_commands_notices_and_events_that_are_none_end_nobody(fleet: Fleet, mouth: Mouth) -> None:
    pids = {name: process.pid for name, process in fleet.processes.items()}
    namespace = fleet.environment()["COMFYLINE_BROKER_NAMESPACE"]
    exchanges = ["celery.pidbox", f"{namespace}.notices", "celeryev"]

    for exchange in exchanges:
        for body in BROADCASTS.values():
            mouth.shout(exchange, body)
    mouth.spit("gpu", exchanges)

    job_id = run_a_job(fleet)
    drained = fleet.command("drain", "gpu0")
    assert drained.returncode == 0, drained.stdout + drained.stderr
    assert fleet.command("resume", "gpu0").returncode == 0
    # Events reach Flower again; what it says of the others is its own. A turn of an earlier test may have run the job.
    until(
        lambda: any(job_id in f"{task['args']} {task['result']}" for task in flower_tasks(fleet).values()),
        what="the job in Flower",
    )
    check_all_live(fleet, pids)


#: Keys of ours in Redis, each with what does not belong there.
WRONG_TYPES: dict[str, Any] = {
    "gpu": "a text",
    "io": {"a": "hash"},
    "maintenance\x06\x169": "a text",
    "unacked": "a text",
    "unacked_index": ["a list"],
    "_kombu.binding.comfyline": "a text",
}
#: What may lie among the messages that were delivered and not acknowledged, and is put back in time.
UNACKNOWLEDGED: dict[str, bytes] = {
    **RAW,
    "not even three": b"[1, 2]",
    "no message": b'[{}, "comfyline", "gpu"]',
    "without headers": b'[{"body": "", "properties": {"delivery_info": {"exchange": "comfyline", "routing_key": '
    b'"gpu"}, "delivery_tag": "a"}}, "comfyline", "gpu"]',
    "from nowhere": b'[{"headers": {}, "properties": {"delivery_info": {"exchange": "comfyline", "routing_key": '
    b'"gpu"}, "delivery_tag": "a"}}, {}, []]',
}


@pytest.fixture
def keys(fleet: Fleet, broker: Broker) -> Iterator[tuple[redis.Redis, str]]:
    """Redis, and what the names of the fleet's keys begin with."""
    if broker.kind != "redis":
        pytest.skip("keys have types on Redis alone")
    with redis.Redis.from_url(broker.url) as client:
        yield client, f"{fleet.environment()['COMFYLINE_BROKER_NAMESPACE']}:"


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_a_key_of_the_wrong_type_is_set_aside(fleet: Fleet, keys: tuple[redis.Redis, str], name: str) -> None:
    client, prefix = keys
    pids = {name: process.pid for name, process in fleet.processes.items()}
    run_a_job(fleet)
    value = WRONG_TYPES[name]

    client.delete(prefix + name)
    if isinstance(value, dict):
        client.hset(prefix + name, mapping=value)
    elif isinstance(value, list):
        client.lpush(prefix + name, *value)
    else:
        client.set(prefix + name, value)

    run_a_job(fleet)
    check_all_live(fleet, pids)


def test_what_was_not_acknowledged_and_is_no_message_is_dropped(fleet: Fleet, keys: tuple[redis.Redis, str]) -> None:
    client, prefix = keys
    pids = {name: process.pid for name, process in fleet.processes.items()}
    for tag, payload in UNACKNOWLEDGED.items():
        client.hset(f"{prefix}unacked", tag, payload)
        client.zadd(f"{prefix}unacked_index", {tag: 1.0})

    until(lambda: client.zcard(f"{prefix}unacked_index") == 0, what="an end of them")

    assert client.hlen(f"{prefix}unacked") == 0
    run_a_job(fleet)
    check_all_live(fleet, pids)
