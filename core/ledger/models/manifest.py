"""The manifest in the ledger: which model files the fleet knows how to fetch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from core.clock import now_ms
from core.errors import NotFound
from core.ledger.database.connections import Database
from core.ledger.database.model_tables import model_files
from core.records.model_file import ModelFile

_ENTRIES = select(model_files).order_by(model_files.c.path)


class Manifest:
    """The entries, by their paths."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[ModelFile]:
        """Return every entry, by path."""
        with self._database.read() as connection:
            return read_manifest(connection)

    def get(self, path: str) -> ModelFile:
        """Return one entry. Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(_ENTRIES.where(model_files.c.path == path)).one_or_none()
        if row is None:
            raise _unknown(path)
        return _entry(row)

    def put(self, entries: Iterable[ModelFile]) -> list[ModelFile]:
        """Enter files, all or none; one whose path is there takes its place. Returns them as they are now.

        An entry that is equal to the one that is there changes nothing.
        """
        now = now_ms()
        wanted = {entry.path: entry for entry in entries}
        with self._database.write() as transaction:
            connection = transaction.connection
            known = {row.path: _entry(row) for row in connection.execute(_of(wanted))}
            for path, entry in wanted.items():
                if (before := known.get(path)) is None:
                    values = asdict(replace(entry, created_at_ms=now, updated_at_ms=now))
                    connection.execute(insert(model_files).values(**values))
                elif replace(entry, created_at_ms=before.created_at_ms, updated_at_ms=before.updated_at_ms) != before:
                    values = asdict(replace(entry, created_at_ms=before.created_at_ms, updated_at_ms=now))
                    connection.execute(update(model_files).where(model_files.c.path == path).values(**values))
            return [_entry(row) for row in connection.execute(_of(wanted))]

    def remove(self, path: str) -> None:
        """Forget an entry; files that hosts have of it stay until their room is needed. Raises NotFound."""
        with self._database.write() as transaction:
            done = transaction.connection.execute(delete(model_files).where(model_files.c.path == path))
        if not done.rowcount:
            raise _unknown(path)


def read_manifest(connection: Connection) -> list[ModelFile]:
    """Return every entry, by path."""
    return [_entry(row) for row in connection.execute(_ENTRIES)]


def _of(paths: Collection[str]) -> Any:
    return _ENTRIES.where(model_files.c.path.in_(list(paths)))


def _unknown(path: str) -> NotFound:
    return NotFound(f"There is no model file {path[:200]!a} in the manifest.")


def _entry(row: Row[Any]) -> ModelFile:
    return ModelFile(**{**row._mapping, "tags": tuple(row.tags), "pools": tuple(row.pools)})
