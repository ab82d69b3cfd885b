"""What may be removed from the ledger, and when."""

from __future__ import annotations

import pytest
from sqlalchemy import insert, select, update

from core.ledger import Ledger
from core.ledger.database.access_tables import idempotency_keys
from core.ledger.database.tables import deliveries, jobs, uploads
from core.ledger.removal import KEY_LIFE_MS
from tests.ledger_moves import WEBHOOK, claimed, set_columns, submit, succeeded
from tests.makers import StoppedClock

STATES = ("pending", "sending", "delivered", "dead")


def ended(ledger: Ledger, **columns: int) -> str:
    """A job that has ended, with its times set."""
    job_id = succeeded(ledger).job_id
    if columns:
        set_columns(ledger, job_id, **columns)
    return job_id


def set_deliveries(ledger: Ledger, state: str) -> None:
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(deliveries).values(state=state))


def keep_upload(ledger: Ledger, upload_id: str, job_id: str | None) -> None:
    """A file that came in, for a job alone or for whoever names it."""
    values = {"id": upload_id, "hash": "h", "name": "n", "content_type": "t", "size_bytes": 1, "storage_key": "k"}
    with ledger.database.write() as transaction:
        transaction.connection.execute(
            insert(uploads).values(**values, created_at_ms=1, expires_at_ms=10**15, job_id=job_id)
        )


def expiries(ledger: Ledger) -> dict[str, int]:
    with ledger.database.read() as connection:
        return {row.id: row.expires_at_ms for row in connection.execute(select(uploads))}


class TestDue:
    def test_from_the_moment_after_its_time(self, ledger: Ledger, clock: StoppedClock) -> None:
        job_id = ended(ledger, expires_at_ms=clock.now_ms, files_expire_at_ms=clock.now_ms)
        assert ledger.removal.expired_jobs(limit=9) == ledger.removal.expired_files(limit=9) == []
        assert ledger.removal.remove_jobs([job_id]) == 0
        clock.pass_ms(1)
        assert ledger.removal.expired_jobs(limit=9) == ledger.removal.expired_files(limit=9) == [job_id]
        assert ledger.removal.remove_jobs([job_id]) == 1

    def test_what_has_not_ended_stays(self, ledger: Ledger) -> None:
        for job_id in (submit(ledger).id, claimed(ledger, "gpu9@here").job_id):
            set_columns(ledger, job_id, expires_at_ms=1, files_expire_at_ms=1)
            assert not ledger.removal.delete_job(job_id)
        assert ledger.removal.expired_jobs(limit=9) == ledger.removal.expired_files(limit=9) == []

    @pytest.mark.parametrize("state", STATES)
    def test_what_somebody_is_to_be_told_of_stays(self, ledger: Ledger, state: str) -> None:
        job_id = succeeded(ledger, webhook=WEBHOOK).job_id
        set_columns(ledger, job_id, expires_at_ms=1, files_expire_at_ms=1)
        set_deliveries(ledger, state)
        expected = [] if state in ("pending", "sending") else [job_id]
        assert ledger.removal.expired_jobs(limit=9) == ledger.removal.expired_files(limit=9) == expected
        assert ledger.removal.remove_jobs([job_id]) == len(expected)

    def test_the_longest_due_first_and_not_too_many(self, ledger: Ledger) -> None:
        second, third, first = (ended(ledger, expires_at_ms=at, files_expire_at_ms=9 - at) for at in (5, 6, 4))
        assert ledger.removal.expired_jobs(limit=2) == [first, second]
        assert ledger.removal.expired_files(limit=2) == [third, second]


class TestRemoval:
    def test_files_are_removed_once_and_with_them_what_came_in(self, ledger: Ledger) -> None:
        job_id = ended(ledger, files_expire_at_ms=1)
        keep_upload(ledger, "its", job_id)
        keep_upload(ledger, "anybodys", None)
        ledger.removal.files_removed([job_id])
        assert ledger.removal.expired_files(limit=9) == []
        assert ledger.jobs.get(job_id).files_removed
        assert expiries(ledger) == {"its": 0, "anybodys": 10**15}

    def test_nothing_removed_expires_nothing(self, ledger: Ledger) -> None:
        keep_upload(ledger, "its", "another")
        ledger.removal.files_removed([])
        assert ledger.removal.remove_jobs([]) == 0
        assert expiries(ledger) == {"its": 10**15}

    def test_an_ended_job_is_deleted_at_once_whatever_is_on_its_way(self, ledger: Ledger) -> None:
        job_id = succeeded(ledger, webhook=WEBHOOK).job_id
        other = succeeded(ledger).job_id
        keep_upload(ledger, "its", job_id)
        assert ledger.removal.delete_job(job_id)
        assert not ledger.removal.delete_job(job_id)
        with ledger.database.read() as connection:
            assert connection.execute(select(jobs.c.id)).scalars().all() == [other]
            assert connection.execute(select(deliveries.c.id)).all() == []
        assert expiries(ledger) == {"its": 0}

    def test_those_that_are_kept_longer_by_now_stay(self, ledger: Ledger) -> None:
        gone, kept = ended(ledger, expires_at_ms=1), ended(ledger)
        assert ledger.removal.remove_jobs([gone, kept]) == 1
        assert ledger.jobs.get(kept).id == kept

    def test_a_key_is_good_again_after_a_day(self, ledger: Ledger, clock: StoppedClock) -> None:
        for number in range(3):
            submit(ledger, idempotency_key=f"key{number}")
        clock.pass_ms(KEY_LIFE_MS)
        assert ledger.removal.forget_keys(limit=9) == 0
        clock.pass_ms(1)
        submit(ledger, idempotency_key="young")
        assert [ledger.removal.forget_keys(limit=2) for _ in range(3)] == [2, 1, 0]
        with ledger.database.read() as connection:
            assert connection.execute(select(idempotency_keys.c.key)).scalars().all() == ["young"]

    def test_a_day_has_24_hours(self) -> None:
        assert KEY_LIFE_MS == 86_400_000
