"""The sending of webhooks, step by step: what is due is taken, posted, recorded, put off or given back."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from core.background import failure_of
from core.errors import AddressRefused, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.database.tables import secrets
from core.ledger.webhooks.deliveries import Delivery
from core.ledger.webhooks.outbox import Post, TryResult
from core.records.webhook_target import ENVIRONMENT, WebhookOrigin, WebhookTarget
from tasks.webhooks import dispatcher as dispatcher_module
from tasks.webhooks.dispatcher import WebhookDispatcher
from tasks.webhooks.posting import ConnectionThread
from tasks.webhooks.receivers import BREAK_AFTER
from tests.ledger_moves import succeeded
from tests.makers import BrokerlessRuntime, StoppedClock, Stopwatch

URL = "http://hooks.example/x"


class Thread:
    """Stands for a thread that posts, and does its work at once."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    def carry(self, work: Callable[[], None]) -> None:
        self._threads.carried += 1
        failure_of(work, "thread")

    def connection(self, _policy: object) -> object:
        return self


class Inbox(queue.SimpleQueue[Any]):
    """Never waits, and notes for how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s: list[float | None] = []

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if block:
            self.waited_s.append(timeout)
        return super().get(block=False)


class Threads:
    """Stands for the threads that post."""

    def __init__(self) -> None:
        self.carried = self.rested = self.dismissed = 0
        self.released: list[object] = []
        #: What acquiring the next ones raises.
        self.errors: list[Exception] = []

    def acquire(self, _receiver: str) -> Thread:
        if self.errors:
            raise self.errors.pop()
        return Thread(self)

    def rest(self, _thread: object) -> None:
        self.rested += 1

    def dismiss(self, _thread: object) -> None:
        self.dismissed += 1

    def release(self, thread: object) -> None:
        self.released.append(thread)

    def close(self) -> None:
        """Nothing to end."""


class Web:
    """What receivers answer: the answers in turn, then 200 for ever."""

    def __init__(self, clock: StoppedClock, watch: Stopwatch) -> None:
        self.answers: list[int | Exception | None] = []
        self.got: list[tuple[Post, dict[str, str], float]] = []
        #: How long each takes.
        self.takes_s = 0.0
        self._clock = clock
        self._watch = watch

    def send(self, post: Post, headers: dict[str, str], _connection: object, *, limit_s: float) -> TryResult:
        self.got.append((post, headers, limit_s))
        self._watch.now_s += self.takes_s
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        error = None if answer == 200 else f"answered {answer}"
        return TryResult(at_ms=self._clock.now_ms, duration_ms=1, status_code=answer, error=error)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(dispatcher_module, "time", watch)
    return watch


@pytest.fixture
def web(clock: StoppedClock, watch: Stopwatch, monkeypatch: pytest.MonkeyPatch) -> Web:
    web = Web(clock, watch)
    monkeypatch.setattr(dispatcher_module, "send", web.send)
    return web


@pytest.fixture
def dispatcher(runtime: BrokerlessRuntime, web: Web, monkeypatch: pytest.MonkeyPatch) -> WebhookDispatcher:
    """One whose steps the test takes, and whose posts are made at once."""
    monkeypatch.setattr(dispatcher_module, "ConnectionThreads", lambda _on_idle: Threads())
    monkeypatch.setattr(dispatcher_module, "LOOK_EVERY_S", 0.0)
    dispatcher = WebhookDispatcher(runtime.settings, runtime.ledger)
    monkeypatch.setattr(dispatcher._loop, "start", lambda: None)
    dispatcher._inbox = Inbox()
    return dispatcher


def threads(dispatcher: WebhookDispatcher) -> Threads:
    found = dispatcher._threads
    assert isinstance(found, Threads)
    return found


def job_for(ledger: Ledger, url: str = URL, origin: WebhookOrigin = "request", **fields: Any) -> str:
    """A job that has ended, and whose webhook is due."""
    webhook = WebhookTarget(url=url, timeout_s=7.0, origin=origin)
    return succeeded(ledger, webhook=webhook, **fields).job_id


def steps(dispatcher: WebhookDispatcher, count: int = 2) -> None:
    for _ in range(count):
        dispatcher._work()


def delivery(ledger: Ledger, job_id: str) -> Delivery:
    (found,) = ledger.deliveries.page(job_id=job_id)
    return found


def sent(dispatcher: WebhookDispatcher, ledger: Ledger, **fields: Any) -> Delivery:
    """A webhook after one try."""
    job_id = job_for(ledger, **fields)
    dispatcher.call(job_id)
    steps(dispatcher)
    return delivery(ledger, job_id)


class TestTry:
    def test_what_is_due_arrives(self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web) -> None:
        found = sent(dispatcher, ledger)
        assert (found.state, found.tries, found.status_code, found.error) == ("delivered", 1, 200, None)
        ((post, headers, limit_s),) = web.got
        assert post.url == URL
        assert limit_s == 7.0
        assert headers["webhook-id"] == found.id
        assert headers["webhook-timestamp"] == "1000"
        assert (headers["X-Webhook-Event"], headers["X-Webhook-Sequence"]) == ("job.completed", str(found.seq))
        assert (threads(dispatcher).rested, threads(dispatcher).dismissed) == (1, 0)

    @pytest.mark.parametrize(
        ("answer", "is_well"),
        [(200, True), (404, True), (429, False), (499, True), (500, False), (503, False), (None, False)],
    )
    def test_what_speaks_against_a_receiver(
        self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web, answer: int | None, is_well: bool
    ) -> None:
        web.answers = [answer]
        found = sent(dispatcher, ledger)
        assert found.state == ("delivered" if answer == 200 else "pending")
        assert dispatcher._receivers._receivers["http://hooks.example:80"].failures == int(not is_well)

    @pytest.mark.parametrize(("error", "state"), [(AddressRefused("no"), "dead"), (LedgerUnavailable("x"), "pending")])
    def test_one_that_could_not_be_sent(
        self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web, error: Exception, state: str
    ) -> None:
        web.answers = [error]
        found = sent(dispatcher, ledger)
        assert (found.state, found.error) == (state, str(error))
        assert dispatcher._receivers._receivers["http://hooks.example:80"].failures == 0

    def test_a_fault_of_ours_is_a_try_and_costs_the_thread(
        self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web
    ) -> None:
        web.answers = [AttributeError("of ours")]
        found = sent(dispatcher, ledger)
        assert (found.state, found.error) == ("pending", "not sent: internal error")
        assert (threads(dispatcher).rested, threads(dispatcher).dismissed) == (0, 1)

    def test_the_fleets_limit_holds_for_long_ones(
        self, runtime: BrokerlessRuntime, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web
    ) -> None:
        dispatcher._settings = runtime.settings.model_copy(update={"webhook_limit_s": 3.0})
        sent(dispatcher, ledger)
        assert web.got[0][2] == 3.0


class TestSecrets:
    SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw=="

    def test_it_is_signed(self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web) -> None:
        sent(dispatcher, ledger, secrets={"webhook_secret": self.SECRET, "webhook_headers": {"X-Own": "v"}})
        headers = web.got[0][1]
        assert headers["webhook-signature"].startswith("v1,")
        assert headers["X-Own"] == "v"

    def test_one_that_does_not_open_is_the_end(self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web) -> None:
        job_id = job_for(ledger, secrets={"webhook_secret": self.SECRET})
        with ledger.database.write() as transaction:
            transaction.connection.execute(update(secrets).values(sealed=b"no"))
        dispatcher.call(job_id)
        steps(dispatcher)
        assert delivery(ledger, job_id).state == "dead"
        assert web.got == []

    def test_the_operators_own_needs_none_of_a_job(
        self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web
    ) -> None:
        job_id = job_for(ledger, origin=ENVIRONMENT, secrets={"webhook_secret": self.SECRET})
        with ledger.database.write() as transaction:
            transaction.connection.execute(update(secrets).values(sealed=b"no"))
        dispatcher.call(job_id)
        steps(dispatcher)
        assert delivery(ledger, job_id).state == "delivered"


class TestBatches:
    @pytest.fixture
    def known(self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web) -> WebhookDispatcher:
        """A receiver that has answered, and gets batches of four."""
        sent(dispatcher, ledger)
        receiver = dispatcher._receivers._receivers["http://hooks.example:80"]
        receiver.batch_size = 4
        dispatcher._receivers._per_host = 1
        web.got.clear()
        return dispatcher

    def test_posts_of_one_go_one_after_the_other(self, known: WebhookDispatcher, ledger: Ledger, web: Web) -> None:
        jobs = [job_for(ledger) for _ in range(3)]
        known.call(jobs[0])
        steps(known, 2)
        assert {delivery(ledger, job_id).state for job_id in jobs} == {"delivered"}
        assert threads(known).carried == 2

    @pytest.mark.parametrize("why", ["it fails", "it takes long"])
    def test_the_rest_is_given_back(self, known: WebhookDispatcher, ledger: Ledger, web: Web, why: str) -> None:
        web.answers = [500] if why == "it fails" else []
        web.takes_s = 0.0 if why == "it fails" else 0.1
        jobs = [job_for(ledger) for _ in range(3)]
        known.call(jobs[0])
        known._work()
        assert len(web.got) == 1
        found = [delivery(ledger, job_id) for job_id in jobs]
        assert sorted(each.state for each in found) == ["sending"] * 3
        known._stops_at_s = 10.0**9
        known._work()
        found = [delivery(ledger, job_id) for job_id in jobs]
        assert sum(each.state == "pending" and not each.log for each in found) == 2
        assert known._has_more


class TestTrouble:
    def test_a_receiver_that_keeps_failing_is_put_off(
        self,
        dispatcher: WebhookDispatcher,
        ledger: Ledger,
        web: Web,
        caplog: pytest.LogCaptureFixture,
        clock: StoppedClock,
    ) -> None:
        web.answers = [500] * BREAK_AFTER
        jobs = [job_for(ledger) for _ in range(BREAK_AFTER + 2)]
        dispatcher.call(jobs[0])
        steps(dispatcher, BREAK_AFTER + 3)
        assert len(web.got) == BREAK_AFTER
        waiting = [delivery(ledger, job_id) for job_id in jobs]
        untried = [each for each in waiting if not each.tries]
        break_ms = round(dispatcher._settings.webhook_break_s * 1000)
        assert [each.next_try_at_ms for each in untried] == [clock.now_ms + break_ms] * 2
        assert dispatcher._receivers.waiting == 0, "they wait in the ledger, in nobody's way"
        assert "fail; 7 more wait for 30 s" in caplog.text

    def test_a_ledger_that_is_away_is_waited_for(
        self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rested: list[float] = []

        def away(*_arguments: object, **_options: object) -> Any:
            raise LedgerUnavailable("away")

        monkeypatch.setattr(dispatcher._loop, "rest", rested.append)
        job_id = job_for(ledger)
        dispatcher.call(job_id)
        for method in ("due", "take", "record"):
            with monkeypatch.context() as patch:
                patch.setattr(ledger.outbox, method, away)
                steps(dispatcher)
        assert rested
        assert set(rested) == {1.0}
        steps(dispatcher)
        assert delivery(ledger, job_id).state == "delivered"
        assert len(web.got) == 1

    def test_a_thread_that_cannot_be_started_leaves_nothing_behind(
        self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web
    ) -> None:
        threads(dispatcher).errors = [RuntimeError("can't start new thread")]
        job_id = job_for(ledger)
        dispatcher.call(job_id)
        steps(dispatcher, 3)
        assert delivery(ledger, job_id).state == "delivered"
        assert dispatcher._receivers.under_way == 0

    def test_what_cannot_be_recorded_keeps_nothing_back(
        self, dispatcher: WebhookDispatcher, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        jobs = [job_for(ledger, url=f"http://r{number}.example/") for number in range(3)]
        record = ledger.outbox.record

        def stumble(results: list[tuple[Post, TryResult]]) -> None:
            if any(post.job_id == jobs[1] for post, _ in results):
                raise AttributeError("of ours")
            record(results)

        monkeypatch.setattr(ledger.outbox, "record", stumble)
        dispatcher.call(jobs[0])
        steps(dispatcher)
        assert [delivery(ledger, job_id).state for job_id in jobs] == ["delivered", "sending", "delivered"]

    def test_what_somebody_else_has_taken_is_not_ours(
        self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job_id = job_for(ledger)
        dispatcher.call(job_id)
        due = ledger.outbox.due
        monkeypatch.setattr(ledger.outbox, "due", lambda **options: _taken_meanwhile(ledger, due(**options)))
        steps(dispatcher, 1)
        assert web.got == []
        assert dispatcher._receivers.under_way == 0

    def test_an_unforeseen_error_has_everything_looked_for_again(
        self, dispatcher: WebhookDispatcher, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stumble(*_arguments: object, **_options: object) -> Any:
            raise AttributeError("of ours")

        job_id = job_for(ledger)
        dispatcher.call(job_id)
        with monkeypatch.context() as patch:
            patch.setattr(ledger.outbox, "due", stumble)
            with pytest.raises(AttributeError):
                dispatcher._work()
        assert dispatcher._has_more
        steps(dispatcher)
        assert delivery(ledger, job_id).state == "delivered"


def _taken_meanwhile(ledger: Ledger, found: Any) -> Any:
    ledger.outbox.take([each.id for each in found])
    return found


class TestEnd:
    def test_nothing_is_begun_any_more(self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web) -> None:
        job_id = job_for(ledger)
        dispatcher.call(job_id)
        dispatcher.close()
        dispatcher._work()
        assert web.got == []
        assert not dispatcher._loop.is_ending
        dispatcher._work()
        assert dispatcher._loop.is_ending
        assert delivery(ledger, job_id).state == "pending"

    def test_what_is_under_way_is_recorded_first(self, dispatcher: WebhookDispatcher, ledger: Ledger, web: Web) -> None:
        job_id = job_for(ledger)
        dispatcher.call(job_id)
        dispatcher._work()
        dispatcher.close()
        dispatcher._work()
        assert delivery(ledger, job_id).state == "delivered"
        dispatcher._work()
        assert dispatcher._loop.is_ending

    def test_closing_waits_for_it(self, dispatcher: WebhookDispatcher, monkeypatch: pytest.MonkeyPatch) -> None:
        waited_s: list[float] = []
        monkeypatch.setattr(dispatcher._loop, "join", waited_s.append)
        dispatcher.close()
        assert waited_s == [10.0]

    def test_but_not_for_ever(self, dispatcher: WebhookDispatcher, watch: Stopwatch) -> None:
        dispatcher._receivers._under_way = 1
        dispatcher.close()
        dispatcher._work()
        watch.now_s += 4.9
        dispatcher._work()
        assert not dispatcher._loop.is_ending
        watch.now_s += 0.1
        dispatcher._work()
        assert dispatcher._loop.is_ending


def test_it_waits_for_news_unless_there_is_more_to_do(dispatcher: WebhookDispatcher, ledger: Ledger) -> None:
    inbox = dispatcher._inbox
    assert isinstance(inbox, Inbox)
    dispatcher.call(job_for(ledger))
    dispatcher._work()
    assert inbox.waited_s == [None]
    for name, value in (
        ("_called", {"j"}),
        ("_has_more", True),
        ("_closed", {"r"}),
        ("_unsent", [1]),
        ("_results", [1]),
    ):
        before = getattr(dispatcher, name)
        setattr(dispatcher, name, value)
        dispatcher._collect()
        setattr(dispatcher, name, before)
    assert inbox.waited_s[1:] == [0.0] * 5


def test_limits_are_what_was_measured() -> None:
    limits = (dispatcher_module.BATCH, dispatcher_module.MAX_WAITING, dispatcher_module.LOOK_EVERY_S)
    assert limits == (256, 20_000, 0.05)
    assert (dispatcher_module.RETRY_S, dispatcher_module.GOODBYE_S, dispatcher_module.BATCH_TIME_S) == (1.0, 5.0, 0.1)


class TestLook:
    @pytest.fixture
    def asked(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """What the ledger was asked for."""
        asked: list[dict[str, Any]] = []
        due = ledger.outbox.due

        def asking(**options: Any) -> Any:
            asked.append(options)
            return due(**options)

        monkeypatch.setattr(ledger.outbox, "due", asking)
        return asked

    def test_for_all_and_for_whoever_called(self, dispatcher: WebhookDispatcher, asked: list[dict[str, Any]]) -> None:
        dispatcher.call("j")
        dispatcher._work()
        assert asked == [{"limit": 256, "except_for": []}, {"limit": 256, "job_ids": {"j"}}]

    def test_once_if_nobody_called(self, dispatcher: WebhookDispatcher, asked: list[dict[str, Any]]) -> None:
        dispatcher._has_more = True
        dispatcher._work()
        assert asked == [{"limit": 256, "except_for": []}]
        dispatcher._work()
        assert len(asked) == 1, "there was no more"

    def test_again_while_a_look_is_full(
        self,
        dispatcher: WebhookDispatcher,
        ledger: Ledger,
        asked: list[dict[str, Any]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(dispatcher_module, "BATCH", 1)
        jobs = [job_for(ledger, url=f"http://r{number}.example/") for number in range(2)]
        for job_id in jobs:
            dispatcher.call(job_id)
        dispatcher._work()
        assert len(asked) == 1, "more have called than one look brings"
        assert dispatcher._has_more
        steps(dispatcher, 4)
        assert [delivery(ledger, job_id).state for job_id in jobs] == ["delivered"] * 2

    def test_not_too_often(
        self,
        dispatcher: WebhookDispatcher,
        asked: list[dict[str, Any]],
        watch: Stopwatch,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(dispatcher_module, "LOOK_EVERY_S", 0.5)
        for step_s in (0.0, 0.25, 0.25):
            watch.now_s += step_s
            dispatcher._has_more = True
            dispatcher._work()
        assert len(asked) == 2

    def test_not_while_very_much_waits(
        self, dispatcher: WebhookDispatcher, asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(dispatcher_module, "MAX_WAITING", 0)
        dispatcher._has_more = True
        dispatcher._work()
        assert asked == []


def test_a_job_without_webhooks_costs_a_look(dispatcher: WebhookDispatcher, web: Web) -> None:
    dispatcher.call("nobody")
    steps(dispatcher, 1)
    assert web.got == []
    assert dispatcher._called == set()


def test_a_thread_that_is_idle_for_long_is_released(dispatcher: WebhookDispatcher) -> None:

    thread = ConnectionThread.__new__(ConnectionThread)
    dispatcher._inbox.put(thread)
    dispatcher._work()
    assert threads(dispatcher).released == [thread]
