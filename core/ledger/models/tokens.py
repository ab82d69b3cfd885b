"""The tokens of model sources, by the names that the manifest has for them: sealed, opened only to ask a source."""

from __future__ import annotations

from sqlalchemy import delete, insert, select, update

from core.clock import now_ms
from core.errors import NotFound
from core.ledger.audit import write_act
from core.ledger.database.connections import Database
from core.ledger.database.model_tables import model_tokens
from core.ledger.sealing import Sealer
from core.records.act import Actor


class ModelTokens:
    """What operators enter, and hosts open."""

    def __init__(self, database: Database, sealer: Sealer) -> None:
        self._database = database
        self._sealer = sealer

    def put(self, name: str, token: str, *, by: Actor | None = None) -> int:
        """Enter a token, in place of one of this name; returns the time, in milliseconds since 1970.

        Parameters: by - who does it; None: the user of this process.
        """
        now = now_ms()
        values = {"sealed": self._sealer.seal({"token": token}, bound_to=_bond(name)), "updated_at_ms": now}
        with self._database.write() as transaction:
            changed = update(model_tokens).where(model_tokens.c.name == name).values(**values)
            if not transaction.connection.execute(changed).rowcount:
                transaction.connection.execute(insert(model_tokens).values(name=name, **values))
            write_act(transaction.connection, "model_token.put", name, by)
        return now

    def names(self) -> dict[str, int]:
        """Return when each token was entered, in milliseconds since 1970, by its name."""
        query = select(model_tokens.c.name, model_tokens.c.updated_at_ms).order_by(model_tokens.c.name)
        with self._database.read() as connection:
            return {row.name: row.updated_at_ms for row in connection.execute(query)}

    def remove(self, name: str, *, by: Actor | None = None) -> None:
        """Forget a token. Raises NotFound.

        Parameters: by - as for `put`.
        """
        with self._database.write() as transaction:
            done = transaction.connection.execute(delete(model_tokens).where(model_tokens.c.name == name))
            if not done.rowcount:
                raise NotFound(f"There is no token {name}.")
            write_act(transaction.connection, "model_token.remove", name, by)

    def open(self, name: str) -> str | None:
        """Return a token; None if there is none of this name.

        Raises:
          ConfigurationError: it was sealed with a key that this process does not have.
          LedgerUnavailable.
        """
        with self._database.read() as connection:
            sealed = connection.execute(select(model_tokens.c.sealed).where(model_tokens.c.name == name)).scalar()
        return None if sealed is None else str(self._sealer.open(sealed, bound_to=_bond(name))["token"])


def _bond(name: str) -> str:
    return f"model-token:{name}"
