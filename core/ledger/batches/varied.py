"""Jobs of a batch by what was varied to make them: a value that comes as text, against values as JSON keeps them.

A text means what it says as text, as a number, and as true or false. Numbers are equal by their value, as `1` and `1.0`
are, and to the last digit: databases read large ones as floating-point numbers, so what is compared is how they are
written.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from sqlalchemy import ColumnElement, Select, Text, and_, cast, exists, func, literal_column, or_, select

from core.ledger.database.tables import jobs

#: A number as JSON writes it; longer ones are none that was varied.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,39})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
#: Integers that SQLite has none for.
_BEYOND = 2**63


def is_varied(name: str, value: str, *, is_sqlite: bool) -> ColumnElement[bool]:
    """Return the condition that a job was made with this value of something that was varied."""
    if not is_sqlite:
        found = jobs.c.varied[name]
        is_text = and_(func.json_typeof(found) == "string", found.as_string() == value)
        return or_(is_text, cast(found, Text).in_(written(value)))
    if '"' in name:
        return _is_entry(name, value)
    path = f'$."{name}"'
    is_text = and_(func.json_type(jobs.c.varied, path) == "text", func.json_extract(jobs.c.varied, path) == value)
    # Asked for one value SQLite makes a number of its own of it; asked for two it quotes the text.
    quoted = [f"[{text},{text}]" for text in written(value)]
    return or_(is_text, func.json_extract(jobs.c.varied, path, path).in_(quoted))


def varied_names(*, is_sqlite: bool) -> Select[Any]:
    """Return the query of the names of all that was varied among jobs, each once."""
    if is_sqlite:
        entries = func.json_each(jobs.c.varied).table_valued("key")
        return select(entries.c.key).select_from(jobs).join(entries, literal_column("1") == 1).distinct()
    return select(func.json_object_keys(jobs.c.varied)).distinct()


def written(value: str) -> list[str]:
    """Return how JSON may write what a text means as a number, or as true or false; nothing where it is a text only."""
    if value in ("true", "false"):
        return [value]
    if not _NUMBER.fullmatch(value):
        return []
    number: int | float = int(value) if value.lstrip("-").isdecimal() else float(value)
    if not math.isfinite(number):
        return []
    equal: list[int | float] = [number]
    if number == 0:
        equal = [0, 0.0, -0.0]
    elif isinstance(number, float) and number.is_integer():
        equal.append(int(number))
    elif isinstance(number, int) and float(number) == number:
        equal.append(float(number))
    # As the columns are written, see `core.ledger.database.connections`.
    return [json.dumps(each) for each in equal]


def _is_entry(name: str, value: str) -> ColumnElement[bool]:
    """Return the same for a name that no path of SQLite's can say: there, integers beyond 64 bits are equal roughly."""
    entries = func.json_each(jobs.c.varied).table_valued("key", "value", "type")
    same = and_(entries.c.type == "text", entries.c.value == value)
    if value in ("true", "false"):
        same = or_(same, entries.c.type == value)
    elif texts := written(value):
        numbers = [number if abs(number) < _BEYOND else float(number) for number in map(json.loads, texts)]
        same = or_(same, and_(entries.c.type.in_(["integer", "real"]), entries.c.value.in_(numbers)))
    return exists(select(literal_column("1")).select_from(entries).where(entries.c.key == name, same))
