"""Lines of waiting jobs in the ledger: which line a job stands in, and which lines have jobs.

What a line is never changes, so each process reads it once. How many jobs stand in it changes with every job, in the
transaction that moves the job (`core.ledger.database.line_counts`).
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy import Connection, Row, delete, insert, select, update

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.error_map import Conflict
from core.ledger.database.stored_fields import record_from
from core.ledger.database.tables import lines
from core.ledger.model_sets import model_set_of
from core.ledger.scheduling.learned import Costs
from core.ledger.scheduling.line_changes import LineCount, Mark, read_changes
from core.ledger.scheduling.reach import Outgrown, Reach, Sort
from core.records.access import DEFAULT_TENANT
from core.records.model_file import AWAITS_FILES
from core.records.requirements import Requirements
from core.scheduling.lines import Line, ModelSet

#: How long a process goes by what it knows of a line's id, and after how long without a job a line is removed.
KNOWN_S, UNUSED_MS = 3600.0, 7 * 24 * 3600 * 1000
#: One that is found is noted as used, unless it was used so lately.
TOUCHED_MS = 24 * 3600 * 1000

_WHAT_IT_IS = select(
    *(lines.c[name] for name in ("id", "priority", "tenant", "files", "catalogues", "requires", "avoids", "batch"))
)


@dataclass(frozen=True, kw_only=True)
class LineKind:
    """What the jobs of a line have in common."""

    priority: int
    #: Model files that their graphs load.
    files: tuple[str, ...] = ()
    #: Digests of the catalogues they may run on, joined by commas; None means any.
    catalogues: str | None = None
    requires: Requirements | None = None
    #: As `line_tenant` says.
    tenant: str = ""
    #: Kinds of GPU whose memory did not suffice: its jobs are kept off them, as long as others can run them.
    avoids: tuple[Outgrown, ...] = ()
    #: The batch of its jobs, where that has a gate.
    batch: str = ""

    @cached_property
    def digest(self) -> str:
        """A hash of all of it."""
        requires = (self.requires.to_json() if self.requires else None) or None
        what: list[object] = [self.priority, self.tenant, list(self.files), self.catalogues, requires]
        if self.avoids:
            what.append(self.avoids)
        if self.batch:
            # Apart from the above, so that no line of an earlier version becomes another.
            what.append({"batch": self.batch})
        return hashlib.sha256(json.dumps(what, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def models(self) -> ModelSet:
        """The name of its set of model files."""
        return model_set_of(self.files)

    @cached_property
    def accepted(self) -> frozenset[str] | None:
        """Digests of the catalogues its jobs may run on; None means any."""
        return accepted_of(self.catalogues)

    @property
    def awaits_files(self) -> bool:
        """Whether its jobs wait for model files that can be fetched."""
        return self.accepted is not None and AWAITS_FILES in self.accepted

    @cached_property
    def work(self) -> ModelSet:
        """Names its models together with the GPUs that may have them: those which others hold are of no use to it."""
        if not self.files or (self.catalogues is None and self.requires is None and not self.avoids):
            return self.models
        places: list[object] = [self.catalogues, self.requires.to_json() if self.requires else None]
        if self.avoids:
            places.append(self.avoids)
        where = json.dumps(places)
        return f"{self.models}:{hashlib.sha256(where.encode()).hexdigest()[:16]}"

    def runs_on(self, sort: Sort) -> bool:
        """Return whether instances of a sort have what its jobs need; memory they may still run out of."""
        if self.accepted is not None and sort.catalogue not in self.accepted:
            return False
        return self.requires is None or self.requires.are_met_by(pool=sort.pool, vram_bytes=sort.vram_bytes)

    def is_kept_off(self, sort: Sort) -> bool:
        """Return whether its jobs would run out of memory on instances of a sort."""
        return any(each.is_no_smaller_than(sort) for each in self.avoids)

    def suits(self, sort: Sort) -> bool:
        """Return whether its jobs can run on instances of a sort, as far as that is known."""
        return self.runs_on(sort) and not self.is_kept_off(sort)


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingLine:
    """A line that has jobs."""

    id: int
    kind: LineKind
    waiting: int
    head_ms: int
    #: The nearest time by which one of its jobs has to begin.
    start_by_ms: int | None

    def drawn(self, run_s: float) -> Line:
        """Return it as the policy sees it.

        Parameters:
          run_s: how long one of its jobs runs where its models are held.
        """
        return Line(
            id=self.id,
            priority=self.kind.priority,
            tenant=self.kind.tenant,
            models=self.kind.work,
            waiting=self.waiting,
            since_s=self.head_ms / 1000,
            run_s=run_s,
            start_by_s=None if self.start_by_ms is None else self.start_by_ms / 1000,
        )


class Lines:
    """The lines of a fleet, as one process knows them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._kinds: dict[int, LineKind] = {}
        #: By digest: the line's id, and since when it is known.
        self._ids: dict[str, tuple[int, float]] = {}
        #: As they were when last read, and up to where that was: most are the same the next time.
        self._last: tuple[dict[int, WaitingLine], Mark | None] = ({}, None)
        #: As the policy last saw them, of which lines, and by which costs.
        self._drawn: tuple[dict[int, Line], dict[int, WaitingLine], Costs | None] = ({}, {}, None)
        self._reach = Reach({})
        self._has_tenants = self._has_batches = False

    def id_of(self, kind: LineKind) -> int:
        """Return the line of a kind, made if there is none; in a transaction of its own, for it outlives any other.

        Raises: LedgerUnavailable.
        """
        known = self._ids.get(kind.digest)
        if known is not None and time.monotonic() - known[1] < KNOWN_S:
            return known[0]
        line_id = self._found(kind)
        if line_id is None:
            try:
                line_id = self._made(kind)
            except Conflict:
                # Another process made it in the same moment.
                line_id = self._found(kind)
        assert line_id is not None
        with self._lock:
            self._ids[kind.digest] = (line_id, time.monotonic())
            self._keep({line_id: kind})
        return line_id

    def kind_of(self, connection: Connection, line_id: int) -> LineKind | None:
        """Return what a line is; None if it is not there."""
        self._learn(connection, [line_id])
        return self._kinds.get(line_id)

    def kinds_of(self, connection: Connection, line_ids: Collection[int]) -> dict[int, LineKind]:
        """Return what several lines are; those that are not there are left out."""
        self._learn(connection, line_ids)
        return {line_id: self._kinds[line_id] for line_id in line_ids if line_id in self._kinds}

    def kinds(self) -> list[LineKind]:
        """Return the kinds of the lines that this process knows."""
        return list(self._kinds.values())

    def waiting(self, connection: Connection) -> list[WaitingLine]:
        """Return the lines that have jobs."""
        before, mark = self._last
        changes = read_changes(connection, mark)
        changed = [count for count in changes.counts if _is_new(count, before.get(count[0]))]
        self._learn(connection, [count[0] for count in changed])
        if changes.is_all:
            with_jobs = {count[0] for count in changes.counts}
            found = {line_id: line for line_id, line in before.items() if line_id in with_jobs}
        else:
            found = before.copy()
        for line_id, waiting, head_ms, start_by_ms in changed:
            kind = self._kinds.get(line_id)
            if waiting > 0 and kind is not None:
                found[line_id] = WaitingLine(
                    id=line_id, kind=kind, waiting=waiting, head_ms=head_ms or 0, start_by_ms=start_by_ms
                )
            else:
                found.pop(line_id, None)
        # At once, for another thread may be at it.
        self._last = found, changes.mark
        return list(found.values())

    @property
    def has_tenants(self) -> bool:
        """Whether this process knows lines of others than the tenant `default`."""
        return self._has_tenants

    @property
    def has_batches(self) -> bool:
        """Whether this process knows lines of batches that have a gate, or had one."""
        return self._has_batches

    @property
    def reach(self) -> Reach:
        """What follows from the kinds of the lines that this process knows."""
        if self._reach.size != len(self._kinds):
            with self._lock:
                self._reach = Reach(self._kinds)
        return self._reach

    def reach_with(self, others: Mapping[int, LineKind]) -> Reach:
        """Return the same of these lines as well, which are in no ledger."""
        return Reach({**self._kinds, **others}) if others else self.reach

    def drawn(self, waiting: Iterable[WaitingLine], costs: Costs) -> dict[int, Line]:
        """Return lines as the policy sees them, by id."""
        drawn, before, by_costs = self._drawn
        found = {each.id: each for each in waiting}
        if by_costs is costs:
            changed = [each for each in found.values() if before.get(each.id) is not each]
            drawn = drawn.copy()
        else:
            changed, drawn = list(found.values()), {}
        for each in changed:
            drawn[each.id] = each.drawn(costs.run_s(each.kind.models))
        if len(drawn) > len(found):
            drawn = {line_id: line for line_id, line in drawn.items() if line_id in found}
        self._drawn = drawn, found, costs
        return drawn.copy()

    def forget_unused(self) -> None:
        """Remove lines in which nobody stood for a week."""
        unused = (lines.c.waiting <= 0, lines.c.updated_at_ms < now_ms() - UNUSED_MS)
        with self._database.write() as transaction:
            transaction.connection.execute(delete(lines).where(*unused))

    def _found(self, kind: LineKind) -> int | None:
        query = select(lines.c.id, lines.c.updated_at_ms).where(lines.c.digest == kind.digest)
        with self._database.read() as connection:
            found = connection.execute(query).one_or_none()
        if found is None:
            return None
        if found.updated_at_ms < now_ms() - TOUCHED_MS:
            # So that nobody removes it while this process goes by its id.
            with self._database.write() as transaction:
                touched = update(lines).where(lines.c.id == found.id).values(updated_at_ms=now_ms())
                if not transaction.connection.execute(touched).rowcount:
                    return None
        return int(found.id)

    def _made(self, kind: LineKind) -> int:
        values = {
            "digest": kind.digest,
            "priority": kind.priority,
            "tenant": kind.tenant,
            "models": kind.models,
            "files": list(kind.files),
            "catalogues": kind.catalogues,
            "requires": (kind.requires.to_json() if kind.requires else None) or None,
            "avoids": list(kind.avoids) or None,
            "batch": kind.batch,
            "waiting": 0,
            "updated_at_ms": now_ms(),
        }
        with self._database.write() as transaction:
            made: int = transaction.connection.execute(
                insert(lines).values(**values).returning(lines.c.id)
            ).scalar_one()
        return made

    def _learn(self, connection: Connection, line_ids: Collection[int]) -> None:
        missing = [line_id for line_id in line_ids if line_id not in self._kinds]
        if not missing:
            return
        found = _kinds_of(connection.execute(_WHAT_IT_IS.where(lines.c.id.in_(missing))))
        with self._lock:
            self._keep(found)

    def _keep(self, kinds: Mapping[int, LineKind]) -> None:
        self._kinds.update(kinds)
        self._has_tenants = self._has_tenants or any(kind.tenant != "" for kind in kinds.values())
        self._has_batches = self._has_batches or any(kind.batch != "" for kind in kinds.values())


def line_tenant(tenant: str) -> str:
    """Return what lines call a tenant: `default` has no name there, for its lines are older than tenants."""
    return "" if tenant == DEFAULT_TENANT else tenant


def accepted_of(catalogues: str | None) -> frozenset[str] | None:
    """Return which catalogues a job accepts, from its column `catalogues`; None means any."""
    return None if catalogues is None else frozenset(catalogues.split(","))


def _is_new(count: LineCount, before: WaitingLine | None) -> bool:
    if before is None:
        return count[1] > 0
    return (before.waiting, before.head_ms, before.start_by_ms) != (count[1], count[2] or 0, count[3])


def _kinds_of(rows: Iterable[Row[tuple[object, ...]]]) -> dict[int, LineKind]:
    return {
        row.id: LineKind(
            priority=row.priority,
            tenant=row.tenant,
            files=tuple(row.files or ()),
            catalogues=row.catalogues,
            requires=record_from(Requirements, row.requires),
            avoids=tuple(Outgrown(*each) for each in row.avoids or ()),
            batch=row.batch,
        )
        for row in rows
    }
