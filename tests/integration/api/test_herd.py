"""Clients that all come at the same moment, as after a restart of the API: each waits its turn, and is served."""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest
import redis
import requests

from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.records.job_request import AcceptedJob, JobRequest
from core.settings import Settings
from tests.integration.api_fixtures import REDIS_URL, Worker, gunicorn_api, postgres_database, settings_for
from tests.makers import GRAPH
from tests.services import missing
from tests.waiting import PATIENCE

pytestmark = pytest.mark.slow

STREAMS = 2000
REQUESTS = 200
GIVE_UP_AFTER_S = 60.0


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        url = stack.enter_context(postgres_database()) if request.param == "postgres" else ""
        keys = stack.enter_context(closing(redis.Redis.from_url(REDIS_URL)))
        try:
            keys.ping()
        except redis.ConnectionError:
            missing(f"no Redis answers at {REDIS_URL} (set COMFYLINE_TEST_REDIS_URL)")
        stack.callback(lambda: [keys.delete(key) for key in keys.scan_iter(f"{namespace}*")])
        yield settings_for(
            tmp_path_factory.mktemp("herd"), database_url=url, broker_url=REDIS_URL, broker_namespace=namespace
        )


@pytest.fixture(scope="module")
def ledger(settings: Settings) -> Iterator[Ledger]:
    migrate(settings)
    with closing(Ledger(settings)) as ledger:
        Worker(ledger, settings.outputs_dir).come_up()
        yield ledger


@pytest.fixture(scope="module")
def url(settings: Settings, ledger: Ledger) -> Iterator[str]:
    """A server that uses at most four connections."""
    with gunicorn_api(settings, "tests.integration.small_pool:create()") as url:
        yield url


def all_at_once(url: str, asked: Sequence[bytes], is_enough: Callable[[bytes], bool]) -> list[bytes]:
    """Send everything before anything is read; what each was told until it was enough, or over."""
    address = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
    said: dict[socket.socket, bytes] = {}
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for request in asked:
            client = stack.enter_context(socket.create_connection(address, timeout=30))
            client.sendall(request)
            client.setblocking(False)
            selector.register(client, selectors.EVENT_READ)
            said[client] = b""
        deadline = time.monotonic() + GIVE_UP_AFTER_S * PATIENCE
        left = set(said)
        while left and time.monotonic() < deadline:
            for key, _events in selector.select(timeout=0.5):
                client = next(each for each in left if each is key.fileobj)
                chunk = client.recv(65536)
                said[client] += chunk
                if not chunk or is_enough(said[client]):
                    selector.unregister(client)
                    left.discard(client)
    return list(said.values())


def test_every_stream_of_a_herd_is_served(url: str, ledger: Ledger, settings: Settings) -> None:
    ids = [str(uuid.uuid4()) for _ in range(STREAMS)]
    for job_id in ids:
        request = JobRequest(contract="v2", graph=GRAPH)
        ledger.jobs.submit(AcceptedJob(request=request, id=job_id, graph_text=json.dumps(GRAPH), nodes_total=2))
    for job_id in ids[:3]:
        assert ledger.claims.claim("gpu0@test", named=job_id) is not None
    # Still heard of, however long all that took: without a GPU there are no places.
    Worker(ledger, settings.outputs_dir).come_up()
    head = "GET /api/v2/jobs/{}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{}\r\n"
    asked = [head.format(job_id, "Last-Event-ID: 0\r\n" if n % 4 == 0 else "").encode() for n, job_id in enumerate(ids)]

    answers = all_at_once(url, asked, lambda said: b"data: " in said or b" 200 " not in said[:20])

    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    first = [json.loads(answer.partition(b"data: ")[2].partition(b"\n")[0]) for answer in answers]
    # The first of those that were there before is told its whole story; the others, how things stand.
    assert [each["status"] for each in first[:4]] == ["queued", "running", "running", "queued"]
    assert sorted(each["queue_position"] for each in first if "queue_position" in each) == list(range(1, STREAMS - 2))


def test_every_request_of_a_herd_is_recorded_and_waits_for_its_end(url: str, ledger: Ledger) -> None:
    body = json.dumps({"input": {"workflow_json": GRAPH}}).encode()
    head = "POST /generate/sync HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    before = ledger.jobs.count("queued")

    def end_all() -> None:
        deadline = time.monotonic() + GIVE_UP_AFTER_S * PATIENCE
        while ledger.jobs.count("queued") < before + REQUESTS:
            assert time.monotonic() < deadline, ledger.jobs.count("queued")
            time.sleep(0.1)
        for job in ledger.jobs.page(limit=REQUESTS):
            ledger.jobs.cancel(job.id)

    thread = threading.Thread(target=end_all)
    thread.start()
    answers = all_at_once(url, [request] * REQUESTS, lambda said: False)
    thread.join()

    assert {answer.partition(b"\r\n")[0][:12] for answer in answers} == {b"HTTP/1.1 499"}
    assert requests.get(f"{url}/health", timeout=5).ok
