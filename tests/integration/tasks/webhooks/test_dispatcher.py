"""The sending of webhooks by one process: what receivers get, what their answers mean, and who waits for whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import standardwebhooks
from sqlalchemy import update

from core.ledger import Ledger
from core.ledger.database.tables import deliveries, secrets
from core.ledger.webhooks.deliveries import Delivery
from core.records.webhook_target import WebhookTarget
from core.settings import Settings
from tasks.webhooks import dispatcher as dispatcher
from tasks.webhooks import posting
from tasks.webhooks import receivers as limits
from tasks.webhooks.dispatcher import WebhookDispatcher
from tests.ledger_moves import succeeded
from tests.receivers import Answer, Received, Receiver, hanging, receiving
from tests.waiting import eventually

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLw=="


@pytest.fixture
def sqlite_ledger(sqlite_settings: Settings) -> Iterator[Ledger]:
    ledger = Ledger(sqlite_settings)
    yield ledger
    ledger.close()


@pytest.fixture
def sender(sqlite_settings: Settings, sqlite_ledger: Ledger) -> Iterator[WebhookDispatcher]:
    """A dispatcher with a limit of one second."""
    settings = sqlite_settings.model_copy(update={"webhook_limit_s": 1.0})
    sender = WebhookDispatcher(settings, sqlite_ledger)
    yield sender
    sender.close()


def job_for(ledger: Ledger, url: str, **fields: Any) -> str:
    """A job that has ended, and whose webhook is due."""
    return succeeded(ledger, webhook=WebhookTarget(url=url), **fields).job_id


def tried(ledger: Ledger, sender: WebhookDispatcher, job_id: str) -> Delivery:
    """Have a job's webhook tried; returns it after the try."""
    before = len(ledger.deliveries.page(job_id=job_id)[0].log)
    sender.call(job_id)
    assert eventually(lambda: len(ledger.deliveries.page(job_id=job_id)[0].log) > before)
    return ledger.deliveries.page(job_id=job_id)[0]


def sent(sender: WebhookDispatcher, ledger: Ledger, answer: Answer) -> tuple[Delivery, list[Received]]:
    """One webhook to a receiver that answers so."""
    with receiving(lambda _received: answer) as receiver:
        delivery = tried(ledger, sender, job_for(ledger, f"{receiver.url}/hook"))
        return delivery, receiver.received


def pause_s(delivery: Delivery) -> float:
    assert delivery.next_try_at_ms is not None
    return (delivery.next_try_at_ms - delivery.updated_at_ms) / 1000


@pytest.mark.parametrize("contract", ["generate", "v2"])
def test_what_arrives_is_signed_and_says_what_it_is(
    sender: WebhookDispatcher, sqlite_ledger: Ledger, contract: str
) -> None:
    with receiving() as receiver:
        job_id = job_for(sqlite_ledger, receiver.url, contract=contract, secrets={"webhook_secret": SECRET})
        delivery = tried(sqlite_ledger, sender, job_id)
    (got,) = receiver.received
    assert standardwebhooks.Webhook(SECRET).verify(got.content, got.headers) == got.body
    assert delivery.state == "delivered"
    assert got.headers["webhook-id"] == delivery.id
    assert got.headers["x-webhook-event"] == "job.completed"
    assert got.headers["x-webhook-sequence"] == str(delivery.seq)
    assert ("x-webhook-signature" in got.headers) == (contract == "generate")


def test_a_clients_own_headers_go_with_every_try(sender: WebhookDispatcher, sqlite_ledger: Ledger) -> None:
    own = {"Authorization": "Basic dTpw", "X-Gateway-Key": "k e y"}
    # The last could not come in by a request: whatever stands in a row, ours count.
    sealed = {"webhook_secret": SECRET, "webhook_headers": {**own, "webhook-id": "forged"}}
    with receiving(lambda _received: (500, {}, [])) as receiver:
        job_id = job_for(sqlite_ledger, receiver.url, secrets=sealed)
        delivery = tried(sqlite_ledger, sender, job_id)
        sqlite_ledger.deliveries.replay(delivery.id)
        tried(sqlite_ledger, sender, job_id)
    for got in receiver.received:
        assert {name: got.headers[name.lower()] for name in own} == own
        assert standardwebhooks.Webhook(SECRET).verify(got.content, got.headers) == got.body
        assert got.headers["webhook-id"] == delivery.id
    assert len(receiver.received) == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((500, {}, []), "answered 500"),
        ((404, {}, []), "answered 404"),
        ((302, {"Location": "/elsewhere"}, []), "answered 302"),
    ],
)
def test_what_is_no_success_is_tried_again(
    sender: WebhookDispatcher, sqlite_ledger: Ledger, answer: Answer, error: str
) -> None:
    delivery, received = sent(sender, sqlite_ledger, answer)
    assert (delivery.state, delivery.status_code, delivery.error) == ("pending", answer[0], error)
    assert pause_s(delivery) == pytest.approx(5, rel=0.1)
    assert [got.path for got in received] == ["/hook"]


def test_gone_is_the_end(sender: WebhookDispatcher, sqlite_ledger: Ledger) -> None:
    assert sent(sender, sqlite_ledger, (410, {}, []))[0].state == "dead"


@pytest.mark.parametrize(("status", "counts"), [(429, True), (503, True), (500, False)])
def test_a_receiver_may_ask_for_time(
    sender: WebhookDispatcher, sqlite_ledger: Ledger, status: int, counts: bool
) -> None:
    delivery, _received = sent(sender, sqlite_ledger, (status, {"Retry-After": "100"}, []))
    assert pause_s(delivery) == pytest.approx(100 if counts else 5, rel=0.1)


def test_dripping_does_not_keep_us_longer_than_the_limit(sender: WebhookDispatcher, sqlite_ledger: Ledger) -> None:
    drip: list[bytes | float] = [b"x", 0.1] * 90
    delivery, _received = sent(sender, sqlite_ledger, (500, {"Content-Length": "100"}, drip))
    (attempt,) = delivery.log
    # It would have dripped for nine seconds.
    assert 900 < attempt.duration_ms < 4500
    assert delivery.error == "answered 500"


def test_an_answer_without_an_end_is_not_read_to_its_end(sender: WebhookDispatcher, sqlite_ledger: Ledger) -> None:
    endless: list[bytes | float] = [b"x" * 65536] * 200
    delivery, _received = sent(sender, sqlite_ledger, (200, {"Content-Length": str(65536 * 200)}, endless))
    (attempt,) = delivery.log
    assert (delivery.state, attempt.status_code) == ("delivered", 200)
    assert attempt.duration_ms < 900


def test_who_does_not_answer_or_is_not_there(sender: WebhookDispatcher, sqlite_ledger: Ledger) -> None:
    with hanging() as port:
        silent = tried(sqlite_ledger, sender, job_for(sqlite_ledger, f"http://127.0.0.1:{port}/"))
    absent = tried(sqlite_ledger, sender, job_for(sqlite_ledger, "http://127.0.0.1:1/"))
    assert (silent.state, silent.error) == ("pending", "no answer within 1 s")
    assert (absent.state, absent.error) == ("pending", "no connection, or it broke off")


def test_a_webhook_whose_secret_is_gone_is_not_sent_unsigned(sender: WebhookDispatcher, sqlite_ledger: Ledger) -> None:
    with receiving() as receiver:
        job_id = job_for(sqlite_ledger, receiver.url, secrets={"webhook_secret": SECRET})
        with sqlite_ledger.database.write() as transaction:
            transaction.connection.execute(update(secrets).values(sealed=None))
        delivery = tried(sqlite_ledger, sender, job_id)
    assert (delivery.state, receiver.received) == ("dead", [])
    assert "deleted" in str(delivery.error)


@pytest.mark.slow
def test_200_receivers_that_hang_do_not_slow_a_good_one(sqlite_settings: Settings, sqlite_ledger: Ledger) -> None:
    # As it comes: the limit of a try is 15 s, so that all of them hang for as long as this test lasts.
    sender = WebhookDispatcher(sqlite_settings, sqlite_ledger)
    with hanging() as port, receiving() as receiver:
        stuck = [job_for(sqlite_ledger, f"http://127.0.1.{number % 200 + 1}:{port}/") for number in range(400)]
        for job_id in stuck:
            sender.call(job_id)
        assert eventually(lambda: len(sqlite_ledger.deliveries.page(state="sending", limit=500)) == 200)
        waits_s = []
        for _ in range(20):
            job_id = job_for(sqlite_ledger, receiver.url)
            begun_s = time.monotonic()
            tried(sqlite_ledger, sender, job_id)
            waits_s.append(time.monotonic() - begun_s)
        assert sorted(waits_s)[len(waits_s) // 2] < 2.0, waits_s
        assert len(receiver.received) == 20
        assert len(sqlite_ledger.deliveries.page(state="sending", limit=500)) == 200, "they still hang"
    sender.close()


def test_a_receiver_that_keeps_failing_is_left_alone_and_loses_no_try(
    sender: WebhookDispatcher, sqlite_ledger: Ledger
) -> None:
    with receiving(lambda _received: (500, {}, [])) as receiver:
        jobs = [job_for(sqlite_ledger, receiver.url) for _ in range(20)]
        for job_id in jobs:
            sender.call(job_id)
        assert eventually(lambda: len(receiver.received) == limits.BREAK_AFTER)
        assert eventually(lambda: not sqlite_ledger.outbox.due())
        late = tried_later(sqlite_ledger, sender, receiver)
    found = sqlite_ledger.deliveries.page()
    assert len(receiver.received) == limits.BREAK_AFTER
    assert sorted(delivery.tries for delivery in found) == [0] * 16 + [1] * limits.BREAK_AFTER
    (waiting,) = [delivery for delivery in found if delivery.job_id == late]
    assert pause_s(waiting) == pytest.approx(Settings().webhook_break_s, abs=5)


def tried_later(ledger: Ledger, sender: WebhookDispatcher, receiver: Receiver) -> str:
    """One more webhook, while its receiver is left alone."""
    job_id = job_for(ledger, receiver.url)
    sender.call(job_id)
    assert eventually(lambda: not ledger.outbox.due())
    return job_id


def test_a_backlog_is_sent_without_further_calls(
    sender: WebhookDispatcher, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "BATCH", 40)
    count = 90
    with receiving() as receiver:
        job_ids = [job_for(sqlite_ledger, receiver.url) for _ in range(count)]
        sender.call(job_ids[0])
        assert eventually(lambda: sqlite_ledger.deliveries.open_count() == 0, timeout_s=20)
    assert len({got.headers["webhook-id"] for got in receiver.received}) == len(receiver.received) == count


def test_no_more_than_four_at_once_to_one_receiver(sender: WebhookDispatcher, sqlite_ledger: Ledger) -> None:
    counted, at_once, counts = threading.Lock(), [0], []

    def behave(_received: Received) -> Answer:
        with counted:
            at_once[0] += 1
            counts.append(at_once[0])
        time.sleep(0.05)
        with counted:
            at_once[0] -= 1
        return 200, {}, []

    with receiving(behave) as receiver:
        sender.call(job_for(sqlite_ledger, receiver.url))
        for _ in range(30):
            sender.call(job_for(sqlite_ledger, receiver.url))
        assert eventually(lambda: sqlite_ledger.deliveries.open_count() == 0)
    assert (max(counts), len(counts)) == (4, 31)


def test_one_failure_among_many_sends_nothing_twice_and_loses_no_try(
    sender: WebhookDispatcher, sqlite_ledger: Ledger
) -> None:
    failing = set()
    with receiving(lambda got: (500 if got.headers["webhook-id"] in failing else 200, {}, [])) as receiver:
        jobs = [job_for(sqlite_ledger, receiver.url) for _ in range(60)]
        failing.add(sqlite_ledger.deliveries.page(job_id=jobs[30])[0].id)
        sender.call(jobs[0])
        assert eventually(lambda: sqlite_ledger.deliveries.open_count() == 1)
        assert eventually(lambda: len(receiver.received) == 60)
    found = sqlite_ledger.deliveries.page(limit=100)
    assert len({got.headers["webhook-id"] for got in receiver.received}) == 60
    assert [delivery.id for delivery in found if delivery.state == "pending"] == list(failing)
    assert all(len(delivery.log) == 1 for delivery in found)


def test_connection_threads_end_when_there_is_nothing_to_carry(
    sender: WebhookDispatcher, sqlite_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "REST_S", 0.2)
    before = set(threading.enumerate())

    def threads() -> list[threading.Thread]:
        return [found for found in threading.enumerate() if found not in before and found.name in ("post", "deadline")]

    with receiving() as receiver:
        for _ in range(2):
            tried(sqlite_ledger, sender, job_for(sqlite_ledger, receiver.url))
            assert threads()
            assert eventually(lambda: not threads())


def test_what_was_not_sent_stays_due(sqlite_settings: Settings, sqlite_ledger: Ledger) -> None:
    with receiving(lambda _received: (200, {"Content-Length": "1"}, [0.5, b"x"])) as receiver:
        sender = WebhookDispatcher(sqlite_settings, sqlite_ledger)
        for _ in range(3):
            sender.call(job_for(sqlite_ledger, receiver.url))
        assert eventually(lambda: receiver.received)
        begun_s = time.monotonic()
        sender.close()
        assert time.monotonic() - begun_s < dispatcher.GOODBYE_S
    states = sorted(delivery.state for delivery in sqlite_ledger.deliveries.page())
    assert states == ["delivered", "pending", "pending"]
    assert len(sqlite_ledger.outbox.due()) == 2


def test_two_processes_share_the_work_and_send_nothing_twice(sqlite_settings: Settings, sqlite_ledger: Ledger) -> None:
    ledgers = [Ledger(sqlite_settings) for _ in range(2)]
    senders = [WebhookDispatcher(sqlite_settings, ledger) for ledger in ledgers]
    with receiving() as receiver:
        job_ids = [job_for(sqlite_ledger, receiver.url) for _ in range(150)]
        for job_id in job_ids:
            for sender in senders:
                sender.call(job_id)
        assert eventually(lambda: sqlite_ledger.deliveries.open_count() == 0, timeout_s=20)
    for sender, ledger in zip(senders, ledgers, strict=True):
        sender.close()
        ledger.close()
    assert len(receiver.received) == len({got.headers["webhook-id"] for got in receiver.received}) == 150


def test_the_ledger_may_be_away_for_a_while(sender: WebhookDispatcher, sqlite_ledger: Ledger) -> None:
    with receiving() as receiver:
        job_id = job_for(sqlite_ledger, receiver.url)
        # Whoever holds the write lock keeps everybody else from it: 2 s are the longest wait for it.
        with sqlite_ledger.database.write() as transaction:
            transaction.connection.execute(update(deliveries).values(timeout_s=29.0))
            sender.call(job_id)
            time.sleep(2.5)
            assert receiver.received == []
        # Nothing of it was lost: it is due, and the next call brings it.
        assert tried(sqlite_ledger, sender, job_id).state == "delivered"
