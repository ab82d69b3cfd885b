"""Connections to the ledger's database: pool, pragmas, transactions, and its errors in our words."""

from __future__ import annotations

import functools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, Executable, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, SQLAlchemyError

from core.background import failure_of
from core.clock import ledger_clock
from core.errors import ConfigurationError, LedgerUnavailable
from core.ledger.database.error_map import in_our_words
from core.ledger.database.fork_guard import close_at_fork, using_sqlite
from core.ledger.database.kept_counts import write_kept
from core.ledger.database.line_counts import write_counts
from core.ledger.database.metric_entries import write_amounts
from core.ledger.database.usage_entries import UsageBook, write_charges
from core.ledger.database.write_lock import begin_writing
from core.links import LinkSigner
from core.metrics.counted import LEDGER_FAILURES, LEDGER_TRANSACTIONS
from core.metrics.tally import Tally, process_tally
from core.records.job import Status

#: Longest wait for a connection, for a lock and for a statement: a client gets its 503 within 3 s.
TIMEOUT_S = 2.0
#: A transaction takes milliseconds; the server ends one that stood still for this long.
FROZEN_S = 10.0
#: PostgreSQL's clock, in milliseconds since 1970.
CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
#: How many connections there are to the whole server, and how many it takes from users like ours.
PLACES = """
    SELECT (SELECT sum(numbackends) FROM pg_stat_database),
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
"""
#: SQLSTATE of a write in a transaction that is read-only.
READ_ONLY = "25006"
#: A pooled connection unused for this long is tested before it is used.
RESTED_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Change:
    """A job changed its status, or something worth waking its watchers happened to it."""

    job_id: str
    #: Number of the event that tells what happened.
    seq: int
    status: Status
    #: A webhook about it is due, of which nobody else will tell an io worker.
    is_posted: bool = False


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """An open write transaction and the changes it will make known."""

    connection: Connection
    is_sqlite: bool
    #: Signs the links of the webhooks it writes.
    signer: LinkSigner | None = None
    changes: list[Change] = field(default_factory=list)
    #: By line, how many more jobs wait in it than before.
    line_changes: Counter[int] = field(default_factory=Counter)
    #: By tenant, how many more bytes of files are kept than before.
    kept_changes: Counter[str] = field(default_factory=Counter)
    #: What it puts down as used.
    usage: UsageBook = field(default_factory=UsageBook)
    #: By tenant, how many GPU seconds it is charged with.
    charges: dict[str, float] = field(default_factory=dict)
    #: What it counts for metrics.
    tally: Tally = field(default_factory=Tally)

    def joins_line(self, line_id: int | None, count: int = 1) -> None:
        """Note that jobs wait in a line from now on; None is that of a job of an earlier version."""
        if line_id is not None:
            self.line_changes[line_id] += count

    def charge(self, tenant: str, seconds: float) -> None:
        """Add GPU seconds to what a tenant used of late, for its turns; less than none takes some back."""
        self.charges[tenant] = self.charges.get(tenant, 0.0) + seconds

    def leaves_line(self, line_id: int | None, count: int = 1) -> None:
        """Note that jobs wait in a line no more."""
        if line_id is not None:
            self.line_changes[line_id] -= count


def parsed_url(url: str) -> URL:
    """Return the parts of the ledger's URL. Raises ConfigurationError: it has none."""
    try:
        return make_url(url)
    except (ValueError, ArgumentError):
        # Without what it says of itself: a part of the URL that may be the password.
        told = "COMFYLINE_DATABASE_URL must look like postgresql://user:password@host:5432/name."
        raise ConfigurationError(told) from None


class Database:
    """One process's connections to the ledger. Opened lazily, so that it may be made before a fork.

    Parameters:
      url: SQLAlchemy URL, `sqlite:///path` or `postgresql+psycopg://...` (`postgresql://` is read as that).
      pool_size: connections kept open; as many again may be opened for a moment.
      on_change: called after each commit, once for every job the transaction changed.
      signer: signs the links of webhooks that are written with a change; None leaves them unsigned.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 5,
        on_change: Callable[[Change], None] = lambda _change: None,
        signer: LinkSigner | None = None,
    ) -> None:
        self.on_change = on_change
        self._signer = signer
        self.url = parsed_url(url)
        if self.url.get_backend_name() == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if not self.is_sqlite and self.url.get_backend_name() != "postgresql":
            raise ConfigurationError(
                f"COMFYLINE_DATABASE_URL: {self.url.get_backend_name()} is not sqlite or postgresql."
            )
        self.engine = _sqlite(self.url) if self.is_sqlite else _postgresql(self.url, pool_size)
        # Each statement is a transaction of its own: two round trips less, for nothing is lost that anybody goes by.
        # SQLite's transactions are begun by hand, so that a read has none anyway.
        self._reader = self.engine if self.is_sqlite else self.engine.execution_options(isolation_level="AUTOCOMMIT")
        driver = self.engine.dialect.dbapi
        assert driver is not None
        self._driver_error: type[Exception] = driver.Error

    @contextmanager
    def write(self, *, is_timed: bool = True) -> Iterator[Transaction]:
        """Open a transaction that may write; commits at the end of the block, rolls back on any error.

        SQLite takes its write lock at the start: a transaction that read first and wants to write later would be
        refused at once when another wrote in between. After the commit, `on_change` hears of each job that changed.

        Parameters: is_timed - False for what is written to tell how long others took.
        """
        with self._timed() if is_timed else nullcontext(), self._in_use(), self.engine.begin() as connection:
            if self.is_sqlite:
                begin_writing(connection, timeout_s=TIMEOUT_S)
            transaction = Transaction(connection=connection, is_sqlite=self.is_sqlite, signer=self._signer)
            yield transaction
            transaction.usage.write(connection)
            write_amounts(connection, transaction.tally.take())
            write_charges(connection, transaction.charges)
            write_counts(connection, transaction.line_changes)
            write_kept(connection, transaction.kept_changes)
        # Who hears of a job's newest event reads all that came before it too.
        for change in {change.job_id: change for change in transaction.changes}.values():
            # It is recorded: nobody may take it for failed because the news of it did not get out.
            failure_of(functools.partial(self.on_change, change), "notices")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a connection for reading; each statement sees what is committed when it begins."""
        with self._in_use(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def read_all(self, *, limit_s: float) -> Iterator[Connection]:
        """Open a connection for one long look at very many rows, which is in nobody's way.

        Parameters: limit_s - how long a statement may take.
        """
        with self._in_use(), self.engine.begin() as connection:
            if not self.is_sqlite:
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {round(limit_s * 1000)}")
            yield connection

    def empty_log(self, *, timeout_ms: int) -> bool:
        """Move all that SQLite's write-ahead log holds into the database, and cut the log to nothing.

        Parameters:
          timeout_ms: how long to wait for readers and writers, and writers for us.
        Returns: False when somebody read or wrote all that time; the log is as it was.
        """
        with self._in_use(), self.engine.connect() as connection:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={timeout_ms}")
            try:
                busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
                return not busy
            finally:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={round(TIMEOUT_S * 1000)}")

    def server_ms(self) -> int | None:
        """Return what time the server says it is, in milliseconds since 1970; None on SQLite."""
        if self.is_sqlite:
            return None
        with self.read() as connection:
            return int(connection.exec_driver_sql(CLOCK).scalar_one())

    def places(self) -> tuple[int, int] | None:
        """Return how many connections the server has, whoever's they are, and how many it takes; None on SQLite."""
        if self.is_sqlite:
            return None
        with self.read() as connection:
            taken, most = connection.exec_driver_sql(PLACES).one()
            return int(taken), int(most)

    def dispose(self) -> None:
        """Close every connection of this process."""
        self.engine.dispose()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with using_sqlite() if self.is_sqlite else nullcontext(), self.mapped_errors():
            yield

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun_s = time.monotonic()
        try:
            yield
        except LedgerUnavailable:
            process_tally.add(LEDGER_FAILURES)
            raise
        process_tally.observe(LEDGER_TRANSACTIONS, time.monotonic() - begun_s)

    @contextmanager
    def mapped_errors(self) -> Iterator[None]:
        """Turn every error of the database that leaves the block into one of ours."""
        try:
            yield
        except (SQLAlchemyError, self._driver_error, UnicodeError, OverflowError) as exc:
            raise in_our_words(exc) from exc


def write_rows(connection: Connection, statement: Executable, rows: Sequence[dict[str, Any]]) -> None:
    """Execute a statement for each row, if there are any; for several of them in one round trip."""
    if rows:
        # For one row that would take a third longer.
        connection.execute(statement, rows if len(rows) > 1 else rows[0])


#: Writes JSON columns. Made once, where `json.dumps` would make one for each value.
_dumps = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def _sqlite(url: Any) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": TIMEOUT_S, "check_same_thread": False},
        pool_timeout=TIMEOUT_S,
        pool_size=8,
        max_overflow=16,
        json_serializer=_dumps,
        # An error's text ends up in logs, and parameters are graphs, URLs and sealed secrets.
        hide_parameters=True,
    )
    close_at_fork(engine)

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        # We begin transactions ourselves; the driver's own implicit ones would take the lock too late.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        # WAL with NORMAL survives every crash of a process; a power cut may lose the last moments, never corrupt.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        # What was deleted is overwritten, secrets above all: free pages of the file would keep it.
        cursor.execute("PRAGMA secure_delete=ON")
        cursor.close()

    return engine


def _postgresql(url: Any, pool_size: int) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_timeout=TIMEOUT_S,
        pool_pre_ping=False,
        json_serializer=_dumps,
        hide_parameters=True,
        connect_args={
            "connect_timeout": int(TIMEOUT_S),
            "options": (
                f"-c statement_timeout={int(TIMEOUT_S * 1000)} -c timezone=UTC "
                # A process that froze in mid-transaction must not keep a job's row locked until it wakes.
                f"-c idle_in_transaction_session_timeout={int(FROZEN_S * 1000)}"
            ),
            # A peer that vanished without a word is noticed by the kernel, not after a quarter of an hour.
            "tcp_user_timeout": int(TIMEOUT_S * 1000),
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 2,
        },
    )

    # Not imported by name: the driver decides at its import whether gevent has patched the standard library, and this
    # module is imported before that.
    driver = engine.dialect.dbapi
    assert driver is not None

    @event.listens_for(engine, "handle_error")
    def _part(context: Any) -> None:
        # A session that began while the server took no writes, or on one that is a standby now, stays read-only for as
        # long as it lives. It goes, and with it all that are as old.
        if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
            context.is_disconnect = True

    @event.listens_for(engine, "checkin")
    def _remember(_connection: Any, record: Any) -> None:
        record.info["used_s"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _test(connection: Any, record: Any, _proxy: Any) -> None:
        # A connection that rested may be one of a server that was restarted meanwhile: better found out now than by
        # a client. One in steady use is not asked each time. What is asked is the time: all machines of a fleet go by
        # the server's clock, however their own are set.
        if time.monotonic() - record.info.get("used_s", time.monotonic()) > RESTED_S or not ledger_clock.is_told:
            try:
                # As a statement alone: with a transaction it would be three round trips before each write of progress.
                connection.autocommit = True
                (server_ms,) = connection.execute(CLOCK).fetchone()
                connection.autocommit = False
            except driver.Error as exc:
                raise DisconnectionError from exc
            ledger_clock.follow(server_ms)

    return engine
