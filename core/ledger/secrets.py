"""The secrets of jobs: a sealed row for each purpose, opened only for that, and wiped soon after its last use.

run       the key of partner nodes             until the GPU is done, or, where its files may be lost, the job ends
bucket    the credentials of a client's bucket until the job ends
webhook   what signs the job's webhooks,       until none of them is open
          and headers that go with them
address   the query of the webhook's URL       with the job: a webhook may be replayed
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, exists, insert, null, select, update

from core.errors import ConfigurationError, SecretUnreadable
from core.ledger.database.connections import Database
from core.ledger.database.tables import deliveries, jobs, secrets
from core.ledger.sealing import Sealer
from core.records.job import TERMINAL

log = logging.getLogger(__name__)

RUN, BUCKET, WEBHOOK, ADDRESS = "run", "bucket", "webhook", "address"
#: Of rows of versions that kept all secrets of a job in one; they end with the job.
ANY = "any"
#: Which purpose a secret of `JobRequest.secrets` has, by its name there.
PURPOSES = {
    "api_key_comfy_org": RUN,
    "s3": BUCKET,
    "webhook_secret": WEBHOOK,
    "webhook_headers": WEBHOOK,
    "webhook_query": ADDRESS,
}
#: SQLite's log keeps what was overwritten in the database until it is emptied itself: at most this long.
EMPTY_LOG_S = 20.0
#: How long writers may have to wait for that, and it for them.
LOG_TIMEOUT_MS = 100

# On the path of many jobs, so built once.
_INSERT = insert(secrets)
_SEALED = select(secrets.c.job_id, secrets.c.purpose, secrets.c.sealed).where(
    secrets.c.job_id.in_(bindparam("wanted", expanding=True)), secrets.c.purpose.in_(bindparam("uses", expanding=True))
)
_END_RUN = delete(secrets).where(secrets.c.job_id == bindparam("ended"), secrets.c.purpose == RUN)
_END_JOB = delete(secrets).where(secrets.c.job_id == bindparam("ended"), secrets.c.purpose.not_in((WEBHOOK, ADDRESS)))
_HAS_ENDED = exists().where(jobs.c.id == secrets.c.job_id, jobs.c.status.in_(sorted(TERMINAL)))
_HAS_WEBHOOKS = exists().where(deliveries.c.job_id == secrets.c.job_id, deliveries.c.next_try_at_ms.is_not(None))
_END_WEBHOOKS = (
    # The row stays behind empty: a webhook that is replayed later must not go out without its signature.
    update(secrets)
    .where(secrets.c.purpose == WEBHOOK, secrets.c.sealed.is_not(None), and_(_HAS_ENDED, ~_HAS_WEBHOOKS))
    .values(sealed=null())
)


class Secrets:
    """Sealing, opening and wiping."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer
        self._empty_log_at_s = 0.0

    def record(self, connection: Connection, job_id: str, values: Mapping[str, Any]) -> None:
        """Seal the secrets of a new job, as `JobRequest.secrets` has them, within the transaction that records it."""
        rows = sealed_parts(self._sealer, values, lambda purpose: _bond(job_id, purpose))
        connection.execute(_INSERT, [{"job_id": job_id, **row} for row in rows])

    def open(self, job_id: str, purpose: str) -> dict[str, Any]:
        """Return the job's secrets for one purpose, by their names in `JobRequest.secrets`; `{}` when it has none.

        Raises:
          SecretUnreadable: it had some, which do not open or were wiped after their use. Trying again cannot help.
          LedgerUnavailable: they cannot be read now.
        """
        opened = self.open_all([job_id], purpose)[job_id]
        if isinstance(opened, SecretUnreadable):
            raise opened
        return opened

    def open_all(self, job_ids: Collection[str], *purposes: str) -> dict[str, dict[str, Any] | SecretUnreadable]:
        """Open the secrets of many jobs for any of these purposes: for each its secrets, or why they cannot be read.

        Raises: LedgerUnavailable.
        """
        with self._database.read() as connection:
            rows = connection.execute(_SEALED, {"wanted": list(job_ids), "uses": [*purposes, ANY]}).all()
        sealed: dict[str, list[Row[Any]]] = {job_id: [] for job_id in job_ids}
        for row in rows:
            sealed[row.job_id].append(row)
        opened: dict[str, dict[str, Any] | SecretUnreadable] = {}
        for job_id, own in sealed.items():
            try:
                opened[job_id] = self._opened_for(purposes, own)
            except SecretUnreadable as exc:
                opened[job_id] = exc
        return opened

    def renew(self, job_id: str, values: dict[str, Any]) -> None:
        """Seal a job's secrets again, in place of those for the same purposes that it had."""
        purposes = {PURPOSES[name] for name in values}
        with self._database.write() as transaction:
            transaction.connection.execute(
                delete(secrets).where(secrets.c.job_id == job_id, secrets.c.purpose.in_(sorted(purposes)))
            )
            self.record(transaction.connection, job_id, values)

    def wipe(self) -> int:
        """Forget what signed webhooks that have all ended; returns of how many jobs. For the reconciler."""
        with self._database.write() as transaction:
            wiped = transaction.connection.execute(_END_WEBHOOKS).rowcount
        self._empty_log()
        return wiped

    def _opened_for(self, purposes: Sequence[str], rows: Sequence[Row[Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for row in rows:
            if row.sealed is None:
                raise SecretUnreadable(f"The secret that came with job {row.job_id} was deleted after its use.")
            found |= self._opened(row.job_id, row.purpose, row.sealed)
        return {name: value for name, value in found.items() if PURPOSES.get(name) in purposes}

    def _opened(self, job_id: str, purpose: str, sealed: bytes) -> dict[str, Any]:
        try:
            return self._sealer.open(sealed, bound_to=_bond(job_id, purpose))
        except ConfigurationError as exc:
            # The setting's name is for the operator, in the log; clients are told what they can do.
            log.error("job %s: %s", job_id, exc)
            raise SecretUnreadable(
                f"The server can no longer read the secrets that came with job {job_id}: submit it again."
            ) from exc

    def _empty_log(self) -> None:
        if not self._database.is_sqlite or time.monotonic() < self._empty_log_at_s:
            return
        if self._database.empty_log(timeout_ms=LOG_TIMEOUT_MS):
            self._empty_log_at_s = time.monotonic() + EMPTY_LOG_S


def sealed_parts(
    sealer: Sealer, values: Mapping[str, Any], bond_of: Callable[[str], str]
) -> list[dict[str, str | bytes]]:
    """Return the columns `purpose` and `sealed` of each purpose that secrets are for, as `JobRequest.secrets` has them.

    Parameters:
      bond_of: what a purpose's secrets are bound to.
    """
    parts: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        parts.setdefault(PURPOSES[name], {})[name] = value
    return [
        {"purpose": purpose, "sealed": sealer.seal(part, bound_to=bond_of(purpose))} for purpose, part in parts.items()
    ]


def end_run(connection: Connection, job_id: str) -> None:
    """Wipe the key of partner nodes: the GPU is done with the job."""
    connection.execute(_END_RUN, {"ended": job_id})


def end_job(connection: Connection, job_id: str) -> None:
    """Wipe the secrets of a job that has ended, except what its webhooks need."""
    connection.execute(_END_JOB, {"ended": job_id})


def end_jobs(connection: Connection, job_ids: Sequence[str]) -> None:
    """Wipe the same of several jobs."""
    mine = secrets.c.job_id.in_(job_ids)
    connection.execute(delete(secrets).where(mine, secrets.c.purpose.not_in((WEBHOOK, ADDRESS))))


def _bond(job_id: str, purpose: str) -> str:
    return job_id if purpose == ANY else f"{job_id}:{purpose}"
