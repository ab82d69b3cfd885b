"""The API as it is served: gunicorn with gevent over PostgreSQL and Redis, and both of them falling silent."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
import requests

from core.errors import NotFound
from core.ledger import Change, Ledger
from core.ledger.upgrade import migrate
from core.messaging.notices import Notice, NoticeSender
from tests.integration.api_fixtures import (
    REDIS_URL,
    FreezableProxy,
    Worker,
    gunicorn_api,
    postgres_database,
    settings_for,
    sse_frames,
)
from tests.makers import GRAPH
from tests.services import missing
from tests.waiting import PATIENCE, quickest, until

BODY = {"input": {"workflow_json": GRAPH}}


@dataclass
class Served:
    """A served API with two processes, its silent-able services, and a worker that talks past them."""

    url: str
    worker: Worker
    ledger_proxy: FreezableProxy
    broker_proxy: FreezableProxy
    log: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("served")
        database_url = stack.enter_context(postgres_database())
        keys = stack.enter_context(closing(_redis()))
        stack.callback(_forget, keys, namespace)
        ledger_proxy, broker_proxy = _proxy_of(database_url, 5432), _proxy_of(REDIS_URL, 6379)
        stack.callback(ledger_proxy.close)
        stack.callback(broker_proxy.close)
        direct = settings_for(directory, database_url=database_url, broker_url=REDIS_URL, broker_namespace=namespace)
        migrate(direct)
        sender = NoticeSender(direct)
        stack.callback(sender.close)
        ledger = Ledger(direct, on_change=lambda change: sender.send(_notice(change)))
        stack.callback(ledger.close)
        worker = Worker(ledger, direct.outputs_dir)
        worker.come_up()
        proxied = settings_for(
            directory,
            database_url=_through(database_url, ledger_proxy),
            broker_url=_through(REDIS_URL, broker_proxy),
            broker_namespace=namespace,
        )
        url = stack.enter_context(gunicorn_api(proxied, COMFYLINE_API_PROCESSES="2"))
        yield Served(
            url=url,
            worker=worker,
            ledger_proxy=ledger_proxy,
            broker_proxy=broker_proxy,
            log=directory / "gunicorn.log",
        )


@pytest.fixture(autouse=True)
def thawed(served: Served) -> Iterator[None]:
    yield
    served.ledger_proxy.thaw()
    served.broker_proxy.thaw()
    # Its heartbeat: on a slow machine the module takes longer than an instance may be silent.
    served.worker.come_up()
    until(
        lambda: all(requests.get(f"{served.url}/ready", timeout=5 * PATIENCE).status_code == 200 for _ in range(4)),
        timeout_s=20.0,
    )


def _redis() -> redis.Redis:
    client = redis.Redis.from_url(REDIS_URL)
    try:
        client.ping()
    except redis.ConnectionError:
        missing(f"no Redis answers at {REDIS_URL} (set COMFYLINE_TEST_REDIS_URL)")
    return client


def _forget(client: redis.Redis, namespace: str) -> None:
    for key in client.scan_iter(f"{namespace}*"):
        client.delete(key)


def _proxy_of(url: str, default_port: int) -> FreezableProxy:
    parts = urlsplit(url)
    return FreezableProxy(parts.hostname or "127.0.0.1", parts.port or default_port)


def _through(url: str, proxy: FreezableProxy) -> str:
    parts = urlsplit(url)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    return parts._replace(netloc=f"{user}127.0.0.1:{proxy.port}").geturl()


def _notice(change: Change) -> Notice:
    return Notice(job_id=change.job_id, kind="status", seq=change.seq, status=change.status)


def _get(served: Served, path: str) -> requests.Response:
    return requests.get(f"{served.url}{path}", timeout=5 * PATIENCE)


def _submit(served: Served) -> requests.Response:
    return requests.post(f"{served.url}/api/v2/jobs", json={"workflow": GRAPH}, timeout=10 * PATIENCE)


def _generate(served: Served, contract: str = "sync", **fields: str) -> requests.Response:
    """Wait for a job of one's own, as a client that asks again where the ledger has no time for it yet."""
    body = {"input": {**BODY["input"], **fields}}
    while True:
        answer = requests.post(f"{served.url}/generate/{contract}", json=body, timeout=40 * PATIENCE)
        if answer.status_code != 503:
            return answer
        time.sleep(float(answer.headers["Retry-After"]))


def test_sixty_clients_wait_on_two_processes_and_are_woken_by_notices(served: Served) -> None:
    count = 60
    with ThreadPoolExecutor(count) as pool:
        waiting = [pool.submit(_generate, served) for _ in range(count)]
        until(lambda: served.worker.ledger.jobs.count("queued") == count, timeout_s=30.0, what="all of them")
        assert quickest(lambda: _get(served, "/health").elapsed.total_seconds(), limit_s=1.0) < 1.0
        # Still heard of, however long all that took.
        served.worker.beat()
        done_at: dict[str, float] = {}
        for _ in range(count):
            done_at[served.worker.run_next(b"x")] = time.monotonic()
        answers = [each.result() for each in waiting]

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["id"] for answer in answers} == set(done_at)


def test_a_notice_wakes_a_stream_of_another_process_at_once(served: Served) -> None:
    # Woken by the notice, and not by the poll, which comes every two seconds.
    assert quickest(lambda: _end_of_a_stream_s(served), limit_s=1.0) < 1.0


def _end_of_a_stream_s(served: Served) -> float:
    """How long after its job's end a stream ended."""
    job_id = _submit(served).json()["id"]
    chunks: list[str] = []
    opened = threading.Event()

    def read() -> None:
        with requests.get(f"{served.url}/api/v2/jobs/{job_id}/events", stream=True, timeout=20 * PATIENCE) as answer:
            for chunk in answer.iter_content(None, decode_unicode=True):
                chunks.append(chunk)
                opened.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert opened.wait(15 * PATIENCE)
    # Longer than the reader takes to stand in line, shorter than the backstop poll.
    time.sleep(0.2)
    began_s = time.monotonic()
    served.worker.run(job_id, b"x")
    reader.join(10 * PATIENCE)
    took_s = time.monotonic() - began_s
    assert sse_frames("".join(chunks))[-1] == ("status", {"status": "succeeded"})
    return took_s


def test_lost_notices_cost_seconds_not_a_hang(served: Served) -> None:
    silent = Ledger(settings_for(served.worker.outputs_dir.parent, database_url=str(_url_of(served))))
    with closing(silent), ThreadPoolExecutor() as pool:
        waiting = pool.submit(_generate, served, request_id="silent")
        job_id = until(lambda: _job_of(served, "silent"), what="its job")
        Worker(silent, served.worker.outputs_dir).run(job_id, b"x")
        began_s = time.monotonic()
        answer = waiting.result()

    assert answer.status_code == 200
    assert time.monotonic() - began_s < 4.0 * PATIENCE


def _job_of(served: Served, request_id: str) -> str | None:
    """The id of the job that a request has made; None while there is none."""
    with contextlib.suppress(NotFound):
        return served.worker.ledger.jobs.get_by_request_id(request_id).id
    return None


def _url_of(served: Served) -> str:
    return served.worker.ledger.database.url.render_as_string(hide_password=False)


@pytest.mark.parametrize("path", ["sync", "stream"])
def test_a_client_that_hangs_up_frees_its_gpu(served: Served, path: str) -> None:
    parts = urlsplit(served.url)
    payload = json.dumps({"input": {"workflow_json": GRAPH, "request_id": f"hung-up-{path}"}}).encode()
    with closing(socket.create_connection((str(parts.hostname), int(parts.port or 0)))) as client:
        head = f"POST /generate/{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload)
        until(
            lambda: requests.get(f"{served.url}/result/hung-up-{path}", timeout=5 * PATIENCE).status_code == 200,
            timeout_s=10.0,
        )

    until(lambda: served.worker.ledger.jobs.get_by_request_id(f"hung-up-{path}").status == "canceled", timeout_s=4.0)


def test_a_frozen_ledger_is_503_within_three_seconds_and_waiting_clients_outlive_it(served: Served) -> None:
    with ThreadPoolExecutor(10) as pool:
        waiting = pool.submit(_generate, served, request_id="patient")
        until(lambda: _job_of(served, "patient"), what="its job")
        streaming = pool.submit(_generate, served, "stream", request_id="patient-too")
        until(lambda: _job_of(served, "patient-too"), what="its job")
        served.ledger_proxy.freeze()
        served.worker.run_next(b"x")
        served.worker.run_next(b"x")
        began = time.monotonic()
        sends = [
            pool.submit(requests.request, method, f"{served.url}/api/v2/jobs", json={"workflow": GRAPH}, timeout=20)
            for method in ("GET", "POST") * 4
        ]
        answers = [send.result() for send in sends]
        took_s = time.monotonic() - began
        ready = requests.get(f"{served.url}/ready", timeout=2.5 * PATIENCE)
        health = requests.get(f"{served.url}/health", timeout=PATIENCE)
        assert not waiting.done()
        assert not streaming.done()
        served.ledger_proxy.thaw()
        waited, told = waiting.result(), streaming.result()

    assert {answer.status_code for answer in answers} == {503}
    assert {answer.json()["error"]["code"] for answer in answers} == {"ledger_unavailable"}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    assert took_s < 3.0 * PATIENCE
    assert (health.status_code, ready.status_code) == (200, 503)
    assert waited.json()["status"] == "completed"
    assert json.loads(told.text.split("data: ")[-1])["result"]["status"] == "completed"
    until(lambda: _submit(served).status_code == 201, timeout_s=10.0)


def test_a_frozen_broker_delays_no_submission(served: Served) -> None:
    served.broker_proxy.freeze()
    took_s: list[float] = []
    for _ in range(3):
        began = time.monotonic()
        assert _submit(served).status_code == 201
        took_s.append(time.monotonic() - began)

    assert max(took_s) < 3.0 * PATIENCE
    seen: list[requests.Response] = []

    def says_so() -> bool:
        seen[:] = [requests.get(f"{served.url}/ready", timeout=2.5 * PATIENCE)]
        ready = seen[0].json()
        return (seen[0].status_code, ready["broker"]["ok"], ready["ledger"]["ok"]) == (503, False, True)

    # Two processes answer, each of which may have looked a moment before.
    until(says_so, timeout_s=10.0)
    ready = seen[0].json()
    loops = {loop["name"]: loop["alive"] for loop in ready["loops"]}
    assert "notice-listener" in loops
    assert all(loops.values())


def test_a_large_head_is_refused(served: Served) -> None:
    huge = requests.get(f"{served.url}/health", headers={"X-Long": "x" * 100_000}, timeout=5)
    many = requests.get(f"{served.url}/health", headers={f"X-{n}": "1" for n in range(1000)}, timeout=5)

    assert {huge.status_code, many.status_code} <= {400, 431}


def test_nothing_unexpected_was_logged(served: Served) -> None:
    assert "Traceback" not in served.log.read_text()


def _raw(served: Served, request: bytes, *, ends: bool = False) -> bytes:
    """The whole answer to bytes that no HTTP library would send; `ends`: the client says that it sends no more."""
    parts = urlsplit(served.url)
    with closing(socket.create_connection((str(parts.hostname), int(parts.port or 0)), timeout=10)) as client:
        client.sendall(request)
        if ends:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nabc\r\n0\r\n\r\n", b"-5\r\nabc\r\n0\r\n\r\n", b"3\r\nabcdef\r\n0\r\n\r\n", b"0\r\nbad trailer\r\n\r\n"],
)
def test_malformed_chunks_are_the_clients_fault(served: Served, body: bytes) -> None:
    head = b"POST /api/v2/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"

    answer = _raw(served, head + b"Transfer-Encoding: chunked\r\n\r\n" + body)

    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_request"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X-Many: 1\r\n" * 1_000 + b"\r\n", b"431"),
        (b"GET /health\x00 HTTP/9.9\r\nHost: localhost\r\n\r\n", b"400"),
    ],
)
def test_what_never_reaches_the_application_is_answered_in_json_too(
    served: Served, request_bytes: bytes, status: bytes
) -> None:
    head, _, body = _raw(served, request_bytes).partition(b"\r\n\r\n")

    assert head.split()[1] == status
    assert b"Content-Type: application/json" in head
    assert set(json.loads(body)["error"]) == {"code", "message", "details"}


#: It is refused with 422 where it is read.
UNREAD = b'{"workflow": {}}'
CHUNKED = b"10\r\n" + UNREAD + b"\r\n0\r\n"


@pytest.mark.parametrize("path", [b"/api/v2/jobs", b"/generate", b"/upload/image"])
def test_odd_framing_is_the_clients_fault(served: Served, path: bytes) -> None:
    codings = [
        b"nonsense",
        b"gzip",
        b"gzip, chunked",
        b"chunked, gzip",
        b"chunked, chunked",
        b"chunked;q=1",
        b"xchunked",
    ]
    codings += [b"", b"\x0bchunked", b"chunked\r\nContent-Length: 5", b"identity", b"trailers", b"deflate, chunked"]
    lengths = [
        b"x",
        b"-1",
        b"1e3",
        b"+5",
        b"5, 5",
        b"5\r\nContent-Length: 6",
        b"9" * 400,
        b"",
        b"0x10",
        b"5_0",
        b"\xb2",
    ]
    trailers = [b"bad\r\n\r\n", b"X: y\r\n" * 5_000 + b"\r\n", b"Content-Length: 5\r\n\r\n", b": a\r\n\r\n"]
    requests = [(b"Transfer-Encoding: " + coding, CHUNKED + b"\r\n") for coding in codings]
    requests += [(b"Content-Length: " + length, UNREAD) for length in lengths]
    requests += [(b"Transfer-Encoding: chunked", CHUNKED + trailer) for trailer in trailers]
    requests += [
        (b"Content-Length: 16\r\nContent-Encoding: " + coding, UNREAD) for coding in (b"gzip", b"br", b"nonsense")
    ]
    kind = b"multipart/form-data; boundary=b" if path == b"/upload/image" else b"application/json"
    for header, body in requests:
        head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: %b\r\n" % (path, kind)
        answer = _raw(served, head + header + b"\r\n\r\n" + body, ends=True)
        assert answer.split()[1] in (b"400", b"404", b"411", b"413", b"415", b"422"), (header, answer)
        assert set(json.loads(answer.partition(b"\r\n\r\n")[2])["error"]) == {"code", "message", "details"}


@pytest.mark.parametrize(
    "header", ["Content-Encoding: gzip", "Content-Encoding: br", "Transfer-Encoding: gzip, chunked"]
)
@pytest.mark.parametrize("path", ["/api/v2/jobs", "/api/v2/assets", "/upload/image", "/generate"])
def test_packed_bodies_are_said_to_be_the_reason(served: Served, path: str, header: str) -> None:
    kind = "application/json" if path.endswith(("jobs", "generate")) else "multipart/form-data; boundary=b"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\n{header}\r\n"
    framed = (b"", CHUNKED + b"\r\n") if "chunked" in header else (b"Content-Length: 16\r\n", UNREAD)

    answer = _raw(served, head.encode() + framed[0] + b"\r\n" + framed[1], ends=True)

    assert answer.split()[1] == b"415", answer
    assert b"Compressed bodies are not accepted" in answer


def test_a_header_cannot_move_the_application(served: Served) -> None:
    answer = requests.get(f"{served.url}/health", headers={"SCRIPT_NAME": "/evil"}, timeout=5)

    assert answer.status_code in (200, 400)
