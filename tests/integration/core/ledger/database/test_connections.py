"""The ledger when its database is locked, gone, frozen or cut off: an answer within 3 s, and life goes on after it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from psycopg import sql
from sqlalchemy import select, update

from core.errors import ConfigurationError, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.database.tables import jobs
from core.ledger.upgrade import migrate
from core.records.job import CANCELED, QUEUED
from core.settings import Settings
from tests.ledger_moves import check_log, claimed, in_parallel, lapse, submit
from tests.own_servers import OwnPostgres
from tests.services import PostgresServer, make_settings
from tests.waiting import PATIENCE, eventually

Result = TypeVar("Result")

#: A client has its 503 within this.
LIMIT_S = 3.0


@contextlib.contextmanager
def refused_in_time() -> Iterator[None]:
    """The block raises LedgerUnavailable, soon enough."""
    begun_s = time.monotonic()
    with pytest.raises(LedgerUnavailable):
        yield
    assert time.monotonic() - begun_s < LIMIT_S * PATIENCE


def after_one_refusal(ask: Callable[[], Result]) -> Result:
    """The answer, or the one to asking again: a connection that broke may be noticed only when it is used."""
    try:
        return ask()
    except LedgerUnavailable:
        return ask()


@contextlib.contextmanager
def opened(settings: Settings, *, pool_size: int = 5) -> Iterator[Ledger]:
    ledger = Ledger(settings, pool_size=pool_size)
    try:
        yield ledger
    finally:
        ledger.close()


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Another process of the fleet is in a long write."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.fixture
def own_settings(tmp_path: Path, own_postgres: OwnPostgres) -> Settings:
    """A ledger on a server that may be stopped and frozen."""
    settings = make_settings(tmp_path, database_url=own_postgres.new_database())
    migrate(settings)
    return settings


def test_a_locked_file_is_refused_in_time_and_can_still_be_read(sqlite_settings: Settings) -> None:
    with opened(sqlite_settings) as ledger, opened(sqlite_settings) as newcomer:
        job = submit(ledger)
        with locked(sqlite_settings.data_dir / "ledger.db"):
            begun_s = time.monotonic()
            refusals = in_parallel(2, lambda number: submit((ledger, newcomer)[number]))
            assert [type(refusal) for refusal in refusals] == [LedgerUnavailable] * 2
            assert time.monotonic() - begun_s < LIMIT_S * PATIENCE
            assert ledger.jobs.get(job.id) == newcomer.jobs.get(job.id) == job
        submit(newcomer)
        assert ledger.jobs.count(QUEUED) == 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.slow
def test_a_child_forked_beside_threads_that_write_can_write(sqlite_settings: Settings) -> None:
    with opened(sqlite_settings) as ledger:
        submit(ledger)  # So that tables and connections are there.
        over = threading.Event()
        writers = [threading.Thread(target=_write_until, args=(ledger, over)) for _ in range(2)]
        for writer in writers:
            writer.start()
        try:
            statuses = [_exit_status_of_a_writing_child(sqlite_settings) for _ in range(20)]
        finally:
            over.set()
            for writer in writers:
                writer.join()
        assert statuses == [0] * 20
        # And the parent writes on.
        submit(ledger)


def test_a_short_lock_is_waited_for(sqlite_settings: Settings) -> None:
    with opened(sqlite_settings) as ledger, contextlib.ExitStack() as lock:
        lock.enter_context(locked(sqlite_settings.data_dir / "ledger.db"))
        submitted: list[str] = []
        waiting = threading.Thread(target=lambda: submitted.append(submit(ledger).id))
        waiting.start()
        time.sleep(0.3)
        assert submitted == []
        lock.close()
        waiting.join()

        assert [job.id for job in ledger.jobs.page(statuses=[QUEUED])] == submitted


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, database_url=f"sqlite:///{tmp_path}/absent/ledger.db")

    with opened(settings) as ledger, refused_in_time():
        submit(ledger)


def test_another_kind_of_database_is_a_mistake_in_the_settings(tmp_path: Path) -> None:
    # The settings refuse it themselves, where they are read.
    settings = make_settings(tmp_path).model_copy(update={"database_url": "mysql://h/x"})
    with pytest.raises(ConfigurationError, match="COMFYLINE_DATABASE_URL"):
        Ledger(settings)


def test_a_stopped_server_is_refused_in_time_and_found_again(own_settings: Settings, own_postgres: OwnPostgres) -> None:
    with opened(own_settings) as ledger:
        job = submit(ledger)
        own_postgres.stop()
        for _ in range(3):
            with refused_in_time():
                submit(ledger)
        with refused_in_time(), opened(own_settings) as newcomer:
            newcomer.jobs.get(job.id)
        with refused_in_time():
            migrate(own_settings)

        own_postgres.start()

        assert ledger.jobs.get(job.id) == job
        assert submit(ledger).status == QUEUED


def test_a_server_that_crashed_loses_nothing_that_was_committed(
    own_settings: Settings, own_postgres: OwnPostgres
) -> None:
    with opened(own_settings) as ledger:
        ids = [submit(ledger).id for _ in range(5)]
        own_postgres.kill()
        own_postgres.start()
        after_one_refusal(lambda: ledger.jobs.count(QUEUED))

        assert [check_log(ledger, job_id) for job_id in ids] == [[QUEUED]] * 5


def test_a_frozen_server_refuses_new_connections_in_time(own_settings: Settings, own_postgres: OwnPostgres) -> None:
    own_postgres.freeze()
    with opened(own_settings) as ledger:
        with refused_in_time():
            submit(ledger)
        own_postgres.thaw()

        assert submit(ledger).status == QUEUED


def test_killed_connections_cost_one_refusal_at_most(postgres_settings: Settings, postgres: PostgresServer) -> None:
    with opened(postgres_settings) as ledger:
        job = submit(ledger)
        # Several connections stand in the pool, and all of them are cut.
        in_parallel(4, lambda _number: _held_for(ledger, 0.1))
        _terminate(postgres, postgres_settings)

        assert after_one_refusal(lambda: ledger.jobs.get(job.id)) == job
        assert in_parallel(8, lambda _number: ledger.jobs.get(job.id)) == [job] * 8


def test_a_connection_killed_in_a_transaction_leaves_nothing_behind(
    postgres_settings: Settings, postgres: PostgresServer
) -> None:
    with opened(postgres_settings) as ledger:
        job = submit(ledger)

        with refused_in_time(), ledger.database.write() as transaction:
            transaction.connection.execute(update(jobs).values(status=CANCELED))
            _terminate(postgres, postgres_settings)
            transaction.connection.execute(select(jobs.c.id))

        assert ledger.jobs.get(job.id) == job


def test_a_row_that_stays_locked_is_not_waited_for(postgres_settings: Settings) -> None:
    with opened(postgres_settings) as ledger:
        job = submit(ledger)
        with ledger.database.write() as transaction:
            transaction.connection.execute(select(jobs.c.id).with_for_update())
            with refused_in_time():
                ledger.jobs.cancel(job.id)
            # Who looks for work passes by.
            assert ledger.claims.claim("gpu0@here", named=job.id) is None

        assert ledger.jobs.cancel(job.id).status == CANCELED


def test_taking_back_passes_over_a_locked_row(postgres_settings: Settings) -> None:
    with opened(postgres_settings) as ledger:
        locked_job, other = claimed(ledger), claimed(ledger)
        for claim in (locked_job, other):
            lapse(ledger, claim.job_id)
        with ledger.database.write() as transaction:
            transaction.connection.execute(select(jobs.c.id).where(jobs.c.id == locked_job.job_id).with_for_update())
            assert ledger.requeue.take_back_lapsed() == {other.job_id: QUEUED}

        assert ledger.requeue.take_back_lapsed() == {locked_job.job_id: QUEUED}


def test_a_process_frozen_in_mid_transaction_loses_its_locks(
    postgres_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.database.connections.FROZEN_S", 0.3)
    with opened(postgres_settings) as frozen, opened(postgres_settings) as ledger:
        job = submit(ledger)

        def change_and_freeze() -> None:
            with frozen.database.write() as transaction:
                transaction.connection.execute(update(jobs).values(priority=7))
                # Nothing is heard of it for longer than the server puts up with.
                assert eventually(lambda: ledger.jobs.cancel(job.id).status == CANCELED)

        with pytest.raises(LedgerUnavailable):
            change_and_freeze()

        assert ledger.jobs.get(job.id).priority == 0


def test_more_work_than_connections_is_refused_in_time(postgres_settings: Settings) -> None:
    with opened(postgres_settings, pool_size=1) as ledger:
        with ledger.database.read(), ledger.database.read(), refused_in_time():
            ledger.jobs.count(QUEUED)

        assert ledger.jobs.count(QUEUED) == 0


def _write_until(ledger: Ledger, over: threading.Event) -> None:
    while not over.is_set():
        submit(ledger)


def _exit_status_of_a_writing_child(settings: Settings) -> int:
    """Fork, as Celery does for a new pool process; the child opens a ledger of its own and submits a job."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(LedgerUnavailable):
            submit(Ledger(settings))
            status = 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _held_for(ledger: Ledger, seconds: float) -> None:
    with ledger.database.read() as connection:
        connection.execute(select(jobs.c.id))
        time.sleep(seconds)


def _terminate(postgres: PostgresServer, settings: Settings) -> None:
    query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
    name = settings.ledger_url.rpartition("/")[2]
    assert postgres.execute(sql.SQL(query), (name,))
    gone: Callable[[], bool] = lambda: not postgres.execute(sql.SQL(query), (name,))  # noqa: E731 - read as a condition
    assert eventually(gone)
