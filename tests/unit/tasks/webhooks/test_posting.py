"""One try at a webhook, what its answer means, and the threads that post."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from urllib3.exceptions import HTTPError, LocationValueError, ProtocolError, ReadTimeoutError, SSLError

from core.errors import AddressRefused
from core.ledger.webhooks.outbox import Post, TryResult
from core.outbound import UNRESTRICTED, Policy
from tasks.webhooks import posting
from tasks.webhooks.posting import MAX_RESTING, ConnectionThread, ConnectionThreads, send
from tests.makers import Stopwatch
from tests.waiting import eventually

NOW_MS = 1_700_000_000_000
POST: Any = SimpleNamespace(url="https://hooks.example/x", body='{"a":"ü"}')


class Receiver:
    """Takes the place of a kept connection; answers after a quarter of a second."""

    def __init__(self, watch: Stopwatch) -> None:
        self.status = 200
        self.headers: dict[str, str] = {}
        self.took_s = 0.25
        #: What the post raises, and what reading the body does.
        self.error: Exception | None = None
        self.read_error: Exception | None = None
        self.posted: list[tuple[Any, ...]] = []
        self.read_bytes: list[int] = []
        self._watch = watch

    @contextlib.contextmanager
    def post(self, *arguments: Any, **options: Any) -> Iterator[Receiver]:
        self.posted.append((*arguments, options))
        self._watch.now_s += self.took_s
        if self.error is not None:
            raise self.error
        yield self

    def read(self, most_bytes: int) -> bytes:
        self.read_bytes.append(most_bytes)
        if self.read_error is not None:
            raise self.read_error
        return b""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(posting, "time", watch)
    monkeypatch.setattr(posting, "now_ms", lambda: NOW_MS)
    return watch


@pytest.fixture
def receiver(watch: Stopwatch) -> Receiver:
    return Receiver(watch)


def tried(receiver: Receiver, **headers: str) -> TryResult:
    post: Post = POST
    return send(post, headers, receiver, limit_s=5.0)  # type: ignore[arg-type]


class TestSending:
    def test_what_is_sent(self, receiver: Receiver) -> None:
        result = tried(receiver, signature="s")
        headers = {"Content-Type": "application/json", "User-Agent": "Comfyline", "signature": "s"}
        limits = {"limit_s": 5.0, "connect_timeout_s": 5.0}
        assert receiver.posted == [(POST.url, POST.body.encode(), headers, limits)]
        assert receiver.read_bytes == [65_536]
        assert (result.at_ms, result.duration_ms, result.status_code) == (NOW_MS, 250, 200)
        assert (result.error, result.retry_after_s, result.is_final) == (None, None, False)

    @pytest.mark.parametrize(
        ("status", "error", "is_final"),
        [
            (199, "answered 199", False),
            (200, None, False),
            (299, None, False),
            (300, "answered 300", False),
            (404, "answered 404", False),
            (410, "answered 410", True),
            (500, "answered 500", False),
        ],
    )
    def test_what_an_answer_means(self, receiver: Receiver, status: int, error: str | None, is_final: bool) -> None:
        receiver.status = status
        result = tried(receiver)
        assert (result.status_code, result.error, result.is_final) == (status, error, is_final)

    @pytest.mark.parametrize(("status", "retry_after_s"), [(429, 7.0), (503, 7.0), (500, None), (200, None)])
    def test_who_is_busy_says_when_to_come_again(
        self, receiver: Receiver, status: int, retry_after_s: float | None
    ) -> None:
        receiver.status, receiver.headers = status, {"Retry-After": "7"}
        assert tried(receiver).retry_after_s == retry_after_s

    @pytest.mark.parametrize("error", [ProtocolError("broke off"), OSError("reset")])
    def test_how_the_body_ends_does_not_matter(self, receiver: Receiver, error: Exception) -> None:
        receiver.read_error = error
        assert tried(receiver).error is None

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (AddressRefused("a private address"), "a private address"),
            (ReadTimeoutError(None, "", ""), "no answer within 5 s"),  # type: ignore[arg-type]
            (SSLError("no"), "no trusted TLS connection"),
            (LocationValueError("no host"), "not sent: LocationValueError"),
            (ProtocolError("reset"), "no connection, or it broke off"),
        ],
    )
    def test_what_went_wrong_is_said(self, receiver: Receiver, error: Exception, said: str) -> None:
        receiver.error = error
        result = tried(receiver)
        assert (result.status_code, result.error, result.is_final) == (None, said, False)

    @pytest.mark.parametrize(("took_s", "said"), [(4.75, "no connection"), (5.0, "no answer within 5 s")])
    def test_what_was_cut_was_too_late(self, receiver: Receiver, took_s: float, said: str) -> None:
        receiver.error, receiver.took_s = HTTPError("cut"), took_s
        assert str(tried(receiver).error).startswith(said)


class FakeThread:
    """Stands for a thread that posts."""

    def __init__(self, receiver: str, _on_idle: object) -> None:
        self.receiver = receiver
        self.dismissed = 0

    def dismiss(self) -> None:
        self.dismissed += 1


class TestThreads:
    @pytest.fixture
    def threads(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        monkeypatch.setattr(posting, "ConnectionThread", FakeThread)
        return ConnectionThreads(lambda _thread: None)

    def test_the_last_one_back_is_the_next_one_out(self, threads: Any) -> None:
        first, second = threads.acquire("a"), threads.acquire("a")
        assert first is not second
        threads.rest(first)
        threads.rest(second)
        other = threads.acquire("b")
        assert other not in (first, second)
        assert [threads.acquire("a"), threads.acquire("a")] == [second, first]
        assert threads.acquire("a") not in (first, second)

    def test_not_more_than_so_many_rest(self, threads: Any) -> None:
        assert MAX_RESTING == 64
        made = [threads.acquire(str(number)) for number in range(MAX_RESTING + 1)]
        for thread in made:
            threads.rest(thread)
        assert [thread.dismissed for thread in made] == [0] * MAX_RESTING + [1]
        assert threads.acquire("0") is made[0]
        late = threads.acquire("late")
        threads.rest(late)
        assert late.dismissed == 0, "there is room again"

    def test_one_that_was_idle_for_long_ends(self, threads: Any) -> None:
        idle, other = threads.acquire("a"), threads.acquire("a")
        threads.release(idle)
        assert idle.dismissed == 0, "it has work"
        threads.rest(idle)
        threads.rest(other)
        threads.release(idle)
        threads.release(idle)
        assert (idle.dismissed, other.dismissed) == (1, 0)
        assert threads.acquire("a") is other
        threads.close()
        assert (idle.dismissed, other.dismissed) == (1, 1)

    def test_one_that_stumbled_ends(self, threads: Any) -> None:
        stumbled = threads.acquire("a")
        threads.dismiss(stumbled)
        threads.close()
        assert stumbled.dismissed == 1


class Kept:
    """A kept connection that notes that it was closed."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class TestThread:
    def test_it_works_one_thing_after_the_other_and_hangs_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(posting, "KeptConnection", Kept)
        thread = ConnectionThread("a", lambda _thread: None)
        done: list[Any] = []
        for number in range(2):
            thread.carry(lambda number=number: done.append((number, thread.connection(UNRESTRICTED))))  # type: ignore[misc]
        thread.dismiss()
        thread.carry(lambda: done.append("too late"))
        assert eventually(lambda: len(done) == 2 and done[1][1].closed.is_set(), 10)
        assert [number for number, _ in done] == [0, 1]
        assert done[0][1] is done[1][1]
        assert done[0][1].policy == UNRESTRICTED
        thread._loop.join(10)
        assert len(done) == 2

    def test_one_without_work_says_so_and_still_takes_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert posting.REST_S == 3.0
        monkeypatch.setattr(posting, "REST_S", 0.01)
        idle: list[ConnectionThread] = []
        done = threading.Event()
        thread = ConnectionThread("a", idle.append)
        assert eventually(lambda: bool(idle), 10)
        assert idle == [thread]
        thread.carry(done.set)
        assert done.wait(10)
        thread.dismiss()
        thread._loop.join(10)
