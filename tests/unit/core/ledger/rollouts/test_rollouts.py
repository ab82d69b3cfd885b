"""Rollouts in the ledger: one at a time, gone on with by whoever asks, stopped, aborted and taken up again."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from core.errors import AlreadyExists, InvalidRequest, NotFound
from core.ledger import Ledger
from core.ledger.database.rollout_tables import processes, rollouts
from core.ledger.database.tables import instances
from core.records.act import Actor
from core.records.rollout import ANEW, COMMAND_OK, UPGRADE, Renewal, Rollout
from tests.ledger_moves import claimed

BY = Actor(who="somebody")
ORDER: dict[str, Any] = {"version": None, "hosts": [], "at_once": 1, "timeout_s": 60.0, "max_failures": 0.2}
ORDER |= {"watch_s": 0.0, "by": BY}


def come_up(ledger: Ledger, host: str, worker: str, *, program: str = "1.0") -> None:
    """A healthy GPU of a host, and its worker."""
    name = f"gpu0@{host}"
    ledger.instances.register(name=name, host=host, worker=worker, kind="simulator", gpu="0", place=host)
    up: dict[str, Any] = {
        "url": "u",
        "output_dir": None,
        "version": "1",
        "device": "d",
        "object_info": {},
        "restarts": 0,
    }
    ledger.instances.up(name, worker=worker, **up)
    ledger.processes.note(worker, role="gpu", host=host, program=program, can_upgrade=False)


def io_worker(ledger: Ledger, host: str, name: str, *, program: str = "1.0", can_upgrade: bool = True) -> None:
    ledger.processes.note(name, role="io", host=host, program=program, can_upgrade=can_upgrade)


def states(rollout: Rollout | None) -> dict[str, str]:
    assert rollout is not None
    return {host.host: host.state for host in rollout.hosts}


def orders(ledger: Ledger, *names: str) -> list[Renewal | None]:
    return [ledger.processes.wanted(name) for name in names]


def acts(ledger: Ledger) -> list[tuple[str, str]]:
    return [(act.act, act.by.who) for act in ledger.audit.page()][::-1]


@pytest.fixture
def fleet(ledger: Ledger) -> Ledger:
    for host in ("a", "b"):
        come_up(ledger, host, f"w-{host}")
    return ledger


def test_a_restart_from_its_beginning_to_its_end(fleet: Ledger) -> None:
    begun = fleet.rollouts.begin("restart", **ORDER)
    assert (begun.state, states(begun)) == ("running", {"a": "waiting", "b": "waiting"})
    assert states(fleet.rollouts.advance()) == {"a": "renewing", "b": "waiting"}
    assert orders(fleet, "w-a", "w-b") == [ANEW, None]
    come_up(fleet, "a", "w2-a")
    assert states(fleet.rollouts.advance()) == {"a": "watched", "b": "waiting"}
    assert states(fleet.rollouts.advance()) == {"a": "done", "b": "renewing"}
    come_up(fleet, "b", "w2-b")
    fleet.rollouts.advance()
    done = fleet.rollouts.advance()
    assert done is not None
    assert (done.state, done.reason, states(done)) == ("done", None, {"a": "done", "b": "done"})
    assert done.ended_at_ms is not None
    assert fleet.rollouts.advance() is None
    assert acts(fleet) == [("rollout.begin", "somebody"), ("rollout.done", "fleet")]


def test_there_is_one_at_a_time(fleet: Ledger) -> None:
    first = fleet.rollouts.begin("restart", **ORDER)
    with pytest.raises(AlreadyExists, match="runs already"):
        fleet.rollouts.begin("restart", **ORDER)
    fleet.rollouts.abort(first.id, by=BY)
    second = fleet.rollouts.begin("restart", **ORDER)
    with pytest.raises(AlreadyExists, match="Another rollout runs"):
        fleet.rollouts.resume(first.id, by=BY)
    assert [each.id for each in fleet.rollouts.newest()] == [second.id, first.id]
    assert [each.id for each in fleet.rollouts.newest(limit=1)] == [second.id]


def test_hosts_have_to_be_there(ledger: Ledger) -> None:
    with pytest.raises(InvalidRequest, match="Nothing of the fleet runs that"):
        ledger.rollouts.begin("restart", **ORDER)
    come_up(ledger, "a", "w")
    with pytest.raises(InvalidRequest, match=r"runs on z\. Hosts: a\."):
        ledger.rollouts.begin("restart", **ORDER | {"hosts": ["a", "z"]})
    assert acts(ledger) == []
    with pytest.raises(NotFound):
        ledger.rollouts.get("none")


def test_an_abort_takes_back_what_was_wanted_and_it_can_be_taken_up_again(fleet: Ledger) -> None:
    begun = fleet.rollouts.begin("restart", **ORDER)
    fleet.rollouts.advance()
    aborted = fleet.rollouts.abort(begun.id, by=BY)
    assert (aborted.state, states(aborted)) == ("aborted", {"a": "waiting", "b": "waiting"})
    assert orders(fleet, "w-a", "w-b") == [None, None]
    assert fleet.rollouts.advance() is None
    assert fleet.rollouts.resume(begun.id, by=BY).state == "running"
    assert states(fleet.rollouts.advance()) == {"a": "renewing", "b": "waiting"}


def test_one_that_is_done_stays_so(ledger: Ledger) -> None:
    come_up(ledger, "a", "w", program="2.0")
    done = ledger.rollouts.begin("upgrade", **ORDER | {"version": "2.0"})
    ledger.rollouts.advance()
    assert states(ledger.rollouts.get(done.id)) == {"a": "skipped"}
    for again in (ledger.rollouts.resume, ledger.rollouts.abort):
        with pytest.raises(InvalidRequest, match="done"):
            again(done.id, by=BY)


def test_one_that_has_stopped_gives_its_failed_host_another_turn(fleet: Ledger) -> None:
    begun = fleet.rollouts.begin("restart", **ORDER | {"timeout_s": 0.0})
    fleet.rollouts.advance()
    stopped = fleet.rollouts.advance()
    assert stopped is not None
    assert (stopped.state, states(stopped)) == ("stopped", {"a": "failed", "b": "waiting"})
    assert "gpu0@a" in str(stopped.reason)
    assert acts(fleet)[-1] == ("rollout.stop", "fleet")
    resumed = fleet.rollouts.resume(begun.id, by=BY)
    assert (resumed.state, resumed.reason, states(resumed)) == ("running", None, {"a": "waiting", "b": "waiting"})


def test_a_job_that_runs_is_seen_and_waited_for(fleet: Ledger) -> None:
    fleet.rollouts.begin("restart", **ORDER | {"timeout_s": 0.0, "hosts": ["a"]})
    fleet.rollouts.advance()
    claimed(fleet, "gpu0@a")
    assert states(fleet.rollouts.advance()) == {"a": "renewing"}


def test_the_command_of_a_host_is_one_process_of_its(ledger: Ledger) -> None:
    come_up(ledger, "a", "w")
    io_worker(ledger, "a", "io")
    ledger.rollouts.begin("upgrade", **ORDER | {"version": "2.0", "timeout_s": 7.0})
    assert ledger.rollouts.command_for("io") is None
    ledger.rollouts.advance()
    with ledger.database.write() as transaction:
        transaction.connection.execute(update(instances).values(state="draining"))
    assert states(ledger.rollouts.advance()) == {"a": "upgrading"}
    assert orders(ledger, "w", "io") == ["drain", UPGRADE]
    order = ledger.rollouts.command_for("io")
    assert order is not None
    assert (order.version, order.limit_s) == ("2.0", 7.0)
    assert ledger.rollouts.command_for("w") is None

    ledger.rollouts.command_ended("w", "not its own")
    ledger.rollouts.command_ended("io", COMMAND_OK)
    assert ledger.rollouts.command_for("io") is None
    assert states(ledger.rollouts.advance()) == {"a": "renewing"}
    assert orders(ledger, "w", "io") == [ANEW, ANEW]


def test_who_has_fallen_silent_or_stopped_is_not_there(fleet: Ledger) -> None:
    io_worker(fleet, "c", "io")
    with fleet.database.write() as transaction:
        transaction.connection.execute(update(instances).where(instances.c.host == "a").values(heartbeat_at_ms=0))
        transaction.connection.execute(update(processes).where(processes.c.id == "io").values(at_ms=0))
    fleet.instances.down("gpu0@b", worker="w-b", state="stopped", reason="")
    with pytest.raises(InvalidRequest):
        fleet.rollouts.begin("restart", **ORDER)


def test_processes_are_forgotten_when_they_end_and_when_they_are_silent_for_long(fleet: Ledger) -> None:
    for name in ("io", "other"):
        io_worker(fleet, "a", name)
    fleet.processes.forget("io")
    come_up(fleet, "a", "w2-a")
    with fleet.database.write() as transaction:
        transaction.connection.execute(update(processes).values(at_ms=0))
    fleet.processes.forget_silent()
    with fleet.database.read() as connection:
        left = set(connection.execute(processes.select()).scalars())
    assert left == {"w2-a", "w-b"}, "GPU workers give their signs of life elsewhere"


def test_whoever_looks_is_noted(fleet: Ledger) -> None:
    begun = fleet.rollouts.begin("restart", **ORDER)
    with fleet.database.write() as transaction:
        transaction.connection.execute(update(rollouts).values(looked_at_ms=0))
    fleet.rollouts.advance()
    assert fleet.rollouts.get(begun.id).looked_at_ms > 0
