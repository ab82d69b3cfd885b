"""Servers of a test's own, which it may kill, freeze and restart: a Valkey on a unix socket, a PostgreSQL cluster."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import kombu
import psycopg
import redis

from cli.local.broker import answers, broker_spec, server_program
from comfy.process import launch
from core.settings import process_environment
from tests.ports import free_port
from tests.services import make_settings, missing
from tests.waiting import eventually

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0


def children_of(pid: int) -> list[int]:
    """The direct children of a process, those included that ended and wait to be noticed."""
    found = []
    # The names only: a glob looks at each entry again, and raises when a process has gone meanwhile.
    for entry in [path for path in Path("/proc").iterdir() if path.name.isdigit()]:
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(entry.name))
    return found


class OwnServer:
    """A server process that can be ended and started again on the same files, and stopped in its tracks."""

    #: How long a start may take.
    start_timeout_s = START_TIMEOUT_S

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, if it does not run, and wait until it answers."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        assert eventually(self.is_answering, self.start_timeout_s), f"{type(self).__name__} does not start"

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """It keeps its connections, takes new ones (the kernel does), and says nothing."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def is_answering(self) -> bool:
        """Whether it serves requests."""
        raise NotImplementedError

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self.thaw()
        self._process.send_signal(number)
        self._process.wait(STOP_TIMEOUT_S)

    def _signal_all(self, number: signal.Signals) -> None:
        assert self._process is not None
        pid = self._process.pid
        os.kill(pid, number)
        # Looked up afterwards: a parent that stands still has no new children.
        for child in children_of(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)


class OwnValkey(OwnServer):
    """The broker that `comfyline up` would start for `settings`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.settings = make_settings(folder, broker_url="")

    @property
    def url(self) -> str:
        """kombu URL of the server."""
        return self.settings.transport_url

    def is_answering(self) -> bool:
        return answers(self.settings)

    def _command(self) -> list[str]:
        # Through the launcher, so that the kernel ends it should the test run be killed.
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid())]
        return [*launcher, *broker_spec(self.settings, process_environment()).command]


class OwnRedis(OwnServer):
    """A Redis, or the Valkey that came with us, which listens at an address and keeps what it has."""

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        super().__init__()
        folder.mkdir()
        self._folder, self._address = folder, address
        self.port = free_port()

    @property
    def url(self) -> str:
        """kombu URL of the server."""
        return f"redis://{self._address}:{self.port}/0"

    def is_answering(self) -> bool:
        try:
            with redis.Redis(self._address, self.port, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def _command(self) -> list[str]:
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid())]
        listen = ["--port", str(self.port), "--bind", self._address, "--protected-mode", "no"]
        return [*launcher, str(server_program()), *listen, "--dir", str(self._folder), "--appendonly", "yes"]


RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


class OwnRabbit(OwnServer):
    """A RabbitMQ node that listens at an address; the test ends where the program is not there."""

    #: Erlang takes its time on a busy machine.
    start_timeout_s = 90.0

    def __init__(self, folder: Path, address: str = "127.0.0.1") -> None:
        super().__init__()
        if not RABBITMQ.exists():
            missing(f"no RabbitMQ of our own: {RABBITMQ} is not there")
        self.folder, self._address = folder, address
        self.port, self._distribution_port = free_port(), free_port()
        self.node = f"own{self.port}@localhost"
        folder.mkdir()
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text(self._configuration())

    @property
    def url(self) -> str:
        """kombu URL of the node."""
        return f"amqp://guest:guest@{self._address}:{self.port}//"

    def is_answering(self) -> bool:
        try:
            with kombu.Connection(self.url, connect_timeout=2) as connection:
                connection.connect()
        except OSError:
            return False
        return True

    def _configuration(self) -> str:
        # Elsewhere than here guest may come in from anywhere.
        return f"listeners.tcp.1 = {self._address}:{self.port}\nloopback_users = none\n"

    def _command(self) -> list[str]:
        home = self.folder
        variables = {
            "HOME": home,
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": self._distribution_port,
            "RABBITMQ_MNESIA_BASE": home / "mnesia",
            "RABBITMQ_LOG_BASE": home / "log",
            "RABBITMQ_CONFIG_FILE": home / "rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": home / "enabled_plugins",
        }
        launcher = [sys.executable, "-I", "-S", launch.__file__, str(os.getpid())]
        given = [f"{name}={value}" for name, value in variables.items()]
        return [*launcher, shutil.which("env") or "env", *given, str(RABBITMQ)]


class OwnPostgres(OwnServer):
    """A PostgreSQL cluster in a temporary directory, run by an ordinary user as PostgreSQL demands."""

    def __init__(self, address: str = "127.0.0.1", **options: str) -> None:
        """Parameters:
        address: where it listens; all of the network around it may connect.
        options: further ones of its configuration.
        """
        super().__init__()
        self.address = address
        self._options = options
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        setpriv = shutil.which("setpriv")
        if not programs or setpriv is None:
            missing("no PostgreSQL of our own can be started: /usr/lib/postgresql/*/bin or setpriv is not there")
        self._programs = programs[-1].parent
        self._as_user = [setpriv, "--pdeathsig", "INT"]
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="fleet-test-postgres-"))
        if os.geteuid() == 0:
            self._as_user += ["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
            owner = pwd.getpwnam("postgres")
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        initdb = [str(self._programs / "initdb"), "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust"]
        subprocess.run([*self._as_user, *initdb, "--no-sync"], check=True, capture_output=True, timeout=60)
        if address != "127.0.0.1":
            with (self.folder / "data" / "pg_hba.conf").open("a") as file:
                file.write("host all all samenet trust\n")

    @property
    def url(self) -> str:
        """URL of the database that every cluster has."""
        return self._url_of("postgres")

    def new_database(self) -> str:
        """URL of an empty database: jobs and instances that other tests left must not come into this one's."""
        name = f"fleet_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self._url_of(name)

    def _url_of(self, database: str) -> str:
        return f"postgresql://postgres@{self.address}:{self.port}/{database}"

    def is_answering(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        """End it without waiting for its clients ("fast shutdown")."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash would ("immediate shutdown"): the next start recovers from the log."""
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """End it and delete its files."""
        self.kill()
        shutil.rmtree(self.folder)

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": self.address,
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            **self._options,
        }
        flags = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        return [*self._as_user, str(self._programs / "postgres"), "-D", str(self.folder / "data"), *flags]
