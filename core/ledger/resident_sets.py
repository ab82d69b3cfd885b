"""Which sets of model files an instance holds, all of their files: rows of the table `residents`.

The files themselves stand in the instance's own row. These are for the question who holds a set, of any number of GPUs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import Connection, delete, insert, select

from core.ledger.database.tables import lines, residents
from core.ledger.model_sets import model_set_of
from core.scheduling.lines import NO_MODELS, ModelSet


def put_sets(connection: Connection, instance: str, sets: Iterable[ModelSet]) -> None:
    """Write which sets an instance holds, and no others."""
    connection.execute(delete(residents).where(residents.c.instance == instance))
    rows = [{"instance": instance, "models": models} for models in sorted(set(sets)) if models != NO_MODELS]
    if rows:
        connection.execute(insert(residents), rows)


def keep_only(connection: Connection, instance: str, models: ModelSet) -> None:
    """Write that of what an instance held, one set is left at most."""
    gone = (residents.c.instance == instance, residents.c.models != models)
    connection.execute(delete(residents).where(*gone))


def sets_within(connection: Connection, files: Collection[str]) -> set[ModelSet]:
    """Return which sets somebody who holds these files holds, of those that jobs have asked for; and that of all."""
    if not files:
        return set()
    held = frozenset(files)
    asked = connection.execute(select(lines.c.models, lines.c.files).where(lines.c.models != NO_MODELS))
    return {model_set_of(held), *(row.models for row in asked if held.issuperset(row.files))}
