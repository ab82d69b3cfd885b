"""Files that clients send straight into the bucket, until they are input files: what was announced, who checks them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, delete, insert, select, update

from core.clock import now_ms
from core.errors import NotFound
from core.ledger.access.owned import is_owned
from core.ledger.database.connections import Database, Transaction
from core.ledger.database.tables import uploads
from core.ledger.database.upload_tables import direct_uploads
from core.ledger.input_files import InputFile, count_in, values_of
from core.ledger.usage.room import refuse_keeping
from core.records.access import ALL_TENANTS
from core.records.direct_upload import CHECKING, FINISHED, REFUSED, SENDING, Claimed, DirectUpload

#: What tells how much is kept with an upload that is checked.
_COUNTED = (direct_uploads.c.tenant, direct_uploads.c.size_bytes, direct_uploads.c.status)


class DirectUploadRows:
    """Uploads by their ids. Each status is taken once: who comes second changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, upload: DirectUpload) -> None:
        """Record an upload that is about to be sent."""
        values = {
            "id": upload.id,
            "tenant": upload.tenant,
            "status": SENDING,
            "size_bytes": upload.size_bytes,
            "part_bytes": upload.part_bytes,
            "multipart_id": upload.multipart_id,
            "created_at_ms": upload.created_at_ms,
            "claimed_until_ms": 0,
        }
        with self._database.write() as transaction:
            transaction.connection.execute(insert(direct_uploads).values(**values))

    def get(self, upload_id: str, *, of: str = ALL_TENANTS) -> DirectUpload:
        """Return an upload of a tenant, or of any. Raises NotFound."""
        query = select(direct_uploads).where(direct_uploads.c.id == upload_id, is_owned(direct_uploads.c.tenant, of))
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"There is no upload {upload_id}.")
        return _upload(row)

    def sent(self, upload_id: str, claimed: Claimed, *, max_kept_bytes: int | None = None) -> None:
        """Have an upload checked of which all is sent; nothing happens to one that is further already.

        From now on its bytes count as kept: however many are finished at once, none gets past the limit.

        Parameters:
          max_kept_bytes: how much its tenant may keep in all; None: as much as it likes.
        Raises: LimitReached - it is more than that; nothing has changed.
        """
        with self._database.write() as transaction:
            row = _moved(
                transaction,
                upload_id,
                SENDING,
                status=CHECKING,
                hash=claimed.hash,
                name=claimed.name,
                content_type=claimed.content_type,
                lifetime_s=claimed.lifetime_s,
            )
            if row is not None:
                refuse_keeping(transaction, row.tenant, row.size_bytes, max_kept_bytes=max_kept_bytes)
                transaction.kept_changes[row.tenant] += row.size_bytes

    def claim(self, upload_id: str, *, lease_s: float) -> DirectUpload | None:
        """Take an upload to check it; None: there is nothing to check, or somebody does."""
        now = now_ms()
        mine = (
            update(direct_uploads)
            .where(
                direct_uploads.c.id == upload_id,
                direct_uploads.c.status == CHECKING,
                direct_uploads.c.claimed_until_ms <= now,
            )
            .values(claimed_until_ms=now + round(lease_s * 1000))
            .returning(direct_uploads)
        )
        with self._database.write() as transaction:
            row = transaction.connection.execute(mine).one_or_none()
        return None if row is None else _upload(row)

    def hold(self, upload_id: str, *, lease_s: float) -> None:
        """Go on with a check; nothing happens where it has ended."""
        with self._database.write() as transaction:
            _moved(transaction, upload_id, CHECKING, claimed_until_ms=now_ms() + round(lease_s * 1000))

    def finish(self, upload_id: str, file: InputFile, *, is_new: bool) -> None:
        """Make an input file of an upload, whose bytes are in their place; nothing happens where somebody was first."""
        with self._database.write() as transaction:
            row = _moved(transaction, upload_id, CHECKING, status=FINISHED, file_id=file.id, is_new=is_new)
            if row is not None:
                transaction.connection.execute(insert(uploads).values(**values_of(file)))
                transaction.kept_changes[file.tenant] += file.size_bytes
                transaction.kept_changes[row.tenant] -= row.size_bytes
                count_in(transaction, file)

    def refuse(self, upload_id: str, code: str, message: str) -> None:
        """End an upload whose bytes are not what its client said."""
        with self._database.write() as transaction:
            row = _moved(transaction, upload_id, CHECKING, status=REFUSED, error_code=code, error_message=message)
            if row is not None:
                transaction.kept_changes[row.tenant] -= row.size_bytes

    def due(self, *, limit: int = 100) -> list[str]:
        """Return ids of uploads that are to be checked and that nobody checks."""
        query = select(direct_uploads.c.id).where(
            direct_uploads.c.status == CHECKING, direct_uploads.c.claimed_until_ms <= now_ms()
        )
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(direct_uploads.c.created_at_ms).limit(limit)).scalars())

    def old(self, *, age_s: float, limit: int) -> list[DirectUpload]:
        """Return uploads that were begun so long ago, but those that are still to be checked."""
        query = select(direct_uploads).where(
            direct_uploads.c.created_at_ms < now_ms() - round(age_s * 1000), direct_uploads.c.status != CHECKING
        )
        with self._database.read() as connection:
            return [_upload(row) for row in connection.execute(query.limit(limit))]

    def checking(self) -> set[str]:
        """Return the ids of all uploads that are to be checked."""
        query = select(direct_uploads.c.id).where(direct_uploads.c.status == CHECKING)
        with self._database.read() as connection:
            return set(connection.execute(query).scalars())

    def remove(self, upload_id: str) -> None:
        """Forget an upload; the input file that came of it stays."""
        gone = delete(direct_uploads).where(direct_uploads.c.id == upload_id).returning(*_COUNTED)
        with self._database.write() as transaction:
            row = transaction.connection.execute(gone).one_or_none()
            if row is not None and row.status == CHECKING:
                transaction.kept_changes[row.tenant] -= row.size_bytes


def _moved(transaction: Transaction, upload_id: str, before: str, **values: Any) -> Row[Any] | None:
    """Change an upload of this status; returns `_COUNTED` of it, None where it has another one."""
    place = (direct_uploads.c.id == upload_id, direct_uploads.c.status == before)
    changed = update(direct_uploads).where(*place).values(**values).returning(*_COUNTED)
    return transaction.connection.execute(changed).one_or_none()


def _upload(row: Row[Any]) -> DirectUpload:
    claimed = None
    if row.hash is not None:
        claimed = Claimed(hash=row.hash, name=row.name, content_type=row.content_type, lifetime_s=row.lifetime_s)
    return DirectUpload(
        id=row.id,
        tenant=row.tenant,
        status=row.status,
        size_bytes=row.size_bytes,
        part_bytes=row.part_bytes,
        multipart_id=row.multipart_id,
        created_at_ms=row.created_at_ms,
        claimed=claimed,
        file_id=row.file_id,
        is_new=bool(row.is_new),
        error=None if row.error_code is None else (row.error_code, row.error_message or ""),
    )
