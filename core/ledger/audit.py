"""The book of acts: who did what, written in the transaction of the act, and never changed."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from core.clock import now_ms
from core.ledger.database.access_tables import keys
from core.ledger.database.connections import Database
from core.ledger.database.usage_tables import audit
from core.records.act import Act, ActName, Actor

_WHO_CHARS, _SUBJECT_CHARS, _ADDRESS_CHARS = 255, 255, 64
#: Lines that one transaction removes.
REMOVED = 500


def local_actor() -> Actor:
    """Return the user of this process: who runs a command on the ledger itself."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"uid {os.getuid()}"
    return Actor(who=f"{user}@{socket.gethostname()}")


def write_act(connection: Connection, act: ActName, subject: str, by: Actor | None, **details: Any) -> None:
    """Write one line, within the transaction of the act.

    Parameters:
      by: None is the user of this process.
      details: JSON-able, and never a secret.
    """
    write_acts(connection, act, {subject: details}, by)


def write_acts(
    connection: Connection, act: ActName, details: Mapping[str, Mapping[str, Any]], by: Actor | None
) -> None:
    """Write a line for each of many subjects, in one go, within the transaction of the act.

    Parameters:
      details: by subject, as for `write_act`, as is `by`.
    """
    if not details:
        return
    actor = by or local_actor()
    who = actor.who
    if actor.key_id is not None:
        who = connection.execute(select(keys.c.name).where(keys.c.id == actor.key_id)).scalar() or actor.key_id
    common = {
        "at_ms": now_ms(),
        "key_id": actor.key_id,
        "who": who[:_WHO_CHARS],
        "tenant": actor.tenant,
        "address": None if actor.address is None else actor.address[:_ADDRESS_CHARS],
        "act": act,
    }
    lines = [
        {**common, "subject": subject[:_SUBJECT_CHARS], "details": dict(told)} for subject, told in details.items()
    ]
    connection.execute(insert(audit), lines)


class Audit:
    """What is asked of the book, and what is written of acts that change nothing else in the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def note(self, act: ActName, subject: str, by: Actor | None = None, **details: Any) -> None:
        """Write one line, see `write_act`."""
        with self._database.write() as transaction:
            write_act(transaction.connection, act, subject, by, **details)

    def note_start(self, process: str, settings: dict[str, str]) -> None:
        """Write that a process has started, with its settings and what of them is not as at its last start.

        Parameters:
          process: such as `api@host`.
          settings: by name, as they may be shown.
        """
        last = select(audit.c.details).where(audit.c.act == "settings.start", audit.c.subject == process)
        with self._database.write() as transaction:
            before = transaction.connection.execute(last.order_by(audit.c.id.desc()).limit(1)).scalar()
            details: dict[str, Any] = {"settings": settings}
            if before is not None:
                known = before.get("settings", {})
                names = sorted(name for name in {*known, *settings} if known.get(name) != settings.get(name))
                details["changed"] = {name: [known.get(name), settings.get(name)] for name in names}
            write_act(transaction.connection, "settings.start", process, None, **details)

    def page(
        self,
        *,
        act: str | None = None,
        subject: str | None = None,
        tenant: str | None = None,
        key_id: str | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
        limit: int = 50,
        before: int | None = None,
    ) -> list[Act]:
        """Return one page of the book, the newest first.

        Parameters:
          tenant, key_id: of whom did it.
          from_ms, until_ms: at or after the one, and before the other.
          before: the id of the last line of the page before.
        """
        query = select(audit).order_by(audit.c.id.desc()).limit(limit)
        for column, wanted in ((audit.c.act, act), (audit.c.subject, subject)):
            if wanted is not None:
                query = query.where(column == wanted)
        for column, wanted in ((audit.c.tenant, tenant), (audit.c.key_id, key_id)):
            if wanted is not None:
                query = query.where(column == wanted)
        if from_ms is not None:
            query = query.where(audit.c.at_ms >= from_ms)
        if until_ms is not None:
            query = query.where(audit.c.at_ms < until_ms)
        if before is not None:
            query = query.where(audit.c.id < before)
        with self._database.read() as connection:
            return [_act(row) for row in connection.execute(query)]

    def forget(self, *, older_than_s: float, limit: int = REMOVED) -> int:
        """Remove lines past their time, the oldest first; returns how many."""
        old = select(audit.c.id).where(audit.c.at_ms < now_ms() - int(older_than_s * 1000))
        with self._database.write() as transaction:
            gone = delete(audit).where(audit.c.id.in_(old.order_by(audit.c.id).limit(limit)))
            return transaction.connection.execute(gone).rowcount


def _act(row: Row[Any]) -> Act:
    by = Actor(who=row.who, key_id=row.key_id, tenant=row.tenant, address=row.address)
    return Act(id=row.id, at_ms=row.at_ms, by=by, act=row.act, subject=row.subject, details=row.details)
