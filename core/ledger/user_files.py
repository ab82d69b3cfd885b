"""What users of ComfyUI's editor keep on the server: small files of each tenant, in the ledger.

In the ledger and not in the storage, because any API process answers the next request, several may write one file at
the same time, and a list of a folder has to be as new as what was just written.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, func, insert, select, update

from core.clock import now_ms
from core.errors import AlreadyExists, BodyTooLarge, LimitReached, NotFound
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.ledger.database.user_tables import user_files

#: Of one file; of one tenant: files, and bytes of all of them.
MAX_FILE_BYTES, MAX_FILES, MAX_BYTES = 8 * 1024 * 1024, 2_000, 64 * 1024 * 1024

_FACTS = (user_files.c.path, user_files.c.size_bytes, user_files.c.created_at_ms, user_files.c.modified_at_ms)


@dataclass(frozen=True, kw_only=True)
class UserFile:
    """One file, without its content."""

    path: str
    size_bytes: int
    created_at_ms: int
    modified_at_ms: int


class UserFiles:
    """The files of all tenants; each call names the one whose files are meant. Paths have been checked."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def below(self, folder: str, *, tenant: str) -> list[UserFile]:
        """Return every file of a folder and of those in it, by path; "" for all files."""
        query = select(*_FACTS).where(user_files.c.tenant == tenant)
        if folder:
            # No pattern: names hold what patterns are made of.
            query = query.where(func.substr(user_files.c.path, 1, len(folder) + 1) == f"{folder}/")
        with self._database.read() as connection:
            found = [_file(row) for row in connection.execute(query)]
        # Here, since databases differ in how they sort.
        return sorted(found, key=lambda file: file.path)

    def read(self, path: str, *, tenant: str) -> bytes:
        """Return a file's content. Raises NotFound."""
        with self._database.read() as connection:
            content = _content(connection, path, tenant)
        if content is None:
            raise NotFound(f"There is no file {path}.")
        return content

    def write(self, path: str, content: bytes, *, tenant: str, overwrite: bool = True) -> UserFile:
        """Keep a file. Raises AlreadyExists, BodyTooLarge, LimitReached."""
        return self._changed(path, lambda _before: content, tenant, overwrite=overwrite)

    def change(self, path: str, of: Callable[[bytes | None], bytes], *, tenant: str) -> UserFile:
        """Make a file anew from what it was; None: there was none. Raises BodyTooLarge, LimitReached, what `of` does.

        Nobody else changes it meanwhile.
        """
        return self._changed(path, of, tenant, overwrite=True)

    def remove(self, path: str, *, tenant: str) -> None:
        """Remove a file. Raises NotFound."""
        with self._database.write() as transaction:
            if not transaction.connection.execute(delete(user_files).where(_is(path, tenant))).rowcount:
                raise NotFound(f"There is no file {path}.")

    def move(self, path: str, to: str, *, tenant: str, overwrite: bool = True) -> UserFile:
        """Give a file another path. Raises NotFound; AlreadyExists - there is one, which is not to be replaced."""
        try:
            with self._database.write() as transaction:
                connection = transaction.connection
                if _content(connection, path, tenant) is None:
                    raise NotFound(f"There is no file {path}.")
                if overwrite and to != path:
                    connection.execute(delete(user_files).where(_is(to, tenant)))
                connection.execute(update(user_files).where(_is(path, tenant)).values(path=to, modified_at_ms=now_ms()))
                return _facts(connection, to, tenant)
        except Conflict as exc:
            raise AlreadyExists(f"There is a file {to} already.") from exc

    def _changed(self, path: str, of: Callable[[bytes | None], bytes], tenant: str, *, overwrite: bool) -> UserFile:
        try:
            with self._database.write() as transaction:
                connection = transaction.connection
                before = _content(connection, path, tenant, is_locked=True)
                if before is not None and not overwrite:
                    raise AlreadyExists(f"There is a file {path} already.")
                content = of(before)
                _refuse_beyond(connection, len(content), before, tenant)
                values: dict[str, Any] = {"content": zlib.compress(content), "size_bytes": len(content)}
                values["modified_at_ms"] = now = now_ms()
                if before is None:
                    connection.execute(insert(user_files).values(tenant=tenant, path=path, created_at_ms=now, **values))
                else:
                    connection.execute(update(user_files).where(_is(path, tenant)).values(**values))
                return _facts(connection, path, tenant)
        except Conflict as exc:
            # Somebody else made it at the same moment.
            if not overwrite:
                raise AlreadyExists(f"There is a file {path} already.") from exc
            return self._changed(path, of, tenant, overwrite=True)


def _is(path: str, tenant: str) -> ColumnElement[bool]:
    return and_(user_files.c.tenant == tenant, user_files.c.path == path)


def _content(connection: Connection, path: str, tenant: str, *, is_locked: bool = False) -> bytes | None:
    query = select(user_files.c.content).where(_is(path, tenant))
    packed = connection.execute(query.with_for_update() if is_locked else query).scalar()
    return None if packed is None else zlib.decompress(packed)


def _facts(connection: Connection, path: str, tenant: str) -> UserFile:
    return _file(connection.execute(select(*_FACTS).where(_is(path, tenant))).one())


def _file(row: Row[Any]) -> UserFile:
    return UserFile(**row._mapping)


def _refuse_beyond(connection: Connection, size_bytes: int, before: bytes | None, tenant: str) -> None:
    if size_bytes > MAX_FILE_BYTES:
        raise BodyTooLarge(f"The file is over the limit of {MAX_FILE_BYTES} bytes.")
    own = select(func.count(), func.coalesce(func.sum(user_files.c.size_bytes), 0)).where(user_files.c.tenant == tenant)
    files, kept_bytes = connection.execute(own).one()
    if before is None and files >= MAX_FILES:
        raise LimitReached(f"{files} files are kept already, and at most {MAX_FILES} may be: delete some.")
    if int(kept_bytes) + size_bytes - len(before or b"") > MAX_BYTES:
        raise LimitReached(f"{kept_bytes} bytes are kept already, and at most {MAX_BYTES} may be: delete some files.")
