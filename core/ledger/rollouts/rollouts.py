"""Rollouts in the ledger: begun, gone on with, stopped, taken up again."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from core.clock import now_ms
from core.errors import AlreadyExists, InvalidRequest, NotFound
from core.ledger.audit import write_act
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.ledger.database.rollout_tables import processes, rollout_hosts, rollouts
from core.ledger.rollouts.fleet import living_processes, outcomes
from core.ledger.rollouts.rolling import Plan, hosts_of, plan
from core.records.act import ActName, Actor
from core.records.rollout import Expected, FleetProcess, Rollout, RolloutHost, RolloutKind

#: Who stops a rollout, or ends one, where nobody has said so.
FLEET = Actor(who="fleet")
_RUNNING = select(rollouts.c.id).where(rollouts.c.state == "running")


@dataclass(frozen=True, kw_only=True)
class UpgradeOrder:
    """What a host's own command is to bring."""

    version: str
    limit_s: float


class Rollouts:
    """All rollouts of the fleet, of which one may run."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self,
        kind: RolloutKind,
        *,
        version: str | None,
        hosts: Sequence[str],
        at_once: int,
        timeout_s: float,
        max_failures: float,
        watch_s: float,
        by: Actor | None,
    ) -> Rollout:
        """Begin a rollout.

        Parameters:
          hosts: these, in this order; empty: all.
        Raises:
          AlreadyExists: one runs.
          InvalidRequest: nothing runs on one of the hosts, or on any.
        """
        rollout_id, now = str(uuid.uuid4()), now_ms()
        values: dict[str, Any] = {
            "id": rollout_id,
            "kind": kind,
            "version": version,
            "state": "running",
            "at_once": at_once,
            "timeout_s": timeout_s,
            "max_failures": max_failures,
            "watch_s": watch_s,
            "created_at_ms": now,
            "looked_at_ms": now,
        }
        try:
            with self._database.write() as transaction:
                connection = transaction.connection
                living = living_processes(connection)
                _check_hosts(living, hosts)
                connection.execute(insert(rollouts).values(**values))
                rows = [
                    {"rollout": rollout_id, "position": place, "host": host, "state": "waiting"}
                    for place, host in enumerate(hosts_of(living, hosts))
                ]
                connection.execute(insert(rollout_hosts), rows)
                write_act(connection, "rollout.begin", rollout_id, by, kind=kind, version=version, hosts=list(hosts))
        except Conflict as exc:
            raise AlreadyExists("A rollout runs already; see it (comfyline rollout status), or abort it.") from exc
        return self.get(rollout_id)

    def get(self, rollout_id: str) -> Rollout:
        """Return a rollout. Raises NotFound."""
        with self._database.read() as connection:
            return _read(connection, rollout_id)

    def newest(self, *, limit: int = 20) -> list[Rollout]:
        """Return the newest rollouts."""
        order = (rollouts.c.created_at_ms.desc(), rollouts.c.id.desc())
        with self._database.read() as connection:
            ids = connection.execute(select(rollouts.c.id).order_by(*order).limit(limit)).scalars().all()
            return [_read(connection, each) for each in ids]

    def resume(self, rollout_id: str, *, by: Actor | None) -> Rollout:
        """Go on with one that was stopped or aborted; hosts that have failed get another turn.

        Raises:
          NotFound: there is none.
          InvalidRequest: it is done.
          AlreadyExists: another one runs.
        """
        try:
            with self._database.write() as transaction:
                connection = transaction.connection
                found = _read(connection, rollout_id, locked=True)
                if found.state == "done":
                    raise InvalidRequest("This rollout is done; begin another one.")
                if found.state != "running":
                    values = {"state": "running", "reason": None, "ended_at_ms": None, "looked_at_ms": now_ms()}
                    connection.execute(update(rollouts).where(rollouts.c.id == rollout_id).values(**values))
                    failed = (rollout_hosts.c.rollout == rollout_id) & (rollout_hosts.c.state == "failed")
                    connection.execute(update(rollout_hosts).where(failed).values(state="waiting", began_at_ms=None))
                    write_act(connection, "rollout.resume", rollout_id, by)
        except Conflict as exc:
            raise AlreadyExists("Another rollout runs; abort that one first.") from exc
        return self.get(rollout_id)

    def abort(self, rollout_id: str, *, by: Actor | None) -> Rollout:
        """End a rollout: what has been renewed stays so, the rest is left as it is, and takes jobs.

        Raises:
          NotFound: there is none.
          InvalidRequest: it is done.
        """
        with self._database.write() as transaction:
            connection = transaction.connection
            found = _read(connection, rollout_id, locked=True)
            if found.state == "done":
                raise InvalidRequest("This rollout is done.")
            if found.state == "running":
                self._withdraw(connection, found)
                values = {"state": "aborted", "reason": "It was aborted.", "ended_at_ms": now_ms()}
                connection.execute(update(rollouts).where(rollouts.c.id == rollout_id).values(**values))
                write_act(connection, "rollout.abort", rollout_id, by)
        return self.get(rollout_id)

    def advance(self, *, choose: Callable[..., Plan] = plan) -> Rollout | None:
        """Go on with the rollout that runs; returns it as it is then, None where there is none or somebody else does.

        All that is looked at and all that follows is one transaction: whoever is killed here has done nothing.
        """
        with self._database.read() as connection:
            if connection.execute(_RUNNING).scalar() is None:
                return None
        with self._database.write() as transaction:
            connection = transaction.connection
            rollout_id = connection.execute(_RUNNING.with_for_update(skip_locked=True)).scalar()
            if rollout_id is None:
                return None
            now = now_ms()
            rollout = _read(connection, rollout_id)
            since = min((each.back_at_ms for each in rollout.hosts if each.back_at_ms is not None), default=now)
            found = choose(rollout, living_processes(connection), outcomes(connection, since), now)
            self._write(connection, rollout, found, now)
            return _read(connection, rollout_id)

    def command_for(self, process_id: str) -> UpgradeOrder | None:
        """Return what a process is to bring by its host's command; None: nothing, or it has done so."""
        for rollout in self._running():
            for host in rollout.hosts:
                is_its = host.state == "upgrading" and host.expects is not None and host.expects.runner == process_id
                if is_its and host.command is None and rollout.version is not None:
                    return UpgradeOrder(version=rollout.version, limit_s=rollout.timeout_s)
        return None

    def command_ended(self, process_id: str, said: str) -> None:
        """Note what became of the command that a process ran."""
        with self._database.write() as transaction:
            connection = transaction.connection
            # Locked, or who goes on with it in this moment would write over it.
            for rollout_id in connection.execute(_RUNNING.with_for_update()).scalars().all():
                for host in _read(connection, rollout_id).hosts:
                    if host.state == "upgrading" and host.expects is not None and host.expects.runner == process_id:
                        _update_host(connection, rollout_id, host.position, {"command": said, "moved_at_ms": now_ms()})

    def _running(self) -> list[Rollout]:
        with self._database.read() as connection:
            ids = connection.execute(_RUNNING).scalars().all()
            return [_read(connection, each) for each in ids]

    def _write(self, connection: Connection, rollout: Rollout, found: Plan, now: int) -> None:
        for host in found.hosts:
            values = {each.name: getattr(host, each.name) for each in fields(host) if each.name != "position"}
            values["expects"] = None if host.expects is None else _expects_json(host.expects)
            _update_host(connection, rollout.id, host.position, values)
        for process_id, renewal in found.orders.items():
            connection.execute(update(processes).where(processes.c.id == process_id).values(renewal=renewal))
        values = {"looked_at_ms": now, "state": found.state, "reason": found.reason}
        if found.state != "running":
            values["ended_at_ms"] = now
            act: ActName = "rollout.done" if found.state == "done" else "rollout.stop"
            write_act(connection, act, rollout.id, FLEET, **({"reason": found.reason} if found.reason else {}))
        connection.execute(update(rollouts).where(rollouts.c.id == rollout.id).values(**values))

    def _withdraw(self, connection: Connection, rollout: Rollout) -> None:
        """Take back what is wanted of processes; hosts whose turn it was get another one when it is gone on with."""
        hosts = [each.host for each in rollout.hosts]
        connection.execute(update(processes).where(processes.c.host.in_(hosts)).values(renewal=None))
        for host in rollout.hosts:
            if host.state not in ("waiting", "done", "skipped", "failed"):
                values = {"state": "waiting", "expects": None, "command": None, "began_at_ms": None}
                _update_host(connection, rollout.id, host.position, values)


def _check_hosts(living: Sequence[FleetProcess], wanted: Sequence[str]) -> None:
    known = {each.host for each in living}
    if not known:
        raise InvalidRequest("Nothing of the fleet runs that could be renewed.")
    if missing := [host for host in wanted if host not in known]:
        raise InvalidRequest(f"Nothing of the fleet runs on {', '.join(missing)}. Hosts: {', '.join(sorted(known))}.")


def _update_host(connection: Connection, rollout_id: str, position: int, values: dict[str, Any]) -> None:
    which = (rollout_hosts.c.rollout == rollout_id) & (rollout_hosts.c.position == position)
    connection.execute(update(rollout_hosts).where(which).values(**values))


def _read(connection: Connection, rollout_id: str, *, locked: bool = False) -> Rollout:
    query = select(rollouts).where(rollouts.c.id == rollout_id)
    row = connection.execute(query.with_for_update() if locked else query).one_or_none()
    if row is None:
        raise NotFound(f"There is no rollout {rollout_id}.")
    its = select(rollout_hosts).where(rollout_hosts.c.rollout == rollout_id).order_by(rollout_hosts.c.position)
    return Rollout(**row._mapping, hosts=tuple(_host(each) for each in connection.execute(its)))


def _host(row: Row[Any]) -> RolloutHost:
    values = {name: value for name, value in row._mapping.items() if name not in ("rollout", "expects")}
    return RolloutHost(**values, expects=None if row.expects is None else _expects(row.expects))


def _expects_json(expects: Expected) -> dict[str, Any]:
    return {**asdict(expects), "before": sorted(expects.before), "roles": sorted(expects.roles)}


def _expects(found: dict[str, Any]) -> Expected:
    return Expected(
        before=frozenset(found["before"]), gpus=found["gpus"], roles=frozenset(found["roles"]), runner=found["runner"]
    )
