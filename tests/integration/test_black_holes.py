"""Buckets whose endpoints take connections and never answer: whoever names them waits, and nobody else does."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from core.job import DELIVERING, SUCCEEDED
from core.ledger.claims import Claim
from core.s3 import PUT_URLS, Target
from core.settings import Settings
from tasks import buckets, endpoints
from tasks.app import make_app
from tasks.endpoints import Endpoints
from tasks.runtime import Runtime, equip
from tasks.upload import upload
from tasks.worker import IO_THREADS
from tests.fleet import until
from tests.integration.test_delivery import generated
from tests.s3_server import S3Server

pytestmark = pytest.mark.slow

HOLES = 20
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


#: What each endpoint of a kind is.
HOLE_OF = {"no connections": closed_door, "one answer": one_answer}


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


def target_at(url: str) -> dict[str, Any]:
    return {"s3": Target(endpoint_url=url, bucket_name="bucket", region=None, prefix="").to_json()}


@pytest.mark.parametrize(
    "kind", ["one endpoint", "many endpoints", "URLs to put to", "URLs without connections", *HOLE_OF]
)
def test_uploads_to_a_good_bucket_are_not_held_up(sqlite_settings: Settings, runtime: Runtime, kind: str) -> None:
    server = S3Server()
    good = generated(sqlite_settings, {"s3": server.new_target().to_json()}, a_png=b"1")
    hole = closed_door if kind == "URLs without connections" else HOLE_OF.get(kind, black_hole)
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
        assert {turn.result(timeout=60) for turn in turns} == {DELIVERING}
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
    assert output.upload == {"error": "the bucket's endpoint does not answer, and is left alone for a while"}


def _hole(settings: Settings, kind: str, url: str) -> Claim:
    if not kind.startswith("URLs"):
        return generated(settings, target_at(url), a_png=b"1")
    target = Target(endpoint_url=None, bucket_name="", region=None, prefix="", origin=PUT_URLS)
    secrets = {"s3": {"put_urls": [f"{url}/a.png?signature=1"]}}
    return generated(settings, {"s3": target.to_json()}, secrets=secrets, a_png=b"1")
