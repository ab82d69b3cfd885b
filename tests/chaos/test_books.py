"""The books do not balance when something is wrong: a check that never complains would prove nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from core.records.job import CANCELED, CANCELING, DELIVERING, QUEUED, RUNNING, SUCCEEDED, TERMINAL
from tests.chaos.books import Books, Entry, Event
from tests.chaos.load import Accepted
from tests.chaos.monkey import API, WORKER, Strike
from tests.chaos.orders import GENERATE, LABEL, V2, Order

ORDINARY = (QUEUED, RUNNING, DELIVERING, "output", SUCCEEDED)
TRIED_TWICE = (QUEUED, RUNNING, QUEUED, RUNNING, DELIVERING, "output", SUCCEEDED)


def entry_of(order: Order, steps: Sequence[str], **columns: Any) -> Entry:
    """A job whose log has these steps, one each 100 ms, always on gpu0."""
    log = []
    for seq, step in enumerate(steps, start=1):
        data = {"asset_id": f"asset-{seq}"} if step == "output" else {"status": step, "instance": "gpu0@host"}
        log.append(Event(seq=seq, type="output" if step == "output" else "status", data=data, at_ms=100 * seq))
    row: dict[str, Any] = {"id": "job", "own_request_id": None, "metadata": {LABEL: order.name}, "error": None}
    row |= {"status": steps[-1], "attempt": steps.count(RUNNING), "lost_attempts": 0, "last_seq": len(steps)}
    return Entry(row={**row, **columns}, log=log, sent=[])


def check(entries: Sequence[Entry], order: Order, *strikes: Strike, cancel_answer: str | None = None) -> None:
    accepted = Accepted(order=order, job_id="job", cancel_answer=cancel_answer)
    Books(entries, {order.number: accepted}, strikes, {}).check()


PLAIN = Order(number=7, contract=V2, seconds=0.1)
CHANGED = Order(number=7, contract=V2, seconds=0.1, cancel_after_s=0.1)


def test_a_job_that_ran_once_is_right() -> None:
    check([entry_of(PLAIN, ORDINARY)], PLAIN)


@pytest.mark.parametrize(
    ("steps", "columns", "complaint"),
    [
        ((*ORDINARY, SUCCEEDED), {}, "its ends are"),
        ((*ORDINARY, "output"), {"status": SUCCEEDED}, "does not lead|its ends are"),
        (ORDINARY, {"last_seq": 6}, "events .* of 6"),
        (ORDINARY, {"attempt": 2}, "1 attempts in the log, 2 counted"),
        ((QUEUED, DELIVERING, "output", SUCCEEDED), {}, "queued became delivering"),
        ((QUEUED, RUNNING, DELIVERING, SUCCEEDED), {}, "outputs"),
        ((QUEUED, RUNNING), {}, "its ends are"),
        ((QUEUED, CANCELED), {}, "it is canceled and should be succeeded"),
        (ORDINARY, {"id": "other"}, "the client was told the id job"),
    ],
)
def test_a_wrong_job_is_noticed(steps: Sequence[str], columns: dict[str, Any], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check([entry_of(PLAIN, steps, **columns)], PLAIN)


def test_lost_unknown_and_doubled_jobs_are_noticed() -> None:
    other = Order(number=8, contract=V2, seconds=0.1)
    with pytest.raises(AssertionError, match=r"not in the ledger: \['chaos-7'\]"):
        check([], PLAIN)
    with pytest.raises(AssertionError, match=r"never accepted: \['chaos-8'\]"):
        check([entry_of(PLAIN, ORDINARY), entry_of(other, ORDINARY)], PLAIN)
    with pytest.raises(AssertionError, match="in the ledger twice"):
        check([entry_of(PLAIN, ORDINARY), entry_of(PLAIN, ORDINARY)], PLAIN)


def test_a_lost_attempt_needs_a_strike_on_its_own_gpu() -> None:
    tried_twice = [entry_of(PLAIN, TRIED_TWICE)]
    check(tried_twice, PLAIN, Strike(number=0, kind=WORKER, target="gpu0", at_ms=250))
    for strike in (
        Strike(number=0, kind=WORKER, target="gpu1", at_ms=250),
        Strike(number=0, kind=API, target="api", at_ms=250),
        Strike(number=0, kind=WORKER, target="gpu0", at_ms=350),
        Strike(number=0, kind=WORKER, target="gpu0", at_ms=-60_000),
    ):
        with pytest.raises(AssertionError, match="nothing was done to gpu0"):
            check(tried_twice, PLAIN, strike)


@pytest.mark.parametrize("answer", [*sorted(TERMINAL - {SUCCEEDED}), CANCELING])
def test_a_cancellation_that_was_confirmed_holds(answer: str) -> None:
    with pytest.raises(AssertionError, match="it is succeeded and should be"):
        check([entry_of(CHANGED, ORDINARY)], CHANGED, cancel_answer=answer)
    check([entry_of(CHANGED, (QUEUED, CANCELED))], CHANGED, cancel_answer=CANCELED)


def test_a_webhook_that_was_never_recorded_is_noticed() -> None:
    order = Order(number=7, contract=GENERATE, seconds=0.1, has_webhook=True)
    with pytest.raises(AssertionError, match="0 webhook events"):
        check([entry_of(order, ORDINARY)], order)
