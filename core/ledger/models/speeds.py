"""How fast model files come to each host, learned as durations are: by the newest fetches most."""

from __future__ import annotations

from sqlalchemy import Connection, select

from core.ledger.database.learned_tables import durations
from core.ledger.durations import Durations

#: Under which name it stands among the durations, by host: seconds for each gigabyte.
SUBJECT = "fetch"
GIGABYTE = 1e9
#: Of what is smaller, the time says more of the requests than of the bytes.
LEAST_BYTES = 8 * 1024 * 1024

_SPEEDS = select(durations.c.gpu, durations.c.average_s).where(durations.c.what == SUBJECT)


def learn_speed(known: Durations, host: str, *, size_bytes: int, seconds: float) -> None:
    """Record how long so many bytes took to come to a host. Raises LedgerUnavailable."""
    if size_bytes >= LEAST_BYTES and seconds > 0:
        known.learn_all({SUBJECT: seconds / size_bytes * GIGABYTE}, gpu=host)


def read_speeds(connection: Connection) -> dict[str, float]:
    """Return the bytes that come in a second to each host that has fetched any."""
    return {host: GIGABYTE / average_s for host, average_s in connection.execute(_SPEEDS) if average_s > 0}
