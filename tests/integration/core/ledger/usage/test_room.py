"""What tenants have: counted as files and jobs come and go, and refused exactly where a limit is reached."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import func, select, update

from core.clock import now_ms
from core.errors import IdempotencyKeyReuse, LimitReached, NotFound
from core.ledger import Ledger
from core.ledger.database.access_tables import tenant_files
from core.ledger.database.tables import jobs
from core.ledger.input_files import InputFile
from core.ledger.usage.room import refuse_beyond
from core.records.access import ALL_TENANTS
from core.records.direct_upload import SENDING, Claimed, DirectUpload
from core.records.job import QUEUED
from core.records.output import FileSource, OutputFile
from tests.ledger_moves import accepted, claimed, submit
from tests.makers import StoppedClock

DAY_MS = 24 * 3600 * 1000


def file_of(tenant: str, size_bytes: int, **fields: object) -> InputFile:
    digest = uuid.uuid4().hex * 2
    file = InputFile(
        id=str(uuid.uuid4()),
        tenant=tenant,
        hash=f"blake3:{digest}",
        name="a.png",
        content_type="image/png",
        size_bytes=size_bytes,
        storage_key=f"{digest[:2]}/{digest[2:]}",
        created_at_ms=now_ms(),
        expires_at_ms=now_ms() + 3_600_000,
    )
    return replace(file, **fields)  # type: ignore[arg-type]


def finished(ledger: Ledger, tenant: str, size_bytes: int) -> str:
    """A job with one stored output."""
    claim = claimed(ledger, tenant=tenant)
    file = OutputFile(
        id=str(uuid.uuid4()),
        job_id=claim.job_id,
        node_id="2",
        name="a.png",
        kind="image",
        content_type="image/png",
        source=FileSource(text=""),
    )
    ledger.claims.generated(claim, [file], outputs_reused=False)
    stored = replace(file, storage_key=f"{claim.job_id}/a.png", size_bytes=size_bytes, hash="blake3:" + "0" * 64)
    ledger.outputs.succeed(claim.job_id, claim.attempt, [stored])
    return claim.job_id


CLAIMED = Claimed(hash=f"blake3:{'0' * 64}", name="a.png", content_type="", lifetime_s=None)


def direct_upload(upload_id: str, tenant: str, size_bytes: int) -> DirectUpload:
    return DirectUpload(
        id=upload_id,
        tenant=tenant,
        status=SENDING,
        size_bytes=size_bytes,
        part_bytes=0,
        multipart_id=None,
        created_at_ms=now_ms(),
    )


def in_crowd(work: Callable[[], object], count: int = 16) -> int:
    """Do the same so many times at once; returns how often it was not refused for a limit."""

    def tried(_number: int) -> bool:
        try:
            work()
        except LimitReached:
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        return sum(pool.map(tried, range(count)))


def test_bytes_are_counted_as_files_come_and_go(ledger: Ledger) -> None:
    ledger.tenants.create("acme")
    first, second = file_of("acme", 100), file_of("acme", 10)
    ledger.input_files.add(first)
    ledger.input_files.add(second, file_of("acme", 1))
    ended, removed = finished(ledger, "acme", 2000), finished(ledger, "acme", 30_000)
    finished(ledger, "default", 7)
    assert (ledger.room.kept_bytes("acme"), ledger.room.kept_bytes("default")) == (32_111, 7)

    ledger.input_files.remove(first.id)
    with pytest.raises(NotFound):
        ledger.input_files.remove(first.id)
    ledger.removal.files_removed([removed])
    ledger.removal.files_removed([removed])
    assert ledger.room.kept_bytes("acme") == 2011
    # What is gone already is not taken away once more.
    assert ledger.removal.delete_job(removed)
    ledger.input_files.remove_expired()
    assert ledger.room.kept_bytes("acme") == 2011
    assert ledger.removal.delete_job(ended)
    assert not ledger.removal.delete_job(ended)
    assert ledger.room.kept_bytes("acme") == 11
    assert ledger.room.recount() == {}


def test_what_expires_and_what_came_for_a_job_are_counted_no_more(ledger: Ledger) -> None:
    ledger.tenants.create("acme")
    job_id = finished(ledger, "acme", 5)
    ledger.input_files.add(file_of("acme", 100, job_id=job_id), file_of("acme", 20, expires_at_ms=now_ms() - 1))
    assert ledger.room.kept_bytes("acme") == 125

    ledger.input_files.remove_expired()
    assert ledger.room.kept_bytes("acme") == 105
    ledger.removal.delete_job(job_id)
    assert ledger.room.kept_bytes("acme") == 0
    ledger.input_files.remove_expired()
    assert (ledger.room.kept_bytes("acme"), ledger.room.recount()) == (0, {})


def test_what_is_sent_straight_into_the_bucket_counts_from_its_finish(ledger: Ledger) -> None:
    ledger.tenants.create("acme")
    for number, size_bytes in enumerate((100, 20, 3)):
        ledger.direct_uploads.add(direct_upload(str(number), "acme", size_bytes))
    assert ledger.room.kept_bytes("acme") == 0

    for number in range(3):
        for _ in range(2):
            ledger.direct_uploads.sent(str(number), CLAIMED)
    assert (ledger.room.kept_bytes("acme"), ledger.room.recount()) == (123, {}), "while they are read"

    for _ in range(2):
        ledger.direct_uploads.finish("0", file_of("acme", 100), is_new=True)
        ledger.direct_uploads.refuse("1", "hash_mismatch", "other bytes")
    assert (ledger.room.kept_bytes("acme"), ledger.room.recount()) == (103, {})
    for number in range(3):
        ledger.direct_uploads.remove(str(number))
    assert (ledger.room.kept_bytes("acme"), ledger.room.recount()) == (100, {})


def test_a_crowd_of_finishes_is_let_in_up_to_the_limit(ledger: Ledger) -> None:
    for number in range(16):
        ledger.direct_uploads.add(direct_upload(str(number), "default", 100))
    numbers = iter(range(16))
    let_in = in_crowd(lambda: ledger.direct_uploads.sent(str(next(numbers)), CLAIMED, max_kept_bytes=550))
    assert (let_in, ledger.room.kept_bytes("default")) == (5, 500)
    assert len(ledger.direct_uploads.checking()) == 5, "the others may be finished later"


def test_a_recount_mends_what_others_did_not_count(ledger: Ledger) -> None:
    finished(ledger, "default", 50)
    ledger.input_files.add(file_of("default", 5))
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(tenant_files).values(kept_bytes=-3))
    assert ledger.room.kept_bytes("default") == 0

    assert ledger.room.recount() == {"default": 58}
    assert ledger.room.kept_bytes("default") == 55


def test_a_crowd_of_submissions_is_taken_in_up_to_the_limit(ledger: Ledger) -> None:
    ledger.tenants.create("acme")
    submit(ledger, tenant="acme")

    taken = in_crowd(lambda: ledger.jobs.submit(accepted(tenant="acme", priority=1), max_waiting=6))

    assert (taken, ledger.room.waiting("acme"), ledger.room.waiting("default")) == (5, 6, 0)
    with ledger.database.read() as connection:
        waiting = select(func.count()).select_from(jobs).where(jobs.c.status == QUEUED)
        assert connection.execute(waiting).scalar_one() == 6


def test_a_crowd_of_files_is_kept_up_to_the_limit(ledger: Ledger) -> None:
    kept = in_crowd(lambda: ledger.input_files.add(file_of("default", 100), max_kept_bytes=550))

    assert (kept, ledger.room.kept_bytes("default")) == (5, 500)


def test_many_jobs_are_refused_as_one(ledger: Ledger) -> None:
    submit(ledger)
    with ledger.database.write() as transaction:
        refuse_beyond(transaction, "default", 9, max_waiting=10)
        refuse_beyond(transaction, "default", 1_000_000, max_waiting=None)
        with pytest.raises(LimitReached) as told:
            refuse_beyond(transaction, "default", 10, max_waiting=10)
    assert told.value.details == {"limit": "max_waiting", "allowed": 10, "used": 1}


def test_what_was_taken_once_is_told_so_at_the_limit(ledger: Ledger) -> None:
    first = ledger.jobs.submit(accepted(idempotency_key="once"), max_waiting=1)

    with pytest.raises(IdempotencyKeyReuse) as told:
        ledger.jobs.submit(accepted(idempotency_key="once"), max_waiting=1)
    assert told.value.job_id == first.id
    with pytest.raises(LimitReached):
        ledger.jobs.submit(accepted(idempotency_key="another"), max_waiting=1)
    ledger.jobs.cancel(first.id)
    assert ledger.jobs.submit(accepted(idempotency_key="another"), max_waiting=1).status == QUEUED


def test_gpu_seconds_are_those_of_today(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = StoppedClock(monkeypatch)
    clock.now_ms += DAY_MS - clock.now_ms % DAY_MS - 4000
    ledger.tenants.create("acme")
    over_midnight = claimed(ledger, tenant="acme")
    clock.pass_ms(3000)
    assert ledger.room.gpu_seconds_today("acme") == 3.0
    clock.pass_ms(6000)
    # Of nine seconds, four were yesterday's.
    assert ledger.room.gpu_seconds_today("acme") == 5.0
    # What has ended counts on the day of its end.
    ledger.claims.generated(over_midnight, [], outputs_reused=False)
    clock.pass_ms(60_000)
    running = claimed(ledger, tenant="acme")
    clock.pass_ms(2000)
    assert ledger.room.gpu_seconds_today("acme") == 11.0
    assert ledger.room.in_use()["acme"].gpu_s_today == 11.0
    assert ledger.room.gpu_seconds_today("default") == 0.0
    ledger.claims.canceled(running)
    clock.pass_ms(DAY_MS)
    assert ledger.room.gpu_seconds_today("acme") == 0.0


def test_the_first_file_to_go_makes_room(ledger: Ledger) -> None:
    assert ledger.room.next_expiry_ms("default") is None
    soon = now_ms() + 60_000
    ledger.input_files.add(file_of("default", 1, expires_at_ms=soon + 5000), file_of("default", 1, expires_at_ms=soon))
    finished(ledger, "default", 1)
    assert ledger.room.next_expiry_ms("default") == soon


def test_two_hundred_tenants_are_told_apart(ledger: Ledger) -> None:
    names = [f"tenant-{number:03}" for number in range(200)]
    # While no other job waits that could be taken in its place.
    claimed(ledger, tenant=names[7])
    for number, name in enumerate(names):
        ledger.tenants.create(name)
        ledger.input_files.add(file_of(name, 1000 + number))
        if number % 10 == 0:
            submit(ledger, tenant=name)

    found = ledger.room.in_use(of=ALL_TENANTS)

    assert [found[name].kept_bytes for name in names] == [1000 + number for number in range(200)]
    assert [name for name in names if found[name].waiting] == names[::10]
    assert [name for name in names if found[name].running] == [names[7]]
    assert ledger.room.in_use(of=names[20]) == {names[20]: found[names[20]]}
