"""What a process needs before it can start: a broker that answers and a ledger with its tables, in any order."""

from __future__ import annotations

import time
from collections.abc import Callable

from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from cli import broker
from core.errors import LedgerUnavailable
from core.ledger import Ledger
from core.ledger.schema import migrate
from core.settings import Settings
from core.storage_marker import StorageMarker

PAUSE_S = 0.3
#: How often the same line is said again while nothing changes.
REPEAT_S = 30.0
CONNECT_TIMEOUT_S = 4


def wait_for_needs(settings: Settings, report: Callable[[str], None]) -> None:
    """Return when the broker answers and the ledger has its tables; says what it waits for meanwhile.

    A signal ends the wait as it ends any program: nothing has been started yet.
    """
    _wait(lambda: ledger_problem(settings), report)
    _wait(lambda: broker_problem(settings), report)


def ledger_problem(settings: Settings) -> str | None:
    """Why the ledger cannot be used yet; None when it can. Whoever comes first creates the tables."""
    try:
        migrate(settings)
    except LedgerUnavailable as exc:
        return f"Waiting for the ledger. {exc}"
    return None


def settle_storage(settings: Settings, report: Callable[[str], None]) -> None:
    """See that the storage in sight is the fleet's, once the ledger can say which is.

    Raises:
      ConfigurationError: it is not.
    """
    _wait(lambda: _storage_problem(settings), report)


def _storage_problem(settings: Settings) -> str | None:
    ledger = Ledger(settings, pool_size=1)
    try:
        StorageMarker(settings, ledger.facts).settle()
    except LedgerUnavailable as exc:
        return f"Waiting for the ledger. {exc}"
    finally:
        ledger.close()
    return None


def broker_problem(settings: Settings) -> str | None:
    """Why the broker cannot be used yet; None when it can."""
    if settings.has_embedded_broker:
        if broker.answers(settings):
            return None
        return f"Waiting for the embedded broker (`fleet broker`) on {settings.embedded_broker_socket}."
    try:
        with Connection(settings.broker_url, connect_timeout=CONNECT_TIMEOUT_S) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT_S)
    except (OperationalError, OSError) as exc:
        return f"Waiting for the broker at FLEET_BROKER_URL={maybe_sanitize_url(settings.broker_url)}: {exc}"
    return None


def _wait(problem_of: Callable[[], str | None], report: Callable[[str], None]) -> None:
    said, said_at_s = "", 0.0
    while (problem := problem_of()) is not None:
        if problem != said or time.monotonic() - said_at_s > REPEAT_S:
            report(problem)
            said, said_at_s = problem, time.monotonic()
        time.sleep(PAUSE_S)
