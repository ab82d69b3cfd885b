"""SQLite's write lock: who has waited longest for it asks most often, and so has it next in most cases.

SQLite itself lets each one who finds it taken sleep for longer and longer, up to a tenth of a second, whoever comes
meanwhile. With 16 writers at once one in a hundred waited for eight times as long as here, and some were refused.
"""

from __future__ import annotations

import time

from sqlalchemy import Connection

#: Pause before the first time that it is asked for again, and the shortest one.
LONGEST_S, SHORTEST_S = 0.010, 0.0005
#: After this time a writer asks twice as often as at first, and then ever more.
PATIENCE_S = 0.015
_BUSY = "database is locked"


def begin_writing(connection: Connection, *, timeout_s: float) -> None:
    """Begin a transaction that has the write lock. Raises the driver's error when others have it all that time.

    Under gevent others of the process go on meanwhile.
    """
    driver = connection.connection.dbapi_connection
    assert driver is not None
    execute = driver.cursor().execute
    error = connection.dialect.loaded_dbapi.OperationalError
    execute("PRAGMA busy_timeout=0")
    try:
        began_s = time.monotonic()
        while True:
            try:
                execute("BEGIN IMMEDIATE")
                return
            except error as exc:
                waited_s = time.monotonic() - began_s
                if _BUSY not in str(exc) or waited_s >= timeout_s:
                    raise
            time.sleep(pause_s(waited_s))
    finally:
        execute(f"PRAGMA busy_timeout={round(timeout_s * 1000)}")


def pause_s(waited_s: float) -> float:
    """Return how long to wait before asking again, after so long."""
    return max(SHORTEST_S, LONGEST_S / (1.0 + (waited_s / PATIENCE_S) ** 2))
