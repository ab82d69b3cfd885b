"""How much of what its limits count a tenant has now; and the refusal of what would be more, in the same transaction.

Exact among many who ask at once: where a limit is near they come one after the other, each tenant's by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, func, select

from core.clock import now_ms
from core.errors import LimitReached
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.tables import jobs, lines, uploads
from core.ledger.scheduling.lines import line_tenant
from core.ledger.usage.gpu_seconds import gpu_seconds_by_tenant, gpu_seconds_today
from core.ledger.usage.kept import kept_by_tenant, kept_bytes, miscounted
from core.records.access import ALL_TENANTS, DEFAULT_TENANT
from core.records.job import LEASED, SUCCEEDED
from core.records.tenant_limits import InUse, allows_nothing

#: PostgreSQL's locks of this number are ours, one for each tenant; SQLite has one writer anyway.
_LOCK = 0x1137
#: How long a look at every file may take: ten million take some seconds.
RECOUNT_S = 120.0
_ALONE = select(func.pg_advisory_xact_lock(_LOCK, func.hashtext(bindparam("who"))))
_WAITING = select(func.coalesce(func.sum(lines.c.waiting), 0)).where(lines.c.tenant == bindparam("who"))
_ALL_WAITING = select(lines.c.tenant, func.sum(lines.c.waiting)).where(lines.c.waiting > 0).group_by(lines.c.tenant)
_ALL_RUNNING = select(jobs.c.tenant, func.count()).where(jobs.c.status.in_(sorted(LEASED))).group_by(jobs.c.tenant)


class Room:
    """What is asked about tenants before something is done for them. Raises LedgerUnavailable, all of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def waiting(self, tenant: str) -> int:
        """Return how many of its jobs wait."""
        with self._database.read() as connection:
            return _waiting(connection, tenant)

    def kept_bytes(self, tenant: str) -> int:
        """Return the bytes that it keeps, see `core.ledger.usage.kept`."""
        with self._database.read() as connection:
            return kept_bytes(connection, tenant)

    def gpu_seconds_today(self, tenant: str) -> float:
        """Return the GPU seconds that it used since midnight, UTC."""
        with self._database.read() as connection:
            return gpu_seconds_today(connection, tenant)

    def in_use(self, *, of: str = ALL_TENANTS) -> dict[str, InUse]:
        """Return all of that, and how many jobs run, of one tenant or of each one that has anything."""
        with self._database.read() as connection:
            waiting = {row[0] or DEFAULT_TENANT: int(row[1]) for row in connection.execute(_ALL_WAITING)}
            running: dict[str, int] = {row[0]: row[1] for row in connection.execute(_ALL_RUNNING)}
            kept = kept_by_tenant(connection, of)
            gpu_s = gpu_seconds_by_tenant(connection) if of == ALL_TENANTS else {of: gpu_seconds_today(connection, of)}
        names = {*waiting, *running, *kept, *gpu_s} if of == ALL_TENANTS else {of}
        return {
            name: InUse(
                waiting=waiting.get(name, 0),
                running=running.get(name, 0),
                kept_bytes=kept.get(name, 0),
                gpu_s_today=gpu_s.get(name, 0.0),
            )
            for name in names
        }

    def recount(self) -> Mapping[str, int]:
        """Mend the counts of bytes kept, which processes of earlier versions do not count; returns what was missing.

        It looks at every file, of which there may be millions. Others count on meanwhile.
        """
        with self._database.read_all(limit_s=RECOUNT_S) as connection:
            missing = miscounted(connection)
        if missing:
            with self._database.write() as transaction:
                transaction.kept_changes.update(missing)
        return missing

    def next_expiry_ms(self, tenant: str) -> int | None:
        """Return when the first of its files goes, in milliseconds since 1970; None: it keeps none that will."""
        own_uploads = select(func.min(uploads.c.expires_at_ms)).where(
            uploads.c.tenant == tenant, uploads.c.expires_at_ms > now_ms()
        )
        own_outputs = select(func.min(jobs.c.files_expire_at_ms)).where(
            jobs.c.tenant == tenant, jobs.c.status == SUCCEEDED, jobs.c.files_removed.is_(False)
        )
        with self._database.read() as connection:
            found = [connection.execute(query).scalar() for query in (own_uploads, own_outputs)]
        return min((each for each in found if each is not None), default=None)


def refuse_beyond(transaction: Transaction, tenant: str, count: int, *, max_waiting: int | None) -> None:
    """Raise LimitReached where so many more waiting jobs would be too many for a tenant; all of them or none.

    Others who ask for the same tenant wait for the end of the transaction. None: it has no limit, and nothing is asked.
    """
    if max_waiting is None:
        return
    _wait_for_others(transaction, tenant)
    refuse_too_many(_waiting(transaction.connection, tenant), count, max_waiting)


def refuse_too_many(waiting: int, count: int, max_waiting: int) -> None:
    """Raise LimitReached where so many jobs may not wait beside those that do."""
    if waiting + count > max_waiting:
        jobs_more = "another job" if count == 1 else f"{count} more jobs"
        message = (
            f"{waiting} jobs of this tenant wait, and {max_waiting} may: there is no room for {jobs_more} now. Try "
            "again when some have begun, or cancel some."
        )
        if count > max_waiting:
            message = f"{count} jobs are more than may ever wait of this tenant, {max_waiting}: submit fewer at once."
        raise LimitReached(
            message if max_waiting else allows_nothing("max_waiting", "have no jobs that wait"),
            "max_waiting",
            max_waiting,
            waiting,
        )


def refuse_keeping(transaction: Transaction, tenant: str, size_bytes: int, *, max_kept_bytes: int | None) -> None:
    """Raise LimitReached where so many more bytes would be too many for a tenant; as `refuse_beyond`."""
    if max_kept_bytes is None:
        return
    _wait_for_others(transaction, tenant)
    refuse_too_large(kept_bytes(transaction.connection, tenant), size_bytes, max_kept_bytes)


def refuse_too_large(kept: int, size_bytes: int, max_kept_bytes: int) -> None:
    """Raise LimitReached where so many bytes may not be kept beside those that are."""
    if kept + size_bytes > max_kept_bytes:
        message = (
            f"This tenant keeps {kept} bytes of files, and {max_kept_bytes} may be kept: there is no room for "
            f"{size_bytes} more. Delete jobs or files that have served, or wait until some expire."
        )
        if size_bytes > max_kept_bytes:
            message = f"{size_bytes} bytes are more than this tenant may ever keep, {max_kept_bytes}."
        raise LimitReached(
            message if max_kept_bytes else allows_nothing("max_kept_bytes", "keep no files"),
            "max_kept_bytes",
            max_kept_bytes,
            kept,
        )


def _wait_for_others(transaction: Transaction, tenant: str) -> None:
    if not transaction.is_sqlite:
        transaction.connection.execute(_ALONE, {"who": tenant})


def _waiting(connection: Connection, tenant: str) -> int:
    return int(connection.execute(_WAITING, {"who": line_tenant(tenant)}).scalar_one())
