"""Files that came in: what clients uploaded, or had us fetch, and which of their bytes are still wanted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, exists, insert, select, update

from core.clock import now_ms
from core.errors import NotFound
from core.ledger.access.owned import is_owned
from core.ledger.audit import write_act
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.tables import job_inputs, jobs, uploads
from core.ledger.database.usage_entries import Owner
from core.ledger.usage.room import refuse_keeping
from core.records.access import ALL_TENANTS, DEFAULT_TENANT
from core.records.act import Actor
from core.records.job import TERMINAL

#: A job that has not ended takes the file in.
_IS_NEEDED = exists().where(
    job_inputs.c.storage_key == uploads.c.storage_key,
    jobs.c.id == job_inputs.c.job_id,
    jobs.c.status.not_in(sorted(TERMINAL)),
)
#: What tells how much less is kept without a file.
_COUNTED = (uploads.c.tenant, uploads.c.size_bytes, uploads.c.expires_at_ms)


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
    #: Of a picture that was looked into: the limit of pixels that it was found within.
    checked_pixels: int | None = None


class InputFiles:
    """What the API does with files that come in, and the reconciler with those that expire.

    `of` is the tenant whose files there are for who asks: bytes that another one has brought are not known to it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, *new: InputFile, max_kept_bytes: int | None = None, key_id: str | None = None, is_copy: bool = False
    ) -> None:
        """Record files whose bytes are in storage, all of one tenant.

        Parameters:
          max_kept_bytes: how much that tenant may keep in all; None: as much as it likes.
          key_id: the key they came with.
          is_copy: their bytes were there already, and did not come in.
        Raises: LimitReached - they are more than that; nothing was recorded.
        """
        if not new:
            return
        with self._database.write() as transaction:
            size_bytes = sum(file.size_bytes for file in new)
            refuse_keeping(transaction, new[0].tenant, size_bytes, max_kept_bytes=max_kept_bytes)
            transaction.connection.execute(insert(uploads), [values_of(file) for file in new])
            transaction.kept_changes[new[0].tenant] += size_bytes
            for file in () if is_copy else new:
                count_in(transaction, file, key_id=key_id)

    def get(self, file_id: str, *, of: str = ALL_TENANTS) -> InputFile:
        """Return one file. Raises NotFound, also when it has expired."""
        query = select(uploads).where(uploads.c.id == file_id, uploads.c.expires_at_ms > now_ms())
        query = query.where(is_owned(uploads.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no asset {file_id}.")
        return _input_file(row)

    def kept(self, *, after: str = "", limit: int = 500) -> list[InputFile]:
        """Return files that have not expired, in the order of their ids, those behind `after`."""
        query = select(uploads).where(uploads.c.id > after, uploads.c.expires_at_ms > now_ms())
        with self._database.read() as connection:
            return [_input_file(row) for row in connection.execute(query.order_by(uploads.c.id).limit(limit))]

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

    def note_checked(self, storage_key: str, pixels: int) -> None:
        """Note that a picture was looked into, whoever's it is: its key is its hash."""
        with self._database.write() as transaction:
            its = uploads.c.storage_key == storage_key
            transaction.connection.execute(update(uploads).where(its).values(checked_pixels=pixels))

    def remove(self, file_id: str, *, of: str = ALL_TENANTS, by: Actor | None = None) -> None:
        """Forget one file; its bytes go when nobody shares them any more. Raises NotFound.

        Parameters: by - who does it; None: the user of this process.
        """
        with self._database.write() as transaction:
            its = and_(uploads.c.id == file_id, uploads.c.expires_at_ms > now_ms(), is_owned(uploads.c.tenant, of))
            given_up = give_up(transaction, its)
            if not given_up:
                raise NotFound(f"There is no asset {file_id}.")
            write_act(transaction.connection, "asset.delete", file_id, by, tenant=given_up[0])

    def remove_expired(self, *, limit: int = 1000) -> list[str]:
        """Delete what has expired; returns the storage keys that nothing in the ledger refers to any more."""
        # One whose bytes an open job still needs is kept, expired, until that job has ended.
        old = select(uploads.c.id).where(uploads.c.expires_at_ms <= now_ms(), ~_IS_NEEDED).limit(limit)
        with self._database.write() as transaction:
            connection = transaction.connection
            gone = delete(uploads).where(uploads.c.id.in_(old))
            rows = connection.execute(gone.returning(uploads.c.storage_key, *_COUNTED)).all()
            if not rows:
                return []
            for row in rows:
                # What was given up is counted no more.
                transaction.kept_changes[row.tenant] -= row.size_bytes if row.expires_at_ms else 0
            keys = {row.storage_key for row in rows}
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


def give_up(transaction: Transaction, which: ColumnElement[bool]) -> list[str]:
    """Have files expire now, and count their bytes no more; returns the tenant of each.

    The reconciler then looks after the bytes, which others may share.
    """
    given_up = update(uploads).where(which, uploads.c.expires_at_ms > 0).values(expires_at_ms=0)
    rows = transaction.connection.execute(given_up.returning(*_COUNTED)).all()
    for row in rows:
        transaction.kept_changes[row.tenant] -= row.size_bytes
    return [row.tenant for row in rows]


def count_in(transaction: Transaction, file: InputFile, *, key_id: str | None = None) -> None:
    """Put down the bytes of a file that has come in."""
    owner = Owner(source=file.id, seq=0, tenant=file.tenant, key_id=key_id or "")
    transaction.usage.add(owner, bytes_in=file.size_bytes)


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
        "checked_pixels": file.checked_pixels,
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
        checked_pixels=row.checked_pixels,
    )
