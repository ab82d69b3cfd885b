"""ComfyUI instances as the ledger knows them: who is there, what state, which nodes they offer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, delete, false, insert, null, or_, select, update

from core.clock import DAY_MS, now_ms
from core.ledger.catalogues import ModelSizes, keep_catalogue, read_catalogue
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.ledger.database.fleet_tables import catalogues
from core.ledger.database.tables import instances, jobs
from core.ledger.model_sets import model_set_of
from core.ledger.resident_sets import keep_only, put_sets, sets_within
from core.records.instance import HeldModel, InstanceRecord
from core.records.job import LEASED
from core.records.requirements import KnownGpu

#: What an instance is, as far as jobs are concerned; only a healthy one takes any.
STARTING, HEALTHY, UNHEALTHY, STOPPED = "starting", "healthy", "unhealthy", "stopped"
#: Its worker failed too often to keep it running, and lets it rest.
QUARANTINED = "quarantined"
#: It takes no more jobs, because an operator or a stop wants so: while it still runs one, and afterwards.
DRAINING, DRAINED = "draining", "drained"
#: It answers, but its disk has too little room for outputs.
DISK_FULL = "disk_full"
#: Its worker has fallen silent.
LOST = "lost"
#: States in which it answers.
ANSWERING = frozenset({HEALTHY, DRAINING, DISK_FULL})
#: An instance not heard of for this long is not counted on; its worker speaks every `lease_renew_s`.
SILENCE_MS = 20_000
#: Rows of instances that have been silent for this long are removed.
FORGET_MS = DAY_MS


@dataclass(frozen=True, kw_only=True)
class NameOwner:
    """The worker that has an instance's name, as it was when somebody looked."""

    worker: str
    pid: int | None
    place: str | None
    heartbeat_at_ms: int

    def __str__(self) -> str:
        words = f"worker {self.worker}"
        if self.pid is not None:
            words += f", process {self.pid}"
        return words if not self.place else f"{words}, on the machine with boot id {self.place.partition(' ')[0]}"


def is_alive() -> ColumnElement[bool]:
    """Return the condition that an instance is healthy, and its worker was heard of lately."""
    return and_(instances.c.state == HEALTHY, instances.c.heartbeat_at_ms > now_ms() - SILENCE_MS)


_OWNERS = select(*(getattr(instances.c, field.name) for field in fields(NameOwner)))


class Instances:
    """The fleet's GPUs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def register(
        self,
        *,
        name: str,
        host: str,
        worker: str,
        kind: str,
        gpu: str | None,
        place: str | None = None,
        pid: int | None = None,
        over: NameOwner | None = None,
        pool: str | None = None,
    ) -> bool | None:
        """Give a worker the row of this name: one that is free, its own, or that of its predecessor in its place.

        Parameters:
          place: names the directory that this worker holds, so that nobody else can live there.
          pool: jobs may require it, and wait for the instance to come up.
          over: another worker that has fallen silent; it loses the row if it has not spoken since it was looked at.
        Returns: whether the instance is to be drained; None when the row is another worker's.
        """
        now = now_ms()
        values: dict[str, Any] = {"host": host, "worker": worker, "kind": kind, "gpu": gpu, "state": STARTING}
        values |= {"restarts": 0, "reason": None, "url": None, "started_at_ms": now, "heartbeat_at_ms": now}
        values |= {"up_since_ms": None, "quarantined_until_ms": None, "place": place, "pid": pid}
        values |= {"has_queue": True, "free_at_ms": None, "pool": pool, "yields": None}
        # One that comes anew after its host was given back takes jobs; a worker that had died there does not.
        has_left = _has_left(place)
        anew = {
            "is_drained": case((has_left, false()), else_=instances.c.is_drained),
            "leaving_since_ms": case((has_left, null()), else_=instances.c.leaving_since_ms),
        }
        is_ours = _is_free_for(worker, place, over)
        try:
            with self._database.write() as transaction:
                drained = transaction.connection.execute(
                    update(instances)
                    .where(instances.c.name == name, is_ours)
                    .values(**values, **anew)
                    .returning(instances.c.is_drained)
                ).scalar()
                if drained is not None:
                    return bool(drained)
                there = select(instances.c.name).where(instances.c.name == name)
                if transaction.connection.execute(there).scalar() is not None:
                    return None
                transaction.connection.execute(insert(instances).values(name=name, **values))
        except Conflict:
            # Another worker made the row in the same moment.
            return None
        return False

    def owners_on(self, host: str) -> list[NameOwner]:
        """Return the workers of a host that were heard of lately."""
        speaks = and_(instances.c.state != STOPPED, instances.c.heartbeat_at_ms > now_ms() - SILENCE_MS)
        with self._database.read() as connection:
            rows = connection.execute(_OWNERS.where(instances.c.host == host, speaks)).all()
        return [NameOwner(**row._mapping) for row in rows]

    def owner_of(self, name: str) -> NameOwner | None:
        """Return the worker that has this name now; None if there is none."""
        with self._database.read() as connection:
            row = connection.execute(_OWNERS.where(instances.c.name == name)).one_or_none()
        return None if row is None else NameOwner(**row._mapping)

    def up(
        self,
        name: str,
        *,
        worker: str,
        url: str,
        output_dir: str | None,
        version: str | None,
        device: str | None,
        object_info: Mapping[str, Any],
        restarts: int,
        warmup_s: float | None = None,
        state: str = HEALTHY,
        reason: str | None = None,
        pool: str | None = None,
        vram_bytes: int | None = None,
        memory_bytes: int = 0,
        model_sizes: Mapping[str, int] | None = None,
        held: Sequence[str] = (),
        fetches_models: bool = False,
    ) -> None:
        """Record that an instance answers, where it is, and which nodes it offers.

        Parameters:
          pool, vram_bytes: what jobs may require.
          memory_bytes: how many bytes of models it keeps beside those of its last prompt.
          model_sizes: `{name: bytes}` of its model files, where it tells.
          held: model files that its warm-up has loaded.
          fetches_models: whether its host fetches model files of the manifest.
        """
        sizes = model_sizes or {}
        digest = keep_catalogue(self._database, object_info, sizes)
        now = now_ms()
        values: dict[str, Any] = {"state": state, "reason": reason, "url": url, "output_dir": output_dir}
        values |= {"version": version, "device": device, "catalogue": digest, "restarts": restarts}
        values |= {"warmup_s": warmup_s, "quarantined_until_ms": None, "up_since_ms": now, "heartbeat_at_ms": now}
        # Another process now answers, with nothing else in its memory.
        values |= {"held": [[file, sizes.get(file)] for file in sorted(set(held))] or None}
        values |= {"pool": pool, "vram_bytes": vram_bytes, "memory_bytes": memory_bytes, "free_at_ms": None}
        values["fetches_models"] = fetches_models
        self._set(name, worker, values, holds=held)

    def down(self, name: str, *, worker: str, state: str, reason: str) -> None:
        """Record that an instance is not usable (`unhealthy`), or that its worker goes (`stopped`)."""
        values: dict[str, Any] = {"state": state, "reason": reason, "up_since_ms": None}
        self._set(name, worker, values | {"heartbeat_at_ms": now_ms()})

    def heartbeat(
        self,
        name: str,
        *,
        worker: str,
        state: str,
        reason: str | None,
        is_drained: bool,
        restarts: int,
        quarantined_until_ms: int | None = None,
        vram_used_bytes: int | None = None,
    ) -> bool:
        """Record that the instance's worker is alive, and how the instance stands towards jobs.

        Returns: False when there is no row of this worker: it is another worker's now, or was forgotten.
        """
        values: dict[str, Any] = {"state": state, "reason": reason, "is_drained": is_drained, "restarts": restarts}
        values |= {"quarantined_until_ms": quarantined_until_ms, "heartbeat_at_ms": now_ms()}
        values["vram_used_bytes"] = vram_used_bytes
        if state not in ANSWERING:
            values["up_since_ms"] = None
        return self._set(name, worker, values)

    def offers(
        self,
        name: str,
        *,
        worker: str,
        object_info: Mapping[str, Any],
        model_sizes: Mapping[str, int] | None = None,
    ) -> None:
        """Record that an instance that is up offers other nodes or files than before."""
        self._set(name, worker, {"catalogue": keep_catalogue(self._database, object_info, model_sizes or {})})

    def has_looked(self, name: str, *, worker: str) -> None:
        """Note that its worker looked for new files because it was asked to; what it found is recorded."""
        self._set(name, worker, {"looks": instances.c.looks + 1})

    def looks(self) -> dict[str, int]:
        """Return how often the worker of each healthy instance looked because it was asked to."""
        with self._database.read() as connection:
            rows = connection.execute(select(instances.c.name, instances.c.looks).where(is_alive())).all()
        return {row.name: row.looks for row in rows}

    def get(self, name: str) -> InstanceRecord | None:
        """Return one instance, or None."""
        with self._database.read() as connection:
            row = connection.execute(select(instances).where(instances.c.name == name)).one_or_none()
        return None if row is None else _record(row, None)

    def all(self) -> list[InstanceRecord]:
        """Return every instance lately heard of, by name, with the job each runs."""
        running = select(jobs.c.instance, jobs.c.id).where(jobs.c.status.in_(sorted(LEASED)))
        with self._database.read() as connection:
            rows = connection.execute(select(instances).order_by(instances.c.name)).all()
            job_ids: dict[str, str] = {row.instance: row.id for row in connection.execute(running)}
        return [_record(row, job_ids.get(row.name)) for row in rows]

    def holds_jobs(self, name: str) -> bool:
        """Return whether an instance runs a job, or has one on deck."""
        held = select(jobs.c.id).where(jobs.c.instance == name, jobs.c.status.in_(sorted(LEASED))).limit(1)
        with self._database.read() as connection:
            return connection.execute(held).scalar() is not None

    def leave(self, hosts: Collection[str]) -> None:
        """Note that hosts are given back; those of which it was noted before keep their time."""
        what = and_(instances.c.host.in_(sorted(hosts)), instances.c.leaving_since_ms.is_(None))
        with self._database.write() as transaction:
            transaction.connection.execute(update(instances).where(what).values(leaving_since_ms=now_ms()))

    def stay(self, name: str) -> None:
        """Note that an instance is not given back, whatever was said of its host before."""
        with self._database.write() as transaction:
            transaction.connection.execute(
                update(instances).where(instances.c.name == name).values(leaving_since_ms=None)
            )

    def catalogues(self) -> dict[str, list[str]]:
        """Return `{digest: [instance, ...]}` of the healthy instances."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(instances.c.catalogue, instances.c.name).where(is_alive()).order_by(instances.c.name)
            ).all()
        found: dict[str, list[str]] = {}
        for row in rows:
            found.setdefault(row.catalogue, []).append(row.name)
        return found

    def known_catalogues(self) -> list[str]:
        """Return the digests of every instance that ever answered, healthy now or not."""
        query = select(instances.c.catalogue).where(instances.c.catalogue.is_not(None)).distinct()
        with self._database.read() as connection:
            return [str(digest) for digest in connection.execute(query.order_by(instances.c.catalogue)).scalars()]

    def known_gpus(self) -> list[KnownGpu]:
        """Return what there is to be had of each instance that is known, healthy now or not."""
        what = (instances.c.catalogue, instances.c.pool, instances.c.vram_bytes, instances.c.fetches_models)
        columns = (*what, is_alive().label("is_alive"))
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).order_by(instances.c.name)).all()
        return [KnownGpu(**{**row._mapping, "is_alive": bool(row.is_alive)}) for row in rows]

    def catalogue(self, digest: str) -> dict[str, Any]:
        """Return a recorded `/object_info`; `{}` when it is gone."""
        with self._database.read() as connection:
            return read_catalogue(connection, digest)

    def model_names(self, digests: Iterable[str]) -> dict[str, frozenset[str]]:
        """Return the model files that instances with these catalogues have; none where they do not tell."""
        sizes = ModelSizes()
        with self._database.read() as connection:
            return {digest: frozenset(sizes.of(connection, digest)) for digest in digests}

    def forget_silent(self) -> None:
        """Remove instances not heard of for a day, unless an operator drained them, and catalogues nobody uses."""
        used = select(instances.c.catalogue).where(instances.c.catalogue.is_not(None))
        with self._database.write() as transaction:
            is_kept = and_(instances.c.is_drained, instances.c.leaving_since_ms.is_(None))
            silent = and_(instances.c.heartbeat_at_ms < now_ms() - FORGET_MS, ~is_kept)
            transaction.connection.execute(delete(instances).where(silent))
            transaction.connection.execute(
                delete(catalogues).where(
                    catalogues.c.digest.not_in(used), catalogues.c.created_at_ms < now_ms() - FORGET_MS
                )
            )

    def doubt_models(self, name: str, *, worker: str, models: Sequence[str]) -> None:
        """Note that an instance had to load models that it was taken to hold: it keeps fewer than was thought."""
        query = select(instances.c.held).where(instances.c.name == name, instances.c.worker == worker)
        with self._database.read() as connection:
            held = connection.execute(query).scalar() or ()
        # Its last prompt used them, so it holds these now and nothing of before.
        kept = [file for file in held if file[0] in models]
        if len(kept) < len(held) and self._set(name, worker, {"held": kept}):
            with self._database.write() as transaction:
                keep_only(transaction.connection, name, model_set_of(models))

    def forget_models(self, name: str, *, worker: str) -> None:
        """Note that an instance holds no models any more: it freed its memory, or ran out of it."""
        self._set(name, worker, {"held": None}, holds=())

    def _set(self, name: str, worker: str, values: dict[str, Any], *, holds: Sequence[str] | None = None) -> bool:
        """Write into a row.

        Parameters:
          holds: the model files that the instance holds now, and no others; None: as before.
        """
        # Only the worker that registered last may speak for the row: one that was replaced changes nothing.
        with self._database.write() as transaction:
            connection = transaction.connection
            changed = connection.execute(
                update(instances).where(instances.c.name == name, instances.c.worker == worker).values(**values)
            )
            if changed.rowcount > 0 and holds is not None:
                put_sets(connection, name, sets_within(connection, holds))
        return changed.rowcount > 0


def _is_free_for(worker: str, place: str | None, over: NameOwner | None) -> ColumnElement[bool]:
    ways: list[ColumnElement[bool]] = [instances.c.worker == worker, instances.c.state == STOPPED]
    if place is not None:
        ways.append(instances.c.place == place)
    if over is not None:
        ways.append(and_(instances.c.worker == over.worker, instances.c.heartbeat_at_ms == over.heartbeat_at_ms))
    return or_(*ways)


def _has_left(place: str | None) -> ColumnElement[bool]:
    """Return the condition that an instance's host was given back, and gone before a worker came in this place."""
    gone = [instances.c.state == STOPPED]
    if place is not None:
        gone.append(instances.c.place != place)
    return and_(instances.c.leaving_since_ms.is_not(None), or_(*gone))


def listed_state(state: str, *, is_silent: bool, is_at_work: bool) -> str:
    """Return the state in which an instance is listed, from that which its worker wrote."""
    if is_silent and state != STOPPED:
        return LOST
    return DRAINED if state == DRAINING and not is_at_work else state


def _record(row: Row[Any], job_id: str | None) -> InstanceRecord:
    is_silent = row.heartbeat_at_ms < now_ms() - SILENCE_MS
    is_today = row.loads_day == now_ms() // DAY_MS
    state = listed_state(row.state, is_silent=is_silent, is_at_work=job_id is not None)
    lost = state == LOST
    up_since_ms = None if lost else row.up_since_ms
    # The row keeps what it says of a process that answers no more until the next one is up, which begins with nothing.
    held = row.held if up_since_ms is not None else None
    return InstanceRecord(
        name=row.name,
        host=row.host,
        worker=row.worker,
        kind=row.kind,
        gpu=row.gpu,
        state=state,
        reason="Its worker has fallen silent." if lost else row.reason,
        url=row.url,
        output_dir=row.output_dir,
        version=row.version,
        device=row.device,
        warmup_s=row.warmup_s,
        quarantined_until_ms=row.quarantined_until_ms,
        restarts=row.restarts,
        started_at_ms=row.started_at_ms,
        up_since_ms=up_since_ms,
        heartbeat_at_ms=row.heartbeat_at_ms,
        pool=row.pool,
        vram_bytes=row.vram_bytes,
        held=tuple(HeldModel(name=name, size_bytes=size) for name, size in held or ()),
        loads=row.loads if is_today else 0,
        loading_s=row.loading_s if is_today else 0.0,
        job_id=job_id,
    )
