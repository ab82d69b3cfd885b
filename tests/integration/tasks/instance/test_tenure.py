"""One worker for each instance's directory, and one for its name: a second one is refused, and nobody is taken out."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from cli.local.processes import NOT_AGAIN
from comfy.process.spec import InstanceSpec
from core.errors import ConfigurationError
from core.ledger import Ledger
from core.ledger.database.tables import instances
from core.ledger.instances import HEALTHY, STOPPED, NameOwner
from core.ledger.sealing import make_key
from core.ledger.upgrade import migrate
from core.settings import Settings
from tasks.instance.tenure import Tenure, take_or_refuse
from tests.fleet import ROOT, Fleet
from tests.ledger_moves import register, submit
from tests.services import Broker, make_settings
from tests.waiting import until

pytestmark = pytest.mark.slow

NAME = "gpu0@twin"
THIEF: dict[str, Any] = {"name": NAME, "host": "twin", "kind": "simulator", "gpu": None, "worker": "thief"}


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker) -> dict[str, str]:
    """What all machines of one fleet share; and the name that two of them have."""
    database_url = f"sqlite:///{tmp_path_factory.mktemp('ledger')}/ledger.db"
    return {
        "database_url": database_url,
        "broker_url": shared_redis.url,
        "broker_namespace": shared_redis.namespace,
        "storage_dir": str(tmp_path_factory.mktemp("storage")),
        "secret_key": make_key(),
        "host": "twin",
        "simulated_gpus": "1",
        "lease_renew_s": "0.3",
    }


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, common: dict[str, str]) -> Iterator[Fleet]:
    """A machine whose only GPU is healthy."""
    with Fleet(tmp_path_factory.mktemp("machine"), **common) as fleet:
        fleet.start("gpu0")
        yield fleet


@pytest.fixture(scope="module")
def books(machine: Fleet, common: dict[str, str]) -> Iterator[Ledger]:
    settings = Settings(data_dir=machine.data_dir, database_url=common["database_url"])
    migrate(settings)
    ledger = Ledger(settings)
    yield ledger
    ledger.close()


@pytest.fixture
def owner(books: Ledger) -> NameOwner:
    """The healthy worker that has the name."""
    until(lambda: [record.state for record in books.instances.all()] == [HEALTHY], what="a healthy GPU")
    found = books.instances.owner_of(NAME)
    assert found is not None
    return found


def is_untouched(ledger: Ledger, owner: NameOwner) -> bool:
    found = ledger.instances.owner_of(NAME)
    assert found is not None
    return found.worker == owner.worker and ledger.instances.all()[0].state == HEALTHY


@pytest.mark.parametrize("command", [("gpu",), ("worker", "gpu0")])
def test_a_second_worker_of_a_machine_is_refused(
    machine: Fleet, books: Ledger, owner: NameOwner, command: tuple[str, ...]
) -> None:
    returns = machine.log("gpu0").count("is ours again")

    refused = machine.command(*command)

    assert refused.returncode == 2, refused
    assert f"process {machine.processes['gpu0'].pid} on " in refused.stderr
    assert "gpu0 is run by another worker already" in refused.stderr
    assert is_untouched(books, owner)
    assert machine.log("gpu0").count("is ours again") == returns, "the name was taken for a moment"


def test_a_second_machine_of_the_same_name_is_refused(
    tmp_path: Path, common: dict[str, str], machine: Fleet, books: Ledger, owner: NameOwner
) -> None:
    refused = Fleet(tmp_path, **common).command("worker", "gpu0")

    assert refused.returncode == 2, refused
    last = refused.stderr.splitlines()[-1]
    assert "COMFYLINE_HOST" in last
    assert f"{NAME} belongs to another worker" in last
    assert f"process {machine.processes['gpu0'].pid}" in last
    assert is_untouched(books, owner)


def test_all_workers_of_a_second_machine_of_the_same_name_are_refused_in_one_line(
    tmp_path: Path, common: dict[str, str], machine: Fleet, books: Ledger, owner: NameOwner
) -> None:
    fleet = Fleet(tmp_path, **{**common, "simulated_gpus": "3"})
    fleet.data_dir.mkdir(mode=0o700)
    refused = fleet.command("gpu")

    assert refused.returncode == 2, refused
    [line] = [line for line in refused.stderr.splitlines() if line.startswith("comfyline: ")]
    assert f"{NAME} belongs to another worker" in line
    assert "COMFYLINE_HOST (now twin)" in line
    assert is_untouched(books, owner)
    # A worker that finds out later ends for good, and its siblings go on.
    environment = {**fleet.environment(), "UNDER_COMFYLINE": "1"}
    command = [sys.executable, "-m", "cli.main", "worker", "gpu0"]
    late = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert late.returncode == NOT_AGAIN, late


def test_an_io_worker_of_a_second_machine_of_the_same_name_is_refused(
    tmp_path: Path, common: dict[str, str], books: Ledger, owner: NameOwner
) -> None:
    # It would be sent to store files that lie on the other one.
    other: dict[str, Any] = {
        "name": "gpu0@elsewhere",
        "host": "elsewhere",
        "kind": "simulator",
        "gpu": None,
        "worker": "w",
    }
    assert owner.place is not None
    books.instances.register(**other, place=owner.place)
    fleet = Fleet(tmp_path, **{**common, "host": "elsewhere"})
    fleet.start("io")
    until(lambda: "ready." in fleet.log("io"), what="an io worker beside GPU workers of its own machine")
    assert fleet.stop("io") == 0

    books.instances.register(
        **{**other, "worker": "w2"}, place=f"{uuid.uuid4()} 1:1", over=books.instances.owner_of("gpu0@elsewhere")
    )
    refused = fleet.command("io")
    with books.database.write() as transaction:
        transaction.connection.execute(delete(instances).where(instances.c.name == "gpu0@elsewhere"))

    assert refused.returncode == 2, refused
    assert "COMFYLINE_HOST (now elsewhere)" in refused.stderr.splitlines()[-1]


def test_a_worker_whose_name_was_taken_says_so_and_takes_it_back(
    machine: Fleet, books: Ledger, owner: NameOwner
) -> None:
    # As if it had been cut off for a while.
    def take() -> bool:
        return books.instances.register(**THIEF, over=books.instances.owner_of(NAME)) is False

    until(take, what="the row")
    until(lambda: "belongs to another worker" in machine.log("gpu0"), what="a word about it")
    assert books.instances.heartbeat(NAME, worker="thief", state=HEALTHY, reason=None, is_drained=False, restarts=0), (
        "it did not take the name from one that lives"
    )

    books.instances.down(NAME, worker="thief", state=STOPPED, reason="Stopped.")

    until(lambda: is_untouched(books, owner), what="the old worker's return")
    assert books.instances.all()[0].url
    assert books.instances.catalogues(), "its nodes are recorded again"


def test_a_worker_whose_row_was_forgotten_registers_again(books: Ledger, owner: NameOwner) -> None:
    with books.database.write() as transaction:
        transaction.connection.execute(delete(instances))

    until(lambda: books.instances.all() and is_untouched(books, owner), what="the worker's return")
    assert books.instances.catalogues()


def tenure(settings: Settings, worker: str, silence_s: float = 0.2) -> Tenure:
    settings.gpu_dir("gpu0").mkdir(parents=True, exist_ok=True)
    spec = InstanceSpec(name="gpu0", gpu=None, kind="simulator", data_dir=settings.gpu_dir("gpu0"))
    return Tenure(settings, spec, worker=worker, silence_s=silence_s)


def test_a_silent_owner_loses_the_name(ledger: Ledger, ledger_settings: Settings, tmp_path: Path) -> None:
    other_machine = make_settings(tmp_path / "other", host=ledger_settings.host)
    assert tenure(ledger_settings, "old").take(ledger) is False

    # Returns without an error: nobody said a word for the time that silence may last.
    take_or_refuse(tenure(other_machine, "new"), ledger)

    newest = ledger.instances.owner_of(f"gpu0@{ledger_settings.host}")
    assert newest is not None
    assert newest.worker == "new"


def test_a_dead_predecessor_in_the_same_directory_is_succeeded_at_once(
    ledger: Ledger, ledger_settings: Settings
) -> None:
    assert tenure(ledger_settings, "old").take(ledger) is False

    assert tenure(ledger_settings, "new", silence_s=3600).take(ledger) is False


def test_an_owner_that_speaks_keeps_the_name(ledger: Ledger, ledger_settings: Settings, tmp_path: Path) -> None:
    other_machine = make_settings(tmp_path / "other", host=ledger_settings.host)
    name = f"gpu0@{ledger_settings.host}"
    assert tenure(ledger_settings, "old").take(ledger) is False

    def speak(_pause_s: float) -> None:
        ledger.instances.heartbeat(name, worker="old", state=HEALTHY, reason=None, is_drained=False, restarts=0)

    with pytest.raises(ConfigurationError, match=r"COMFYLINE_HOST \(now .*\) to another one"):
        take_or_refuse(tenure(other_machine, "new", silence_s=3600), ledger, wait=speak)


def test_nothing_is_claimed_by_a_worker_without_the_name(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    submit(ledger)

    assert ledger.claims.claim("gpu0@here", worker="another") is None
    assert ledger.claims.claim("gpu0@here", worker="w-gpu0@here") is not None
