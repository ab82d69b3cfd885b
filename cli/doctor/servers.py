"""What all machines of a fleet share: database, clocks, secret key, broker, storage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from pydantic import SecretStr
from rich.filesize import decimal

from cli.doctor.findings import Check, Said, advice, ok, unknown, wrong
from cli.local.startup_checks import broker_address, broker_advice, broker_problem
from comfy.process.cleanup import free_bytes
from core.broker_kind import BrokerKind
from core.errors import ConfigurationError, LedgerUnavailable, StorageUnavailable
from core.ledger import Ledger
from core.ledger.fleet_key import FleetKey
from core.ledger.sealing import KEY_FILE, Sealer, load_keys, make_key
from core.ledger.timekeeping import APART_MS
from core.ledger.upgrade import read_schema
from core.messaging.broker_trial import try_broker
from core.settings import Settings
from core.storage.backend import StorageBackend, input_storage, output_storage
from core.storage.marked_directory import absence
from core.storage.marker import StorageMarker
from core.storage.trial import try_storage

#: For each step of a look at the broker.
BROKER_S = 2.0
#: Of a server's connections, when it is time to say so.
FULL_SHARE = 0.7


def look_only(settings: Settings) -> Ledger:
    """Return a ledger to look at: with this machine's key, if it has one, for none is made in the data directory."""
    configured = settings.secret_key.get_secret_value()
    if configured or (settings.data_dir / KEY_FILE).exists():
        # One that is none is told of by the look at it.
        with contextlib.suppress(ConfigurationError):
            return Ledger(settings, pool_size=4)
    return Ledger(settings.model_copy(update={"secret_key": SecretStr(make_key())}), pool_size=4)


def server_checks(settings: Settings, ledger: Ledger, *, with_broker: bool = True) -> list[Check]:
    """Return the checks of what is shared.

    Parameters:
      with_broker: False where an embedded one may still have to be started.
    """
    url = "Check COMFYLINE_DATABASE_URL, and that this machine reaches the host in it."
    storage = "A file system whose server is gone answers nothing: check the mount of COMFYLINE_STORAGE_DIR."
    if settings.storage_url:
        storage = "The bucket's server takes connections and does not answer: check COMFYLINE_STORAGE_ENDPOINT_URL."
    found = [
        Check(subject="database", look=lambda: _database(settings, ledger), if_late=url),
        Check(subject="secret key", look=lambda: _secret_key(settings, ledger), if_late=url),
        Check(subject="storage", look=lambda: _storage(settings, ledger), if_late=storage),
    ]
    if with_broker:
        reach = f"{broker_address(settings)}: check the URL, and that this machine reaches the host in it."
        found.insert(2, Check(subject="broker", look=lambda: _broker(settings), if_late=reach))
    if not ledger.database.is_sqlite:
        found.insert(1, Check(subject="clock", look=lambda: _clock(ledger), if_late=url))
    return found


def _database(settings: Settings, ledger: Ledger) -> Iterator[Said]:
    schema = read_schema(settings)
    if schema.revision is None and not schema.may_create:
        yield wrong(
            f"COMFYLINE_DATABASE_URL: {schema.server} has no tables, and the URL's user may make none: have it own the "
            "database (ALTER DATABASE ... OWNER TO ...)."
        )
        return
    if schema.revision is None:
        yield unknown(f"{schema.server} has no tables yet; the first process makes them, or comfyline migrate.")
        return
    if not schema.is_current:
        yield advice(
            f"{schema.server} has the tables of an earlier version ({schema.revision}, now {schema.newest}); the next "
            "start of any process brings them up to date, or comfyline migrate.",
        )
        return
    try:
        ledger.facts.try_write()
    except LedgerUnavailable as exc:
        yield wrong(
            f"COMFYLINE_DATABASE_URL: {schema.server} is read, and takes no writes ({exc.message}) It may be a "
            "standby, or its disk is full.",
        )
        return
    yield ok(f"{schema.server}, tables {schema.revision}, takes writes.")
    yield from _places(ledger)


def _places(ledger: Ledger) -> Iterator[Said]:
    try:
        found = ledger.database.places()
    except LedgerUnavailable:
        return
    if found is not None and found[0] > FULL_SHARE * found[1]:
        yield advice(
            f"{found[0]} of the {found[1]} connections that PostgreSQL takes are in use. Raise its max_connections: "
            "each further GPU has up to 7 (docs/scale.md), and who comes when all are in use does not get in.",
        )


def _clock(ledger: Ledger) -> Iterator[Said]:
    try:
        ahead_s = ledger.timekeeping.ahead_s()
    except LedgerUnavailable:
        yield unknown("How this machine's clock stands to the database's, only that can tell.")
        return
    if ahead_s is not None:
        yield clock_finding(ahead_s, "the database's")


def clock_finding(ahead_s: float, whose: str) -> Said:
    """Return what there is to say of a clock of this machine that is so far ahead of another one."""
    if abs(ahead_s) * 1000 <= APART_MS:
        return ok(f"Within {max(0.1, abs(ahead_s)):.1f} s of {whose}.")
    way = "ahead of" if ahead_s > 0 else "behind"
    return wrong(
        f"This machine's clock is {abs(ahead_s):,.0f} s {way} {whose}, and {APART_MS // 1000} s are borne: have both "
        "set by NTP (timedatectl set-ntp true). Signed webhooks and uploads to buckets may be refused, and files "
        "removed too early or too late.",
    )


def _secret_key(settings: Settings, ledger: Ledger) -> Iterator[Said]:
    configured = settings.secret_key.get_secret_value()
    try:
        if read_schema(settings).revision is None or not ledger.fleet_key.is_chosen():
            yield unknown("The fleet has no key yet; its first process brings the one that it has.")
            return
        if not configured and not (settings.data_dir / KEY_FILE).exists():
            # A start would make one, which would be another.
            raise ConfigurationError(
                "COMFYLINE_SECRET_KEY is not set, and the fleet has a key already: set that one, as on all machines."
            )
        keys = Sealer(load_keys(configured, settings.data_dir))
        if (problem := FleetKey(ledger.facts, keys, is_set=bool(configured)).problem()) is not None:
            raise ConfigurationError(problem)
    except LedgerUnavailable:
        yield unknown("Whether this machine has the fleet's key, only the database can tell.")
        return
    yield ok("This machine has the fleet's.")


def _broker(settings: Settings) -> Iterator[Said]:
    problem = broker_problem(settings)
    if problem is not None and settings.has_embedded_broker:
        yield wrong(
            "COMFYLINE_BROKER_URL is not set, and no embedded broker answers on "
            f"{settings.embedded_broker_socket}: comfyline up starts it with all the rest, comfyline broker alone."
        )
        return
    if problem is not None:
        said = problem.removeprefix("Waiting for ").rstrip(".")
        yield wrong(f"{said[:1].upper()}{said[1:]}. Does it run, and does this machine reach it?")
        return
    kind = BrokerKind.of(settings.transport_url)
    server_ms = try_broker(settings, timeout_s=BROKER_S, publishes=True)
    name = "Redis or a Valkey" if kind is BrokerKind.REDIS else "RabbitMQ"
    yield ok(f"{broker_address(settings)}, a {name}, takes messages.")
    for line in broker_advice(settings):
        yield advice(line)
    if server_ms is not None and not settings.has_embedded_broker:
        mark, text = clock_finding(time.time() - server_ms / 1000, "the broker's")
        if mark == "wrong":
            # What goes by the broker's own clock can be late, and is not lost.
            yield advice(text)


_OWNER = " Our processes have to run as one user id on all machines, and that user has to own it."


def _storage(settings: Settings, ledger: Ledger) -> Iterator[Said]:
    place = settings.storage_url or settings.storage_dir or settings.data_dir
    marker = StorageMarker(settings, ledger.storage_moves)
    if settings.storage_url:
        # Before the first process, too: what it may do there depends on no fleet.
        if (why := marker.away()) is not None:
            yield wrong(f"The storage cannot be used now. {why}.")
            return
        marker.check_rights()
    try:
        if read_schema(settings).revision is None or not marker.is_chosen():
            yield from _unchosen(settings)
            return
    except LedgerUnavailable:
        yield unknown(f"Whether {place} is the fleet's storage, only the database can tell.")
        return
    if (problem := marker.problem()) is not None:
        yield wrong(problem)
        return
    for name, storage in (("outputs", output_storage(settings)), ("inputs", input_storage(settings))):
        if (problem := _trial(storage)) is not None:
            setting, help_ = (
                ("COMFYLINE_STORAGE_URL", "") if settings.storage_url else ("COMFYLINE_STORAGE_DIR", _OWNER)
            )
            yield wrong(f"{setting}: {place}/{name} does not keep files: {problem}.{help_}")
            return
    free_bytes = output_storage(settings).free_bytes()
    free = "" if free_bytes is None else f"; {decimal(free_bytes)} left"
    if marker.is_full():
        yield wrong(_no_room(settings, free))
        return
    if marker.is_next():
        yield advice(
            f"{place} has the fleet's files. The first process that is started with it moves the fleet there, and "
            "machines with another storage take nothing in from then on."
        )
        return
    yield ok(f"{place} is the fleet's; a file was written, read and removed in each part{free}.")


def _unchosen(settings: Settings) -> Iterator[Said]:
    if not settings.storage_url and settings.storage_dir is not None and not settings.storage_dir.is_dir():
        yield wrong(absence(settings))
    elif not settings.storage_url and free_bytes(settings.storage_dir or settings.data_dir) < settings.max_upload_bytes:
        yield wrong(_no_room(settings))
    else:
        yield unknown("The fleet has no storage yet; its first process takes the one that it sees.")


def _no_room(settings: Settings, free: str = "") -> str:
    place = settings.storage_url or settings.storage_dir or settings.data_dir
    return f"{place} has room for less than COMFYLINE_MAX_UPLOAD_BYTES{free}: make room."


def _trial(storage: StorageBackend) -> str | None:
    try:
        try_storage(storage)
    except StorageUnavailable as exc:
        return exc.message
    except OSError as exc:
        return exc.strerror or type(exc).__name__
    return None
