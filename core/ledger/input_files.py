"""Files that came in: what clients uploaded, or had us fetch, and which of their bytes are still wanted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, exists, insert, select, update

from core.clock import now_ms
from core.errors import NotFound
from core.ledger.access.owned import is_owned
from core.ledger.database.connections import Database
from core.ledger.database.tables import job_inputs, jobs, uploads
from core.records.access import ALL_TENANTS, DEFAULT_TENANT
from core.records.job import TERMINAL

#: A job that has not ended takes the file in.
_IS_NEEDED = exists().where(
    job_inputs.c.storage_key == uploads.c.storage_key,
    jobs.c.id == job_inputs.c.job_id,
    jobs.c.status.not_in(sorted(TERMINAL)),
)


@dataclass(frozen=True, kw_only=True)
class InputFile:
    """One file of a client; several may share their bytes."""

    #: Asset id, opaque.
    id: str
    #: Who owns it.
    tenant: str = DEFAULT_TENANT
    #: `blake3:<64 hex digits>`.
    hash: str
    #: A path relative to ComfyUI's input folder, as the client gave it.
    name: str
    content_type: str
    size_bytes: int
    #: Where storage has its bytes.
    storage_key: str
    created_at_ms: int
    expires_at_ms: int
    #: The job it was fetched or decoded for, with which it goes; None where a client uploaded it.
    job_id: str | None = None


class InputFiles:
    """What the API does with files that come in, and the reconciler with those that expire.

    `of` is the tenant whose files there are for who asks: bytes that another one has brought are not known to it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, *new: InputFile) -> None:
        """Record files whose bytes are in storage."""
        if not new:
            return
        with self._database.write() as transaction:
            transaction.connection.execute(insert(uploads), [values_of(file) for file in new])

    def get(self, file_id: str, *, of: str = ALL_TENANTS) -> InputFile:
        """Return one file. Raises NotFound, also when it has expired."""
        query = select(uploads).where(uploads.c.id == file_id, uploads.c.expires_at_ms > now_ms())
        query = query.where(is_owned(uploads.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no asset {file_id}.")
        return _input_file(row)

    def by_hash(self, digest: str, *, of: str = ALL_TENANTS) -> InputFile | None:
        """Return the newest file with these bytes, `blake3:...`; None if there is none."""
        query = select(uploads).where(uploads.c.hash == digest, uploads.c.expires_at_ms > now_ms())
        query = query.where(is_owned(uploads.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query.order_by(uploads.c.expires_at_ms.desc()).limit(1)).one_or_none()
        return None if row is None else _input_file(row)

    def named(self, names: Collection[str], *, of: str = ALL_TENANTS) -> dict[str, InputFile]:
        """Return what clients uploaded under these names, each name's oldest; names without a file are left out."""
        query = (
            select(uploads)
            .where(uploads.c.name.in_(list(names)), uploads.c.job_id.is_(None), uploads.c.expires_at_ms > now_ms())
            .where(is_owned(uploads.c.tenant, of))
        )
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(uploads.c.created_at_ms.desc(), uploads.c.id.desc())).all()
        return {row.name: _input_file(row) for row in rows}

    def rename(self, file_id: str, name: str) -> None:
        """Call a file by another name."""
        with self._database.write() as transaction:
            transaction.connection.execute(update(uploads).where(uploads.c.id == file_id).values(name=name))

    def remove(self, file_id: str, *, of: str = ALL_TENANTS) -> None:
        """Forget one file; its bytes go when nobody shares them any more. Raises NotFound."""
        with self._database.write() as transaction:
            # Expired and not deleted: the reconciler then looks after the bytes.
            done = transaction.connection.execute(
                uploads.update()
                .where(uploads.c.id == file_id, uploads.c.expires_at_ms > now_ms(), is_owned(uploads.c.tenant, of))
                .values(expires_at_ms=0)
            )
        if done.rowcount == 0:
            raise NotFound(f"There is no asset {file_id}.")

    def remove_expired(self, *, limit: int = 1000) -> list[str]:
        """Delete what has expired; returns the storage keys that nothing in the ledger refers to any more."""
        # One whose bytes an open job still needs is kept, expired, until that job has ended.
        old = select(uploads.c.id).where(uploads.c.expires_at_ms <= now_ms(), ~_IS_NEEDED).limit(limit)
        with self._database.write() as transaction:
            connection = transaction.connection
            gone = delete(uploads).where(uploads.c.id.in_(old)).returning(uploads.c.storage_key)
            keys = set(connection.execute(gone).scalars())
            if not keys:
                return []
            shared = connection.execute(select(uploads.c.storage_key).where(uploads.c.storage_key.in_(keys))).scalars()
            return sorted(keys - set(shared))

    def unknown(self, keys: Collection[str]) -> set[str]:
        """Return those of the storage keys that nothing in the ledger refers to."""
        recorded = select(uploads.c.storage_key).where(uploads.c.storage_key.in_(keys))
        needed = select(job_inputs.c.storage_key).join(jobs, jobs.c.id == job_inputs.c.job_id)
        needed = needed.where(job_inputs.c.storage_key.in_(keys), jobs.c.status.not_in(sorted(TERMINAL)))
        with self._database.read() as connection:
            known = connection.execute(recorded.union(needed)).scalars()
            return set(keys) - set(known)


def values_of(file: InputFile) -> dict[str, Any]:
    """Return the columns of a file's row."""
    return {
        "id": file.id,
        "tenant": file.tenant,
        "hash": file.hash,
        "name": file.name,
        "content_type": file.content_type,
        "size_bytes": file.size_bytes,
        "storage_key": file.storage_key,
        "created_at_ms": file.created_at_ms,
        "expires_at_ms": file.expires_at_ms,
        "job_id": file.job_id,
    }


def _input_file(row: Row[Any]) -> InputFile:
    return InputFile(
        id=row.id,
        tenant=row.tenant,
        hash=row.hash,
        name=row.name,
        content_type=row.content_type,
        size_bytes=row.size_bytes,
        storage_key=row.storage_key,
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        job_id=row.job_id,
    )
