"""The manifest in the ledger: which model files the fleet knows how to fetch."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from core.clock import now_ms
from core.errors import NotFound
from core.ledger.audit import write_act, write_acts
from core.ledger.database.connections import Database
from core.ledger.database.model_tables import model_files
from core.model_files.entries import check_nesting
from core.records.act import Actor
from core.records.model_file import ModelFile

_ENTRIES = select(model_files).order_by(model_files.c.path)
_PATHS = select(model_files.c.path)


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

    def put(self, entries: Iterable[ModelFile], *, by: Actor | None = None) -> list[ModelFile]:
        """Enter files, all or none; one whose path is there takes its place. Returns them as they are now.

        An entry that is equal to the one that is there changes nothing.

        Parameters: by - who does it; None: the user of this process.
        Raises: InvalidRequest - a path lies below that of another file.
        """
        now = now_ms()
        wanted = {entry.path: entry for entry in entries}
        with self._database.write() as transaction:
            connection = transaction.connection
            check_nesting(wanted, connection.execute(_PATHS).scalars().all())
            known = {row.path: _entry(row) for row in connection.execute(_of(wanted))}
            added = [entry for path, entry in wanted.items() if path not in known]
            changed = [entry for path, entry in wanted.items() if path in known and not _is_same(entry, known[path])]
            # Thousands at once: one by one they would take longer than a request may.
            if added:
                connection.execute(insert(model_files), [_values(entry, now, now) for entry in added])
            if changed:
                values = [
                    {**_values(entry, known[entry.path].created_at_ms, now), "at": entry.path} for entry in changed
                ]
                connection.execute(update(model_files).where(model_files.c.path == bindparam("at")), values)
            acts = {entry.path: {"is_new": True} for entry in added} | {
                each.path: {"is_new": False} for each in changed
            }
            write_acts(connection, "model.put", acts, by)
            return [_entry(row) for row in connection.execute(_of(wanted))]

    def remove(self, path: str, *, by: Actor | None = None) -> None:
        """Forget an entry; files that hosts have of it stay until their room is needed. Raises NotFound.

        Parameters: by - as for `put`.
        """
        with self._database.write() as transaction:
            done = transaction.connection.execute(delete(model_files).where(model_files.c.path == path))
            if not done.rowcount:
                raise _unknown(path)
            write_act(transaction.connection, "model.remove", path, by)


def read_manifest(connection: Connection) -> list[ModelFile]:
    """Return every entry, by path."""
    return [_entry(row) for row in connection.execute(_ENTRIES)]


def _of(paths: Collection[str]) -> Any:
    return _ENTRIES.where(model_files.c.path.in_(list(paths)))


def _is_same(entry: ModelFile, before: ModelFile) -> bool:
    return replace(entry, created_at_ms=before.created_at_ms, updated_at_ms=before.updated_at_ms) == before


def _values(entry: ModelFile, created_at_ms: int, updated_at_ms: int) -> dict[str, Any]:
    return asdict(replace(entry, created_at_ms=created_at_ms, updated_at_ms=updated_at_ms))


def _unknown(path: str) -> NotFound:
    return NotFound(f"There is no model file {path[:200]!a} in the manifest.")


def _entry(row: Row[Any]) -> ModelFile:
    return ModelFile(**{**row._mapping, "tags": tuple(row.tags), "pools": tuple(row.pools)})
