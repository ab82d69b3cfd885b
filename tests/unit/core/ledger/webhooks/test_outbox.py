"""The outbox: what is due, who takes it, what becomes of a try, and what operators do with deliveries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.dialects import postgresql

from core.errors import NotFound
from core.ledger import Ledger
from core.ledger.database.tables import deliveries, delivery_attempts, jobs
from core.ledger.webhooks import outbox as module
from core.ledger.webhooks.deliveries import Deliveries, Delivery, Try
from core.ledger.webhooks.outbox import Due, Outbox, Post, TryResult
from core.ledger.webhooks.retry_schedule import JITTER
from tests.ledger_moves import WEBHOOK, submit
from tests.makers import StoppedClock

POSTGRESQL: Any = postgresql.dialect
ARRIVED = TryResult(at_ms=5, duration_ms=7, status_code=204)
BROKEN = TryResult(at_ms=6, duration_ms=8, status_code=500, error="answered 500")
RECEIVER, OTHER_RECEIVER = "http://hooks.example:80", "http://other.example:80"
#: The longest a try may take, and what a sender that has not reported is given beyond that.
LIMIT_S, MARGIN_MS = 10.0, 15_000


@pytest.fixture
def outbox(ledger: Ledger) -> Outbox:
    """With two pauses between three tries."""
    return Outbox(ledger.database, pauses_s=[10.0, 100.0], limit_s=LIMIT_S)


@pytest.fixture
def operators(ledger: Ledger) -> Deliveries:
    """What operators do with deliveries."""
    return ledger.deliveries


def add(ledger: Ledger, name: str, *, job_id: str | None = None, **columns: Any) -> str:
    """Put a delivery of this id into the outbox, long due; of a job of its own if it is of none."""
    values: dict[str, Any] = {"job_id": job_id or submit(ledger, webhook=WEBHOOK).id, "contract": "v2", "seq": 1}
    values |= {"event": "job.completed", "url": WEBHOOK.url, "receiver": RECEIVER, "timeout_s": 5.0, "body": "{}"}
    values |= {"state": "pending", "tries": 0, "tries_before": 0, "next_try_at_ms": 1000}
    values |= {"created_at_ms": 1, "updated_at_ms": 1}
    with ledger.database.write() as transaction:
        transaction.connection.execute(insert(deliveries).values(id=name, **{**values, **columns}))
    return str(values["job_id"])


def row_of(ledger: Ledger, name: str) -> Any:
    with ledger.database.read() as connection:
        return connection.execute(select(deliveries).where(deliveries.c.id == name)).one()


def set_row(ledger: Ledger, name: str, **columns: Any) -> None:
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(deliveries).where(deliveries.c.id == name).values(**columns))


def take(outbox: Outbox, name: str = "a") -> Post:
    (post,) = outbox.take([name])
    return post


def names(found: list[Due] | list[Delivery] | list[Post]) -> list[str]:
    return [each.id for each in found]


class TestDue:
    def test_the_longest_due_first_and_then_by_number(self, ledger: Ledger, outbox: Outbox) -> None:
        add(ledger, "third", next_try_at_ms=6)
        add(ledger, "second", next_try_at_ms=5, seq=2)
        job_id = add(ledger, "first", next_try_at_ms=5, seq=1)
        assert names(outbox.due()) == ["first", "second", "third"]
        assert outbox.due(limit=1) == [Due(id="first", job_id=job_id, receiver=RECEIVER)]

    def test_from_its_moment_on(self, ledger: Ledger, outbox: Outbox, clock: StoppedClock) -> None:
        job_id = add(ledger, "a", next_try_at_ms=clock.now_ms + 1)
        add(ledger, "ended", next_try_at_ms=None)
        assert (outbox.due(), outbox.jobs_due(), outbox.take(["a", "ended"])) == ([], [], [])
        clock.pass_ms(1)
        assert names(outbox.due()) == ["a"]
        assert outbox.jobs_due() == [job_id]
        assert names(outbox.take(["a", "ended"])) == ["a"]

    def test_of_some_jobs_and_not_for_some_receivers(self, ledger: Ledger, outbox: Outbox) -> None:
        job_id = add(ledger, "a")
        add(ledger, "b", receiver=OTHER_RECEIVER)
        assert names(outbox.due(job_ids=[job_id])) == ["a"]
        assert names(outbox.due(except_for=[RECEIVER])) == ["b"]
        assert outbox.due(job_ids=[job_id], except_for=[RECEIVER]) == []

    def test_as_many_as_a_sender_looks_at(self, ledger: Ledger, outbox: Outbox) -> None:
        job_id = add(ledger, "0")
        for number in range(1, 257):
            add(ledger, str(number), job_id=job_id)
        assert len(outbox.due()) == 256

    def test_jobs_are_named_once_in_the_order_of_their_deliveries(self, ledger: Ledger, outbox: Outbox) -> None:
        later = add(ledger, "b", next_try_at_ms=5)
        first = add(ledger, "a", next_try_at_ms=4)
        add(ledger, "c", next_try_at_ms=6, job_id=first)
        assert outbox.jobs_due() == [first, later]
        assert outbox.jobs_due(limit=1) == [first]

    def test_fifty_jobs_where_nobody_says(self, ledger: Ledger, outbox: Outbox) -> None:
        for number in range(51):
            add(ledger, str(number))
        assert len(outbox.jobs_due()) == 50


class TestTaking:
    def test_a_try_is_ours_to_make(self, ledger: Ledger, outbox: Outbox, clock: StoppedClock) -> None:
        job_id = add(ledger, "a", tries=3, seq=9, body="[1]", timeout_s=2.0)
        add(ledger, "b")
        assert take(outbox) == Post(
            id="a",
            job_id=job_id,
            contract="v2",
            event="job.completed",
            seq=9,
            url=WEBHOOK.url,
            receiver=RECEIVER,
            body="[1]",
            timeout_s=2.0,
            tries=4,
            webhook=WEBHOOK,
            tenant="default",
        )
        row = row_of(ledger, "a")
        assert (row.state, row.tries, row.updated_at_ms) == ("sending", 4, clock.now_ms)
        assert row_of(ledger, "b").state == "pending"

    def test_nobody_else_takes_it_while_its_sender_may_be_alive(
        self, ledger: Ledger, outbox: Outbox, clock: StoppedClock
    ) -> None:
        add(ledger, "a")
        take(outbox)
        clock.pass_ms(int(LIMIT_S * 1000) + MARGIN_MS - 1)
        assert outbox.take(["a"]) == []
        clock.pass_ms(1)
        assert take(outbox).tries == 2

    def test_nothing_to_take(self, outbox: Outbox) -> None:
        assert outbox.take(["gone"]) == []

    def test_senders_on_postgresql_do_not_wait_for_each_other(self) -> None:
        statement = str(module._TAKE.compile(dialect=POSTGRESQL()))
        assert "FOR UPDATE SKIP LOCKED" in statement

    def test_several_of_one_job(self, ledger: Ledger, outbox: Outbox) -> None:
        job_id = add(ledger, "a")
        add(ledger, "b", job_id=job_id)
        assert sorted(names(outbox.take(["a", "b"]))) == ["a", "b"]

    def test_one_whose_job_has_no_webhook_that_can_be_read(self, ledger: Ledger, outbox: Outbox) -> None:
        job_id = add(ledger, "a")
        with ledger.database.write() as transaction:
            transaction.connection.execute(update(jobs).where(jobs.c.id == job_id).values(webhook=[1]))
        assert take(outbox).webhook.url == ""


class TestResults:
    def test_what_arrived_has_ended(
        self, ledger: Ledger, outbox: Outbox, operators: Deliveries, clock: StoppedClock
    ) -> None:
        add(ledger, "a", error="of the last try")
        post = take(outbox)
        clock.pass_ms(3)
        outbox.record([(post, ARRIVED)])
        found = operators.get("a")
        assert (found.state, found.status_code, found.error, found.next_try_at_ms) == ("delivered", 204, None, None)
        assert found.updated_at_ms == clock.now_ms
        assert found.log == (Try(number=1, at_ms=5, duration_ms=7, status_code=204, error=None),)

    def test_what_failed_is_tried_by_the_schedule_and_then_dead(
        self, ledger: Ledger, outbox: Outbox, operators: Deliveries, clock: StoppedClock
    ) -> None:
        add(ledger, "a")
        for pause_ms in (10_000, 100_000):
            outbox.record([(take(outbox), BROKEN)])
            found = operators.get("a")
            assert (found.state, found.error) == ("pending", "answered 500")
            assert found.next_try_at_ms is not None
            assert found.next_try_at_ms - clock.now_ms == pytest.approx(pause_ms, rel=JITTER)
            clock.pass_ms(found.next_try_at_ms - clock.now_ms)
        outbox.record([(take(outbox), BROKEN)])
        found = operators.get("a")
        assert (found.state, found.next_try_at_ms, found.tries, len(found.log)) == ("dead", None, 3, 3)

    def test_another_try_is_of_no_use(self, ledger: Ledger, outbox: Outbox, operators: Deliveries) -> None:
        add(ledger, "a")
        outbox.record([(take(outbox), replace(BROKEN, is_final=True))])
        assert (operators.get("a").state, operators.get("a").next_try_at_ms) == ("dead", None)

    def test_a_receiver_may_ask_for_a_longer_pause(
        self, ledger: Ledger, outbox: Outbox, operators: Deliveries, clock: StoppedClock
    ) -> None:
        add(ledger, "a")
        outbox.record([(take(outbox), replace(BROKEN, retry_after_s=77.0))])
        assert operators.get("a").next_try_at_ms == clock.now_ms + 77_000

    def test_each_has_its_own(self, ledger: Ledger, outbox: Outbox, operators: Deliveries) -> None:
        for name in ("a", "b", "c"):
            add(ledger, name)
        one, other = take(outbox, "a"), take(outbox, "b")
        outbox.record([(one, ARRIVED), (other, BROKEN)])
        assert [operators.get(name).state for name in ("a", "b", "c")] == ["delivered", "pending", "pending"]
        assert [len(operators.get(name).log) for name in ("a", "b", "c")] == [1, 1, 0]

    def test_progress_that_did_not_arrive_is_not_tried_again(
        self, ledger: Ledger, outbox: Outbox, operators: Deliveries
    ) -> None:
        for name in ("a", "b"):
            add(ledger, name, event="job.progress")
        add(ledger, "c")
        found = outbox.take(["a", "b", "c"])
        results = {"a": BROKEN, "b": ARRIVED, "c": BROKEN}
        outbox.record([(post, results[post.id]) for post in found])
        assert {each.id: each.state for each in operators.page()} == {"b": "delivered", "c": "pending"}

    def test_nothing_to_record(self, ledger: Ledger, outbox: Outbox, operators: Deliveries) -> None:
        add(ledger, "a", event="job.progress")
        post = take(outbox)
        outbox.record([])
        outbox.record([(post, BROKEN)])
        assert operators.page() == []

    @pytest.mark.parametrize("columns", [{"tries": 2}, {"state": "pending"}])
    def test_one_that_comes_too_late_changes_nothing(
        self, ledger: Ledger, outbox: Outbox, operators: Deliveries, columns: dict[str, Any]
    ) -> None:
        add(ledger, "a")
        post = take(outbox)
        set_row(ledger, "a", **columns)
        before = operators.get("a")
        outbox.record([(post, ARRIVED)])
        outbox.give_back([post])
        assert operators.get("a") == before

    def test_what_is_given_back_is_due_and_has_its_whole_schedule(
        self, ledger: Ledger, outbox: Outbox, operators: Deliveries, clock: StoppedClock
    ) -> None:
        for name in ("a", "b"):
            add(ledger, name)
        posts = outbox.take(["a", "b"])
        clock.pass_ms(5)
        outbox.give_back([post for post in posts if post.id == "a"])
        row = row_of(ledger, "a")
        assert (row.state, row.tries, row.tries_before) == ("pending", 1, 1)
        assert row.next_try_at_ms == row.updated_at_ms == clock.now_ms
        assert row_of(ledger, "b").state == "sending"
        post = take(outbox)
        assert post.tries == 2
        outbox.record([(post, BROKEN)])
        assert (operators.get("a").next_try_at_ms or 0) - clock.now_ms == pytest.approx(10_000, rel=JITTER)
        assert [line.number for line in operators.get("a").log] == [2]


class TestPutOff:
    def test_what_waits_for_a_receiver(self, ledger: Ledger, outbox: Outbox, operators: Deliveries) -> None:
        add(ledger, "a", next_try_at_ms=99)
        add(ledger, "later", next_try_at_ms=100)
        add(ledger, "even later", next_try_at_ms=101)
        add(ledger, "elsewhere", receiver=OTHER_RECEIVER, next_try_at_ms=1)
        add(ledger, "under way", state="sending", next_try_at_ms=1)
        assert outbox.put_off(RECEIVER, until_ms=100) == 1
        found = {each.id: each.next_try_at_ms for each in operators.page()}
        assert found == {"a": 100, "later": 100, "even later": 101, "elsewhere": 1, "under way": 1}
        assert row_of(ledger, "a").tries == 0


class TestPage:
    def test_the_newest_first_and_of_one_moment_by_id(self, ledger: Ledger, operators: Deliveries) -> None:
        for name, created_at_ms in (("b", 5), ("c", 5), ("a", 5), ("z", 4), ("0", 6)):
            add(ledger, name, created_at_ms=created_at_ms)
        assert names(operators.page()) == ["0", "c", "b", "a", "z"]
        assert names(operators.page(limit=2)) == ["0", "c"]
        assert names(operators.page(after=(5, "c"))) == ["b", "a", "z"]
        assert names(operators.page(after=(5, "b"), limit=1)) == ["a"]

    def test_fifty_where_nobody_says(self, ledger: Ledger, operators: Deliveries) -> None:
        job_id = add(ledger, "0")
        for number in range(1, 51):
            add(ledger, str(number), job_id=job_id)
        assert len(operators.page()) == 50

    def test_by_state_job_and_beginning_of_their_ids(self, ledger: Ledger, operators: Deliveries) -> None:
        job_id = add(ledger, "a", state="dead")
        for name in ("b", "c", "d"):
            add(ledger, name)
        assert names(operators.page(state="dead")) == ["a"]
        assert names(operators.page(job_id=job_id)) == ["a"]
        assert names(operators.page(ids=("b", "c"))) == ["c", "b"]

    def test_each_with_its_own_log_in_order(self, ledger: Ledger, operators: Deliveries) -> None:
        add(ledger, "a")
        add(ledger, "b")
        with ledger.database.write() as transaction:
            lines = [{"delivery_id": "a", "number": number, "at_ms": 1, "duration_ms": 1} for number in (2, 1, 3)]
            transaction.connection.execute(insert(delivery_attempts), lines)
        found = {each.id: [line.number for line in each.log] for each in operators.page()}
        assert found == {"a": [1, 2, 3], "b": []}
        assert [line.number for line in operators.get("a").log] == [1, 2, 3]

    def test_there_is_none(self, operators: Deliveries) -> None:
        assert operators.page() == []
        for ask in (operators.get, operators.replay):
            with pytest.raises(NotFound, match="no delivery x"):
                ask("x")


class TestReplay:
    @pytest.mark.parametrize("state", ["pending", "delivered", "dead"])
    def test_it_is_due_and_its_schedule_begins_anew(
        self, ledger: Ledger, outbox: Outbox, operators: Deliveries, clock: StoppedClock, state: str
    ) -> None:
        add(ledger, "a", state=state, tries=3, next_try_at_ms=None)
        add(ledger, "b", state="dead", next_try_at_ms=None)
        found = operators.replay("a")
        assert (found.state, found.tries) == ("pending", 3)
        assert found.next_try_at_ms == found.updated_at_ms == clock.now_ms
        assert operators.get("b").state == "dead"
        outbox.record([(take(outbox), BROKEN)])
        found = operators.get("a")
        assert (found.next_try_at_ms or 0) - clock.now_ms == pytest.approx(10_000, rel=JITTER)

    def test_one_that_is_being_sent_is_left_alone(self, ledger: Ledger, outbox: Outbox, operators: Deliveries) -> None:
        add(ledger, "a")
        take(outbox)
        before = operators.get("a")
        assert operators.replay("a") == before


class TestPurge:
    @pytest.mark.parametrize("state", ["delivered", "dead"])
    def test_what_ended_so_long_ago(
        self, ledger: Ledger, operators: Deliveries, clock: StoppedClock, state: str
    ) -> None:
        others = {"delivered", "dead", "pending", "sending"} - {state}
        for other in others:
            add(ledger, other, state=other)
        add(ledger, "old", state=state, updated_at_ms=clock.now_ms - 10)
        add(ledger, "young", state=state, updated_at_ms=clock.now_ms - 9)
        assert operators.purge(state, older_than_ms=10) == 1
        assert set(names(operators.page())) == {*others, "young"}
        add(ledger, "now", state=state, updated_at_ms=clock.now_ms)
        add(ledger, "later", state=state, updated_at_ms=clock.now_ms + 1)
        assert operators.purge(state) == 2

    @pytest.mark.parametrize("state", ["pending", "sending", "x"])
    def test_only_what_has_ended(self, ledger: Ledger, operators: Deliveries, state: str) -> None:
        add(ledger, "a", state=state)
        with pytest.raises(ValueError, match="only delivered and dead"):
            operators.purge(state)
        assert names(operators.page()) == ["a"]


def test_how_many_have_not_ended(ledger: Ledger, operators: Deliveries) -> None:
    job_id = add(ledger, "a")
    add(ledger, "b", job_id=job_id, state="sending")
    add(ledger, "c", job_id=job_id, state="dead", next_try_at_ms=None)
    other = add(ledger, "d")
    assert (operators.open_count(), operators.open_count(job_id), operators.open_count(other)) == (3, 2, 1)
