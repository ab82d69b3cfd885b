"""Webhooks from end to end: a whole fleet, and a receiver that answers as it was told."""

from __future__ import annotations

import http.server
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
import requests
from sqlalchemy import Row, select, update

from core.ledger import Ledger
from core.ledger.database.tables import deliveries
from core.settings import Settings
from tests.fleet import ALL, Fleet, work
from tests.waiting import until

ANSWERS = {"/ok": 200, "/broken": 500, "/moved": 302}
#: No test waits for so long.
LIMIT_S = 30
BODY_KEYS = {"id", "status", "message", "output", "timings", "extra"}


@dataclass(frozen=True, kw_only=True)
class Post:
    """One request that the receiver got."""

    path: str
    #: Names in lower case.
    headers: dict[str, str]
    body: dict[str, Any]


class Receiver(http.server.ThreadingHTTPServer):
    """Answers by path: `/ok`, `/broken`, `/moved` (to `/ok`), and `/hang`, which answers when `release` is set."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.posts: list[Post] = []
        self.release = threading.Event()

    def posts_of(self, job_id: str) -> list[Post]:
        """What was posted for a job."""
        return [post for post in self.posts if post.body.get("id") == job_id]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.posts.append(Post(path=self.path, headers=headers, body=json.loads(content)))
        if self.path == "/hang":
            self.server.release.wait(60)
            return
        self.send_response(ANSWERS[self.path.partition("?")[0]])
        self.send_header("Location", f"{self.server.url}/ok")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield receiver
        receiver.release.set()
        receiver.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    settings = {"simulated_gpus": "1", "simulator_args": "--simulate-test-nodes", "reconcile_s": "1"}
    settings |= {"webhook_limit_s": str(LIMIT_S), "webhook_schedule_s": "1,300"}
    # One receiver serves all tests, and what fails in one is not to keep the next waiting.
    settings |= {"webhook_break_s": "0"}
    with Fleet(tmp_path_factory.mktemp("webhooks"), **settings) as fleet:
        yield fleet.start(*(name for name in ALL if name != "gpu1")).ready(gpus=1)


@pytest.fixture(scope="module")
def ledger(fleet: Fleet) -> Iterator[Ledger]:
    ledger = Ledger(Settings(data_dir=fleet.data_dir))
    yield ledger
    ledger.close()


def failing() -> dict[str, Any]:
    """A graph that every check lets pass, and that a node then refuses."""
    graph = work(0)
    graph["2"] = {"class_type": "T_Err", "inputs": {"image": ["1", 0], "kind": "runtime"}}
    return graph


def generate(fleet: Fleet, graph: dict[str, Any], url: str, **webhook: Any) -> str:
    """Submit through `/generate` with a webhook; returns the job's id."""
    body = {"input": {"workflow_json": graph, "webhook": {"url": url, **webhook}}}
    answer = requests.post(f"{fleet.base_url}/generate", json=body, timeout=10)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def outbox(ledger: Ledger, job_id: str) -> Row[Any]:
    """The one delivery of an ended job."""
    with ledger.database.read() as connection:
        return connection.execute(select(deliveries).where(deliveries.c.job_id == job_id)).one()


def ended(ledger: Ledger, job_id: str, state: str) -> Row[Any]:
    """The delivery of an ended job, once it has this state."""

    def arrived() -> Row[Any] | None:
        row = outbox(ledger, job_id)
        return row if row.state == state else None

    found: Row[Any] = until(arrived, what=f"state {state} of the webhook of {job_id}")
    return found


def tried(ledger: Ledger, job_id: str, count: int) -> Row[Any]:
    """The delivery of an ended job, once so many tries have come to their end."""

    def arrived() -> Row[Any] | None:
        row = outbox(ledger, job_id)
        return row if row.tries >= count and row.state != "sending" else None

    found: Row[Any] = until(arrived, what=f"{count} tries at the webhook of {job_id}")
    return found


def test_success_is_posted_with_outputs_that_can_be_fetched(fleet: Fleet, receiver: Receiver, ledger: Ledger) -> None:
    extra = {"user": 7, "nested": {"a": [1, None]}}
    job_id = generate(fleet, work(0.05, seed=1), f"{receiver.url}/ok", extra_params=extra)
    fleet.wait(job_id, "succeeded")
    row = ended(ledger, job_id, "delivered")
    [post] = receiver.posts_of(job_id)
    assert set(post.body) == BODY_KEYS
    assert (post.body["status"], post.body["message"]) == ("completed", "Request completed successfully")
    assert post.body["extra"] == extra
    timings = post.body["timings"]
    assert timings["completed_at_ms"] - timings["queued_at_ms"] == timings["total_ms"]
    assert timings["generation_ms"] >= 50
    [output] = post.body["output"]
    assert output["url"].startswith(fleet.base_url)
    picture = requests.get(output["url"], timeout=10)
    assert picture.status_code == 200
    assert picture.content.startswith(b"\x89PNG")
    assert (picture.headers["Content-Type"], output["mimetype"]) == ("image/png", "image/png")
    assert post.headers["content-type"] == "application/json"
    assert post.headers["webhook-id"] == row.id
    assert (row.tries, row.status_code, row.error) == (1, 200, None)


def test_failure_is_posted_with_its_reason(fleet: Fleet, receiver: Receiver, ledger: Ledger) -> None:
    job_id = generate(fleet, failing(), f"{receiver.url}/ok")
    fleet.wait(job_id, "failed")
    ended(ledger, job_id, "delivered")
    [post] = receiver.posts_of(job_id)
    assert set(post.body) == BODY_KEYS
    assert post.body["status"] == "failed"
    assert "boom" in post.body["message"]
    assert "T_Err" in post.body["message"]
    assert (post.body["output"], post.body["extra"]) == ([], {})


@pytest.mark.parametrize("state", ["running", "queued"])
def test_cancelling_is_posted(fleet: Fleet, receiver: Receiver, ledger: Ledger, state: str) -> None:
    blocker = fleet.submit(work(30.0, steps=300, seed=2)) if state == "queued" else None
    if blocker is not None:
        fleet.wait(blocker, "running")
    job_id = generate(fleet, work(30.0, steps=300, seed=3), f"{receiver.url}/ok")
    fleet.wait(job_id, state)
    fleet.cancel(job_id)
    fleet.wait(job_id, "canceled")
    ended(ledger, job_id, "delivered")
    [post] = receiver.posts_of(job_id)
    assert (post.body["status"], post.body["output"]) == ("cancelled", [])
    if blocker is not None:
        fleet.cancel(blocker)
        fleet.wait(blocker, "canceled")


def test_an_answer_of_500_is_recorded_and_tried_again(fleet: Fleet, receiver: Receiver, ledger: Ledger) -> None:
    job_id = generate(fleet, work(0.05, seed=4), f"{receiver.url}/broken")
    done = fleet.wait(job_id, "succeeded")
    row = tried(ledger, job_id, 2)
    assert (row.state, row.status_code, row.error) == ("pending", 500, "answered 500")
    first, second = receiver.posts_of(job_id)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == row.id
    assert first.body == second.body
    assert fleet.job(job_id)["status"] == "succeeded"
    assert fleet.picture(done).startswith(b"\x89PNG")


def test_a_redirect_is_not_followed(fleet: Fleet, receiver: Receiver, ledger: Ledger) -> None:
    job_id = generate(fleet, work(0.05, seed=5), f"{receiver.url}/moved")
    fleet.wait(job_id, "succeeded")
    row = tried(ledger, job_id, 1)
    assert (row.state, row.status_code) == ("pending", 302)
    assert {post.path for post in receiver.posts_of(job_id)} == {"/moved"}


def test_a_receiver_that_is_not_there_is_recorded(fleet: Fleet, ledger: Ledger) -> None:
    # Port 1 of the loopback interface: nobody listens there.
    job_id = generate(fleet, work(0.05, seed=6), "http://127.0.0.1:1/")
    fleet.wait(job_id, "succeeded")
    row = tried(ledger, job_id, 1)
    assert (row.state, row.status_code, row.error) == ("pending", None, "no connection, or it broke off")


def test_a_receiver_that_never_answers_delays_no_other_job(fleet: Fleet, receiver: Receiver, ledger: Ledger) -> None:
    job_id = generate(fleet, work(0.05, seed=7), f"{receiver.url}/hang", timeout=LIMIT_S)
    until(lambda: receiver.posts_of(job_id), what="the webhook that hangs")
    other = fleet.submit(work(0, seed=8))
    fleet.wait(other, "succeeded")
    assert outbox(ledger, job_id).state == "sending", "the other job was stored meanwhile"
    receiver.release.set()
    # The next try comes in five minutes.
    tried(ledger, job_id, 2)
    receiver.release.clear()


def test_a_receiver_that_never_answers_is_waited_for_as_long_as_its_client_wants(
    fleet: Fleet, receiver: Receiver, ledger: Ledger
) -> None:
    job_id = generate(fleet, work(0.05, seed=11), f"{receiver.url}/hang", timeout=1)
    fleet.wait(job_id, "succeeded")
    row = tried(ledger, job_id, 1)
    assert (row.state, row.status_code, row.error) == ("pending", None, "no answer within 1 s")


@pytest.mark.slow
def test_a_webhook_outlives_the_io_worker_that_was_to_send_it(fleet: Fleet, receiver: Receiver, ledger: Ledger) -> None:
    fleet.signal("io", signal.SIGSTOP)
    # A failure is written by the GPU worker: the job ends while nobody can post its webhook.
    job_id = generate(fleet, failing(), f"{receiver.url}/ok")
    fleet.wait(job_id, "failed")
    fleet.kill("io")
    _take_messages(fleet)
    assert outbox(ledger, job_id).state == "pending"
    assert receiver.posts_of(job_id) == []
    fleet.start("io")
    assert ended(ledger, job_id, "delivered").tries == 1
    [post] = receiver.posts_of(job_id)
    assert post.body["status"] == "failed"


@pytest.mark.slow
def test_a_webhook_is_sent_again_under_the_same_id_when_the_io_worker_is_killed_in_mid_post(
    fleet: Fleet, receiver: Receiver, ledger: Ledger
) -> None:
    receiver.release.clear()
    job_id = generate(fleet, work(0.05, seed=9), f"{receiver.url}/hang", timeout=LIMIT_S)
    until(lambda: receiver.posts_of(job_id), what="the webhook that hangs")
    fleet.kill("io")
    assert outbox(ledger, job_id).state == "sending"
    # As if the hold of the sender that died had lapsed.
    with ledger.database.write() as transaction:
        transaction.connection.execute(
            update(deliveries).where(deliveries.c.job_id == job_id).values(next_try_at_ms=1, url=f"{receiver.url}/ok")
        )
    fleet.start("io")
    row = ended(ledger, job_id, "delivered")
    first, second = receiver.posts_of(job_id)
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == row.id
    assert row.tries == 2


def test_the_start_and_progress_are_posted_when_they_are_wanted(
    fleet: Fleet, receiver: Receiver, ledger: Ledger
) -> None:
    events = ["job.started", "job.progress", "job.completed"]
    body = {"workflow": work(2.5, steps=50, seed=10), "webhook": {"url": f"{receiver.url}/ok", "events": events}}
    answer = requests.post(f"{fleet.base_url}/api/v2/jobs", json=body, timeout=10)
    assert answer.status_code == 201, answer.text
    job_id = answer.json()["id"]

    def started() -> list[Post]:
        return [post for post in receiver.posts if post.headers.get("x-webhook-event") == "job.started"]

    until(started, timeout_s=5, what="the start")
    assert fleet.job(job_id)["status"] == "running", "it is told while it is news"
    fleet.wait(job_id, "succeeded")
    until(lambda: ledger.deliveries.open_count(job_id) == 0, what="the last webhook")
    posts = [post for post in receiver.posts if post.body.get("data", {}).get("id") == job_id]
    assert [post.body["type"] for post in posts][:2] == events[:2]
    assert [post.body["type"] for post in posts][-1] == "job.completed"
    numbers = [post.body["data"]["sequence"] for post in posts]
    assert numbers == sorted(set(numbers))
    assert 0.05 <= posts[1].body["data"]["progress"]["value"] < 1.0


def test_nothing_that_arrived_was_posted_twice(receiver: Receiver) -> None:
    # The reconciler ticked all the while; what it would send again, it has sent by now.
    ids = [post.headers["webhook-id"] for post in receiver.posts if post.path == "/ok"]
    assert len(ids) > 5
    assert len(set(ids)) == len(ids)


def test_the_query_of_a_url_is_sealed_until_it_is_sent(fleet: Fleet, receiver: Receiver, ledger: Ledger) -> None:
    path = "/ok?key=k3y0fth3r3c31v3r&again=1"
    job_id = generate(fleet, work(0.1), receiver.url + path)
    fleet.wait(job_id, "succeeded")
    row = ended(ledger, job_id, "delivered")

    assert row.url == f"{receiver.url}/ok?"
    assert [post.path for post in receiver.posts_of(job_id)] == [path]
    files = [file for file in [*fleet.data_dir.rglob("*"), *fleet.root.glob("*.log")] if file.is_file()]
    assert [file for file in files if b"k3y0fth3r3c31v3r" in file.read_bytes()] == []

    # Also when all of the job is over, and also for rows of versions that kept the URL whole.
    for url in (row.url, receiver.url + path):
        with ledger.database.write() as transaction:
            transaction.connection.execute(update(deliveries).where(deliveries.c.id == row.id).values(url=url))
        receiver.posts.clear()
        replayed = requests.post(f"{fleet.base_url}/webhooks/deliveries/{row.id}/replay", timeout=10)
        assert replayed.status_code == 202, replayed.text
        assert replayed.json()["url"] == f"{receiver.url}/ok"
        until(lambda: receiver.posts_of(job_id), what="the replay")
        assert [post.path for post in receiver.posts_of(job_id)] == [path]
        ended(ledger, job_id, "delivered")


def _take_messages(fleet: Fleet) -> None:
    """Take what waits for an io worker out of the broker, as a worker does that is killed before it can run it."""
    with redis.Redis(unix_socket_path=str(Settings(data_dir=fleet.data_dir).embedded_broker_socket)) as broker:
        broker.delete("fleet:io")
