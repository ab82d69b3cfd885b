"""Buckets whose endpoints never answer, or say for ever that they cannot: whoever names them waits, and nobody else."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeAlias

import pytest

from core.buckets.block import MAX_CONNECT_ATTEMPTS
from core.ledger.claims import Claim
from core.records.bucket_target import PUT_URLS, BucketTarget
from core.records.job import DELIVERING, SUCCEEDED
from core.settings import Settings
from tasks.messaging.app import make_app
from tasks.outputs import bucket_upload as buckets
from tasks.outputs import endpoints
from tasks.outputs.endpoints import Endpoints
from tasks.runtime import Runtime, equip
from tasks.upload import upload
from tasks.worker import IO_THREADS
from tests.integration.tasks.outputs.test_upload import generated
from tests.s3_server import S3Server
from tests.waiting import until

pytestmark = pytest.mark.slow

Hole: TypeAlias = Callable[[], contextlib.AbstractContextManager[str]]

#: More than an io worker has threads: each alone with one, they would hold up everybody.
HOLES = IO_THREADS + 8
#: Much less than the two minutes that an exchange may take.
PROMPT_S = 20.0


@pytest.fixture(autouse=True)
def fresh_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of any endpoint, and a first answer may take three seconds."""
    monkeypatch.setattr(buckets, "_endpoints", Endpoints())
    monkeypatch.setattr(buckets, "FIRST_ANSWER_S", 3.0)


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """URL of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def closed_door() -> Iterator[str]:
    """URL of a server that takes no connections, and refuses none: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, contextlib.ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def one_answer() -> Iterator[str]:
    """URL of a server that says that an object is not there, and then nothing any more."""
    taken: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(listener.accept()[0])
                if taken[-1].recv(65536).startswith(b"HEAD"):
                    taken[-1].sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


@contextlib.contextmanager
def answering(head: str) -> Iterator[str]:
    """URL of a server that answers everything with this. Parameters: head - `{url}` in it becomes the URL."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(10)
                    connection.recv(65536)
                    connection.sendall(
                        f"{head.format(url=url)}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
                    )

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        threading.Thread(target=serve, daemon=True).start()
        yield url
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


overloaded = partial(answering, "HTTP/1.1 503 Slow Down")
#: Leads back to itself, and names another region each time, which S3's clients are to turn to.
redirecting = partial(answering, "HTTP/1.1 307 Temporary Redirect\r\nLocation: {url}/again\r\nx-amz-bucket-region: a")


@contextlib.contextmanager
def slow_name() -> Iterator[str]:
    """URL of a host whose name nobody has resolved in 20 s."""
    name, real, over = f"{uuid.uuid4()}.invalid", socket.getaddrinfo, threading.Event()

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        if host == name:
            over.wait(20)
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        yield f"http://{name}"
        over.set()


#: What each endpoint of a kind is.
HOLE_OF: dict[str, Hole] = {
    "no connections": closed_door,
    "one answer": one_answer,
    "503": overloaded,
    "redirects": redirecting,
    "slow names": slow_name,
}
#: The same for URLs to put to.
PUT_HOLE_OF: dict[str, Hole] = {
    "URLs without connections": closed_door,
    "URLs that answer 503": overloaded,
    "URLs that redirect": redirecting,
}


@pytest.fixture
def runtime(sqlite_settings: Settings) -> Iterator[Runtime]:
    """That of an io worker."""
    runtime = equip(make_app(sqlite_settings, "io"), sqlite_settings)
    yield runtime
    runtime.close()


def give_turn(runtime: Runtime, claim: Claim) -> str:
    """One turn of the task; returns the job's status."""
    runtime.app.tasks[upload.name].apply(args=([claim.job_id, claim.attempt],))
    return runtime.ledger.jobs.get(claim.job_id).status


def target_at(url: str, **time_limits: Any) -> dict[str, Any]:
    return {"s3": BucketTarget(endpoint_url=url, bucket_name="bucket", region=None, prefix="", **time_limits).to_json()}


@pytest.mark.parametrize("kind", ["one endpoint", "many endpoints", "URLs to put to", *HOLE_OF, *PUT_HOLE_OF])
def test_uploads_to_a_good_bucket_are_not_held_up(sqlite_settings: Settings, runtime: Runtime, kind: str) -> None:
    server = S3Server()
    good = generated(sqlite_settings, {"s3": server.new_target().to_json()}, a_png=b"1")
    hole = (HOLE_OF | PUT_HOLE_OF).get(kind, black_hole)
    with ThreadPoolExecutor(IO_THREADS) as threads:
        with contextlib.ExitStack() as stack:
            urls = [stack.enter_context(hole()) for _ in range(1 if kind == "one endpoint" else HOLES)] * HOLES
            claims = [_hole(sqlite_settings, kind, url) for url in urls[:HOLES]]
            turns = [threads.submit(give_turn, runtime, claim) for claim in claims]
            # They come first.
            time.sleep(2 * endpoints.WAIT_S)
            begun_s = time.monotonic()

            until(lambda: threads.submit(give_turn, runtime, good).result() == SUCCEEDED, timeout_s=PROMPT_S)

            assert time.monotonic() - begun_s < PROMPT_S
        # A redirect is a refusal, which is final.
        expected = SUCCEEDED if "redirect" in kind else DELIVERING
        assert {turn.result(timeout=60) for turn in turns} <= {expected, DELIVERING}
    server.stop()


def test_what_waits_for_an_endpoint_that_is_left_alone_is_given_up_in_the_end(
    sqlite_settings: Settings, runtime: Runtime
) -> None:
    with black_hole() as url:
        claims = [generated(sqlite_settings, target_at(url), a_png=b"1") for _ in range(2)]
        assert give_turn(runtime, claims[0]) == DELIVERING
        begun_s = time.monotonic()
        assert give_turn(runtime, claims[1]) == DELIVERING
        assert time.monotonic() - begun_s < endpoints.FIRST_BREAK_S, "it did not wait for an answer"

        runtime.settings = runtime.settings.model_copy(update={"upload_give_up_s": 0.0})
        assert give_turn(runtime, claims[1]) == SUCCEEDED

    [output] = runtime.ledger.jobs.get(claims[1].job_id).outputs
    assert output.upload_error == "the bucket's endpoint does not answer, and is left alone for a while"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("503", "the S3 server answered 503"),
        ("redirects", "the S3 server answered 307"),
        ("URLs that answer 503", "the server behind a put_url answered 503"),
        ("URLs that redirect", "the server behind a put_url answered 307"),
    ],
)
def test_what_an_endpoint_answers_for_ever_is_told_in_the_end(
    sqlite_settings: Settings, runtime: Runtime, kind: str, said: str
) -> None:
    runtime.settings = runtime.settings.model_copy(update={"upload_give_up_s": 0.0})
    with (HOLE_OF | PUT_HOLE_OF)[kind]() as url:
        claim = _hole(sqlite_settings, kind, url)
        assert give_turn(runtime, claim) == SUCCEEDED

    job = runtime.ledger.jobs.get(claim.job_id)
    assert [output.upload_error for output in job.outputs] == [said] * 3


def _hole(settings: Settings, kind: str, url: str) -> Claim:
    """A job of three files that wants all the time that one may ask for."""
    time_limits: dict[str, Any] = {"connect_attempts": MAX_CONNECT_ATTEMPTS}
    files: dict[str, Any] = {"a_png": b"1", "b_png": b"2", "c_png": b"3"}
    if not kind.startswith("URLs"):
        return generated(settings, target_at(url, **time_limits), **files)
    target = BucketTarget(endpoint_url=None, bucket_name="", region=None, prefix="", origin=PUT_URLS, **time_limits)
    secrets = {"s3": {"put_urls": [f"{url}/{name}?signature=1" for name in files]}}
    return generated(settings, {"s3": target.to_json()}, secrets=secrets, **files)
