"""Requests that come again: they join the job that they have, and the last caller to hang up ends it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from core.errors import RequestIdReuse
from core.ledger import Ledger
from core.ledger.database.tables import jobs
from core.records.job import CANCELED, CANCELING, DELIVERING, FAILED, QUEUED, SUCCEEDED, Job
from tests.ledger_moves import ERROR, claimed, generated, set_columns, submit

ID, DIGEST = "r", b"digest"


def asked(ledger: Ledger, **fields: Any) -> Job:
    """A job of a request that may come again."""
    return submit(ledger, request_id=ID, request_digest=DIGEST, **fields)


def callers(ledger: Ledger, job_id: str) -> int:
    with ledger.database.read() as connection:
        return int(connection.execute(select(jobs.c.callers).where(jobs.c.id == job_id)).scalar_one())


def status(ledger: Ledger, job_id: str) -> str:
    return ledger.jobs.get(job_id).status


class TestJoin:
    def test_the_first_makes_the_job(self, ledger: Ledger) -> None:
        submit(ledger, request_id="other", request_digest=DIGEST)
        assert ledger.requests.join(ID, DIGEST) is None

    def test_those_after_it_are_counted(self, ledger: Ledger) -> None:
        job, other = asked(ledger), submit(ledger)
        assert [ledger.requests.join(ID, DIGEST) for _ in range(2)] == [job.id, job.id]
        assert (callers(ledger, job.id), callers(ledger, other.id)) == (3, 1)

    def test_another_body_is_another_request(self, ledger: Ledger) -> None:
        job = asked(ledger)
        with pytest.raises(RequestIdReuse) as caught:
            ledger.requests.join(ID, b"another")
        assert caught.value.job_id == job.id
        assert callers(ledger, job.id) == 1

    @pytest.mark.parametrize("end", [QUEUED, FAILED, SUCCEEDED])
    def test_a_job_without_a_mark_that_is_not_cancelled_keeps_its_id(self, ledger: Ledger, end: str) -> None:
        job = submit(ledger, request_id=ID)
        set_columns(ledger, job.id, status=end)
        with pytest.raises(RequestIdReuse) as caught:
            ledger.requests.join(ID, DIGEST)
        assert caught.value.job_id == job.id
        assert ledger.jobs.get(job.id).request_id == ID

    @pytest.mark.parametrize("end", [CANCELED, CANCELING])
    def test_one_whose_callers_hung_up_gives_its_id_away(self, ledger: Ledger, end: str) -> None:
        job, other = submit(ledger, request_id=ID), submit(ledger, request_id="other")
        set_columns(ledger, job.id, status=end)
        set_columns(ledger, other.id, status=end)
        assert ledger.requests.join(ID, DIGEST) is None
        assert ledger.jobs.get(job.id).request_id is None
        assert ledger.jobs.get(other.id).request_id == "other"

    def test_one_that_somebody_cancelled_keeps_it(self, ledger: Ledger) -> None:
        job = asked(ledger)
        ledger.jobs.cancel(job.id)
        assert ledger.requests.join(ID, DIGEST) == job.id

    def test_the_last_may_hang_up_in_this_moment(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        job = asked(ledger)
        is_mark = ledger.requests._sealer.is_mark

        def hang_up(digest: bytes, mark: str) -> bool:
            ledger.requests.leave(job.id)
            return is_mark(digest, mark)

        monkeypatch.setattr(ledger.requests._sealer, "is_mark", hang_up)
        assert ledger.requests.join(ID, DIGEST) is None
        assert callers(ledger, job.id) == 1

    def test_the_fleets_key_alone_compares(self, ledger: Ledger) -> None:
        assert ledger.requests.mark(DIGEST) == ledger.requests.mark(DIGEST) != ledger.requests.mark(b"another")
        assert DIGEST.decode() not in ledger.requests.mark(DIGEST)


class TestLeave:
    def test_the_last_caller_ends_it(self, ledger: Ledger) -> None:
        job, other = asked(ledger), submit(ledger)
        ledger.requests.join(ID, DIGEST)
        ledger.requests.join(ID, DIGEST)
        for left in (2, 1):
            ledger.requests.leave(job.id)
            assert (status(ledger, job.id), callers(ledger, job.id)) == (QUEUED, left)
        ledger.requests.leave(job.id)
        assert status(ledger, job.id) == CANCELED
        assert (status(ledger, other.id), callers(ledger, other.id)) == (QUEUED, 1)
        assert ledger.requests.join(ID, DIGEST) is None

    def test_one_that_runs_has_to_be_let_go(self, ledger: Ledger) -> None:
        claim = claimed(ledger, request_id=ID, request_digest=DIGEST)
        ledger.requests.leave(claim.job_id)
        assert status(ledger, claim.job_id) == CANCELING
        assert ledger.requests.join(ID, DIGEST) is None

    def test_one_that_stores_its_outputs_is_dropped(self, ledger: Ledger) -> None:
        claim = generated(ledger, request_id=ID, request_digest=DIGEST)
        assert status(ledger, claim.job_id) == DELIVERING
        ledger.requests.leave(claim.job_id)
        assert status(ledger, claim.job_id) == CANCELED

    def test_one_that_has_ended_stays_theirs(self, ledger: Ledger) -> None:
        claim = claimed(ledger, request_id=ID, request_digest=DIGEST)
        ledger.claims.fail(claim, ERROR)
        ledger.requests.leave(claim.job_id)
        assert status(ledger, claim.job_id) == FAILED
        assert ledger.requests.join(ID, DIGEST) == claim.job_id

    def test_one_that_is_gone(self, ledger: Ledger) -> None:
        job = asked(ledger)
        ledger.requests.leave("gone")
        assert status(ledger, job.id) == QUEUED
