"""Fixtures every test may use: services and their isolation, servers of a test's own, and two guards.

The guards: tests in `tests/unit` cannot open a socket, and a test run that leaves a process behind fails.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from zlib import crc32

import pytest
import pytest_socket

from comfy.liveness.procfs import ProcessIdentity, with_variable
from core.ledger import Ledger
from core.ledger.upgrade import migrate
from core.settings import Settings
from tests.broker_lines import BrokerLine, own_line, shared_line
from tests.own_servers import OwnPostgres, OwnValkey, children_of
from tests.services import Broker, PostgresServer, find_postgres, make_settings, rabbitmq_broker, redis_broker
from tests.slowest import lines_of, seconds_by_file
from tests.waiting import eventually

#: In the environment of everything a test run starts, so that its processes are found wherever they moved. Without our
#: prefix: helpers start fleets whose environment has no `COMFYLINE_` name but those they choose.
SESSION_VARIABLE = "COMFYLINE_TEST_RUN"
#: Processes that were told to end may need a moment on a loaded machine.
GOODBYE_S = 5.0
#: What an operator may have set for a real fleet must not reach the tests.
FOREIGN_NAMES = ("COMFYLINE_", "WEBHOOK_", "COMFY_", "S3_")
UNIT = Path(__file__).parent / "unit"
#: No slow test begins after this moment, in seconds since 1970: `.ci/run` does not know how quick its machine is. Then
#: slow files come last, in an order that another seed changes, so that in time each has its turn.
UNTIL, SEED = "COMFYLINE_TEST_UNTIL", "COMFYLINE_TEST_SEED"
#: Every test in these has a whole fleet to itself.
SLOW = tuple(Path(__file__).parent / folder for folder in ("chaos", "faults"))


def pytest_configure() -> None:
    """Make the environment the same everywhere, and mark it."""
    # A shell has background jobs ignore Ctrl-C, and whatever they start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in list(os.environ):
        if name.startswith(FOREIGN_NAMES) and not name.startswith("COMFYLINE_TEST_"):
            del os.environ[name]
    os.environ[SESSION_VARIABLE] = uuid.uuid4().hex


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow by where it is; single modules and tests elsewhere say so themselves. Their files go first."""
    for item in items:
        if any(folder in item.path.parents for folder in SLOW):
            item.add_marker(pytest.mark.slow)
    # Of several processes none waits at the end for one that has just begun with a long file.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    if UNTIL not in os.environ:
        items.sort(key=lambda item: item.path not in slow)
        return
    seed = os.environ.get(SEED, "")
    items.sort(key=lambda item: crc32(f"{seed} {item.path.name}".encode()) if item.path in slow else -1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no slow test when there is no time for it."""
    until_s = os.environ.get(UNTIL)
    if until_s is not None and time.time() > float(until_s) and item.get_closest_marker("slow"):
        pytest.skip("no time was left for slow tests (COMFYLINE_TEST_UNTIL)")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what took longest, and why tests were skipped, a line for each reason: hundreds miss the same service."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    for line in lines_of(seconds_by_file(reports)):
        terminalreporter.write_line(line)
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ").partition(":")[0] for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture(autouse=True, scope="session")
def no_process_survives() -> Iterator[None]:
    """At the end of the run nothing that a test started is alive. What is left is ended, and the run fails."""
    yield
    if not eventually(lambda: not _survivors(), GOODBYE_S):
        left = {pid: _command_line(pid) for pid in _survivors()}
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        pytest.fail(f"tests left processes behind: {left}")


@pytest.fixture(autouse=True)
def no_sockets_in_unit_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """A unit test that opens a socket fails."""
    if not request.path.is_relative_to(UNIT):
        yield
        return
    pytest_socket.disable_socket()
    yield
    pytest_socket.enable_socket()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """SQLite in a directory of the test's own, and no broker."""
    return make_settings(tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The machine's PostgreSQL server, for databases of a test's own."""
    server = find_postgres()
    yield server
    server.drop_all()


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """An empty database, dropped after the test."""
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = make_settings(tmp_path_factory.mktemp("template"))
    migrate(settings)
    return settings.data_dir / "ledger.db"


@pytest.fixture(scope="session")
def _postgres_template(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = postgres.create()
    migrate(make_settings(tmp_path_factory.mktemp("template"), database_url=url))
    return url


@pytest.fixture
def sqlite_settings(tmp_path: Path, _sqlite_template: Path) -> Settings:
    """An empty ledger with its tables, in a file."""
    settings = make_settings(tmp_path)
    settings.data_dir.mkdir()
    shutil.copy(_sqlite_template, settings.data_dir)
    return settings


@pytest.fixture
def postgres_settings(tmp_path: Path, postgres: PostgresServer, _postgres_template: str) -> Iterator[Settings]:
    """An empty ledger with its tables, in a PostgreSQL database that is dropped after the test."""
    url = postgres.create(template=_postgres_template)
    yield make_settings(tmp_path, database_url=url)
    postgres.drop(url)


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_settings(request: pytest.FixtureRequest) -> Settings:
    """An empty ledger with its tables; the test runs on each kind of database."""
    settings: Settings = request.getfixturevalue(f"{request.param}_settings")
    return settings


@pytest.fixture
def ledger(ledger_settings: Settings) -> Iterator[Ledger]:
    """An empty ledger, opened; the test runs on each kind of database."""
    ledger = Ledger(ledger_settings)
    yield ledger
    ledger.close()


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[Broker]:
    """The machine's Redis: do not stop, freeze or flush it."""
    with redis_broker() as broker:
        yield broker


@pytest.fixture(scope="session")
def shared_rabbitmq() -> Iterator[Broker]:
    """A virtual host of this session on the machine's RabbitMQ: do not stop or freeze the server."""
    with rabbitmq_broker() as broker:
        yield broker


@pytest.fixture
def own_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnValkey]:
    """The embedded broker, running, on a unix socket; the test may do anything to it."""
    server = OwnValkey(tmp_path_factory.mktemp("valkey"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["valkey", "redis", "rabbitmq"])
def broker_line(request: pytest.FixtureRequest) -> Iterator[BrokerLine]:
    """A broker that the test may lose, freeze and get back; the test runs on each kind."""
    if request.param == "valkey":
        yield own_line(request.getfixturevalue("own_valkey"))
        return
    line = shared_line(request.getfixturevalue(f"shared_{request.param}"))
    yield line
    line.wire.cut()


@pytest.fixture(scope="session")
def own_cluster() -> Iterator[OwnPostgres]:
    """A PostgreSQL cluster for this session, not started: `own_postgres` is what a test wants."""
    server = OwnPostgres()
    yield server
    server.remove()


@pytest.fixture
def own_postgres(own_cluster: OwnPostgres) -> Iterator[OwnPostgres]:
    """A PostgreSQL cluster, running; the test may do anything to it but in databases of others."""
    own_cluster.start()
    yield own_cluster
    own_cluster.thaw()


def _survivors() -> list[int]:
    marked = with_variable(SESSION_VARIABLE, os.environ[SESSION_VARIABLE])
    # A descendant with a clean environment is not marked, but it is our child.
    pids = {*marked, *children_of(os.getpid())} - {os.getpid()}
    identities = [ProcessIdentity.of(pid) for pid in pids]
    return [found.pid for found in identities if found is not None and found.is_alive() and not _is_tracker(found.pid)]


def _is_tracker(pid: int) -> bool:
    """The standard library's own helper, which ends with us."""
    return "multiprocessing.resource_tracker" in _command_line(pid)


def _command_line(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""
