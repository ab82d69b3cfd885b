"""Fields of records as columns of the ledger: under which name, written how, and read how.

A field is stored under its own name, as it is. Records that serialise themselves, and tuples of them, become JSON. A
record's type says how its column is read, so that nothing but the record and the table names a field.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import fields
from functools import partial
from typing import Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

from sqlalchemy import Row

log = logging.getLogger(__name__)

#: Columns whose names are not those of their fields: they keep an older name, or an older column has that.
COLUMN_NAMES = {"template": "workflow", "output_options": "delivery", "request_id": "own_request_id"}

Record = TypeVar("Record", bound="StoredRecord")


class StoredRecord(Protocol):
    """A record that serialises itself."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON."""

    @classmethod
    def from_json(cls: type[Record], value: Any) -> Record:
        """Read what an earlier, this, or a later version wrote. Raises TypeError - it cannot be read."""


class RowReader:
    """Reads one kind of record from rows. Made once for each: it is on the path of every look-up."""

    def __init__(self, kind: type[Any], *, without: Collection[str] = ()) -> None:
        """Parameters:
        without: fields that are kept elsewhere.
        """
        hints = get_type_hints(kind)
        names = [field.name for field in fields(kind) if field.name not in without]
        self._plan = [(name, column_of(name), _reader(hints[name])) for name in names]

    def fields(self, row: Row[Any]) -> dict[str, Any]:
        """Return the record's fields from a row that has a column for each.

        NULL leaves a field at its default, and so does a record that cannot be read.
        """
        columns, found = row._mapping, {}
        for name, column, reader in self._plan:
            value = columns[column]
            if value is not None and reader is not None:
                value = reader(value)
            if value is not None:
                found[name] = value
        return found


def column_of(field_name: str) -> str:
    """Return the name of the column that keeps a field."""
    return COLUMN_NAMES.get(field_name, field_name)


def columns_from(record: Any, names: Iterable[str]) -> dict[str, Any]:
    """Return these fields of a record as columns to be written."""
    return {column_of(name): _written(getattr(record, name)) for name in names}


def record_from(kind: type[Record], value: Any) -> Record | None:
    """Return the record that a column holds; None where there is none, or none that can be read."""
    if value is None:
        return None
    try:
        return kind.from_json(value)
    except TypeError as exc:
        # A job that nobody can look at could never come to its end either.
        log.warning("a stored %s cannot be read: %s", kind.__name__, exc)
        return None


def _written(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json() or None
    if isinstance(value, tuple):
        return [_written(inner) for inner in value] or None
    return value


def _reader(hint: Any) -> Callable[[Any], Any] | None:
    """Return how a column of this type is read; None: it holds the field's value."""
    if get_origin(hint) is tuple:
        inner = _reader(get_args(hint)[0])
        return tuple if inner is None else lambda value: tuple(filter(None, map(inner, value)))
    records = [arm for arm in (hint, *get_args(hint)) if hasattr(arm, "from_json")]
    return partial(record_from, records[0]) if records else None
