"""Requests that come again under their own ids: who gets which job, when callers ask and hang up at once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from core.errors import RequestIdReuse
from core.ledger import Ledger
from core.records.job import CANCELED, QUEUED
from tests.ledger_moves import submit

BODY, OTHER = (hashlib.sha256(text).digest() for text in (b"a body", b"another body"))


def asked(ledger: Ledger, request_id: str = "mine", body: bytes = BODY) -> str:
    """The id of the job of a request, made or there already: as the API has it."""
    for _ in range(3):
        known = ledger.requests.join(request_id, body)
        if known is not None:
            return known
        try:
            return submit(ledger, request_id=request_id, request_digest=body).id
        except RequestIdReuse:
            continue
    raise AssertionError("neither there nor to be made")


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result() for each in [pool.submit(call) for call in calls]]


def test_ten_at_once_have_one_job(ledger: Ledger) -> None:
    assert len(set(at_once(*[lambda: asked(ledger)] * 10))) == 1
    assert len(ledger.jobs.page()) == 1


def test_another_body_is_refused_with_the_job_that_has_the_id(ledger: Ledger) -> None:
    job_id = asked(ledger)

    with pytest.raises(RequestIdReuse) as caught:
        ledger.requests.join("mine", OTHER)

    assert caught.value.details == {"job_id": job_id}


def test_the_last_caller_that_hangs_up_ends_the_job(ledger: Ledger) -> None:
    job_id = asked(ledger)
    assert asked(ledger) == job_id

    ledger.requests.leave(job_id)
    assert ledger.jobs.get(job_id).status == QUEUED
    ledger.requests.leave(job_id)
    assert ledger.jobs.get(job_id).status == CANCELED

    again = asked(ledger, body=OTHER)
    assert again != job_id, "nobody wanted it, so its id is to be had"
    assert ledger.jobs.get_by_request_id("mine").id == again


def test_who_asks_while_another_hangs_up_never_gets_a_cancelled_job(ledger: Ledger) -> None:
    for number in range(10):
        name = f"race-{number}"
        first = asked(ledger, name)
        _, second = at_once(partial(ledger.requests.leave, first), partial(asked, ledger, name))
        assert ledger.jobs.get(second).status == QUEUED


def test_a_job_of_an_earlier_version_keeps_its_id(ledger: Ledger) -> None:
    job_id = submit(ledger, request_id="mine").id

    with pytest.raises(RequestIdReuse):
        ledger.requests.join("mine", BODY)

    ledger.jobs.cancel(job_id)
    assert ledger.requests.join("mine", BODY) is None
