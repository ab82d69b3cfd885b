"""What a process needs before it can start: a broker that answers and a ledger with its tables, in any order."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from amqp.exceptions import AccessRefused, AMQPError, NotAllowed
from kombu import Connection
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from cli.local import broker
from core.background import failure_of
from core.broker_kind import BrokerKind
from core.errors import ComfylineError, ConfigurationError, LedgerUnavailable
from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.messaging.broker_tls import refused_certificate, tls_options
from core.settings import Settings
from core.settings.shown import shown_settings
from core.storage.marker import StorageMarker

PAUSE_S = 0.3
#: How often the same line is said again while nothing changes.
REPEAT_S = 30.0
CONNECT_TIMEOUT_S = 4
#: Waiting does not help against these.
_REFUSALS = (AccessRefused, NotAllowed, AuthenticationError, ResponseError)


def wait_for_needs(settings: Settings, report: Callable[[str], None]) -> None:
    """Return when the broker answers and the ledger has its tables; says what it waits for meanwhile.

    A signal ends the wait as it ends any program: nothing has been started yet.
    """
    wait_for_ledger(settings, report)
    _wait(lambda: broker_problem(settings), report)


def wait_for_ledger(settings: Settings, report: Callable[[str], None]) -> None:
    """The same of the ledger alone. A database that refuses us is waited for, too: somebody may correct that there."""
    _wait(lambda: ledger_problem(settings), report)


def note_start(settings: Settings, process: str) -> None:
    """Write into the book of acts that a process starts, with its settings. A ledger that is away keeps none from it.

    Parameters: process - such as `api`, without the machine's name.
    """
    with closing(Ledger(settings, pool_size=1)) as ledger:
        shown = shown_settings(settings)
        failure_of(lambda: ledger.audit.note_start(f"{process}@{settings.host}", shown), "book of acts")


def ledger_problem(settings: Settings) -> str | None:
    """Why the ledger cannot be used yet; None when it can. Whoever comes first creates the tables."""
    try:
        migrate(settings)
    except LedgerUnavailable as exc:
        return f"Waiting for the ledger. {exc}"
    return None


def settle_key(settings: Settings, report: Callable[[str], None]) -> None:
    """See that this machine has the fleet's secret key, once the ledger can say so.

    Raises:
      ConfigurationError: it has another one.
    """
    _wait(lambda: _key_problem(settings), report)


def has_keys(settings: Settings) -> bool:
    """Return whether the ledger has, or had, any key; False where it cannot be asked."""
    try:
        with closing(Ledger(settings)) as ledger:
            return ledger.keys.live().has_any
    except ComfylineError:
        return False


def settle_storage(settings: Settings, report: Callable[[str], None]) -> None:
    """See that the storage in sight is the fleet's, and may be used, once it and the ledger can say so.

    Raises:
      ConfigurationError: it is not.
    """
    _wait(lambda: _storage_problem(settings), report)


def _key_problem(settings: Settings) -> str | None:
    try:
        with closing(Ledger(settings, pool_size=1)) as ledger:
            ledger.fleet_key.settle()
    except LedgerUnavailable as exc:
        return f"Waiting for the ledger. {exc}"
    return None


def _storage_problem(settings: Settings) -> str | None:
    ledger = Ledger(settings, pool_size=1)
    try:
        marker = StorageMarker(settings, ledger.storage_moves)
        if (why := marker.away()) is not None:
            return f"Waiting for the storage. {why}"
        marker.settle()
        marker.check_rights()
    except LedgerUnavailable as exc:
        return f"Waiting for the ledger. {exc}"
    finally:
        ledger.close()
    return None


def broker_problem(settings: Settings) -> str | None:
    """Why the broker cannot be used yet; None when it can.

    Raises:
      ConfigurationError: it answers, and will not have us: user, password, virtual host or database are wrong.
    """
    if settings.has_embedded_broker:
        if broker.answers(settings):
            return None
        return f"Waiting for the embedded broker (`comfyline broker`) on {settings.embedded_broker_socket}."
    try:
        with _connection(settings) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=CONNECT_TIMEOUT_S)
    except (OperationalError, AMQPError, OSError) as exc:
        if (refused := refused_certificate(exc)) is not None:
            raise ConfigurationError(
                f"{broker_address(settings)}: the broker's certificate is not trusted ({refused.verify_message}). "
                f"{_authority(settings)}"
            ) from exc
        if isinstance(exc, _REFUSALS) or isinstance(exc.__cause__, _REFUSALS):
            raise ConfigurationError(
                f"{broker_address(settings)}: the broker refuses us ({_words(exc)}). Check the user, the password, "
                "and what stands behind the last slash: the virtual host, or the number of a Redis database."
            ) from exc
        return f"Waiting for the broker at {broker_address(settings)}: {exc}"
    return None


def broker_advice(settings: Settings) -> list[str]:
    """What the operator should know of a Redis that answers: a line for each setting with which it loses messages."""
    if not settings.broker_url or BrokerKind.of(settings.broker_url) is not BrokerKind.REDIS:
        return []
    try:
        with _connection(settings) as connection:
            client: Any = connection.default_channel.client  # type: ignore[attr-defined]
            said = {**client.info("persistence"), **client.info("memory")}
    except (OperationalError, RedisError, OSError):
        # It may be one that does not tell; whether it answers is not asked here.
        return []
    lines = []
    if str(said.get("aof_enabled")) == "0":
        lines.append(
            f"{broker_address(settings)}: the broker keeps nothing over a restart (appendonly no). No job is lost by "
            "that, but those that wait start later. Set appendonly yes."
        )
    if str(said.get("maxmemory_policy", "noeviction")) != "noeviction":
        lines.append(
            f"{broker_address(settings)}: the broker throws messages away when its memory is full (maxmemory-policy "
            f"{said['maxmemory_policy']}). Set maxmemory-policy noeviction."
        )
    return lines


def broker_address(settings: Settings) -> str:
    """Return, for people, the setting and where it leads, without passwords."""
    if settings.has_embedded_broker:
        return f"The embedded broker on {settings.embedded_broker_socket}"
    # Each by itself: taken as one, the second's password would be a part of the first's path.
    return f"COMFYLINE_BROKER_URL={';'.join(map(maybe_sanitize_url, settings.broker_url.split(';')))}"


def _connection(settings: Settings) -> Connection:
    return Connection(settings.broker_url, connect_timeout=CONNECT_TIMEOUT_S, ssl=tls_options(settings))


def _authority(settings: Settings) -> str:
    if settings.broker_ca is None:
        return "COMFYLINE_BROKER_CA names a PEM file of the authority that made it; now the system's are asked."
    return f"COMFYLINE_BROKER_CA={settings.broker_ca} has to hold the authority that made it, for the host in the URL."


def _words(exc: Exception) -> str:
    return str(getattr(exc, "reply_text", "") or exc)


def _wait(problem_of: Callable[[], str | None], report: Callable[[str], None]) -> None:
    said, said_at_s = "", 0.0
    while (problem := problem_of()) is not None:
        if problem != said or time.monotonic() - said_at_s > REPEAT_S:
            report(problem)
            said, said_at_s = problem, time.monotonic()
        time.sleep(PAUSE_S)
