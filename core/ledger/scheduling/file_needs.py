"""What decides which host fetches which model files: the hosts that can, and the jobs that wait or run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, select

from core.clock import now_ms
from core.ledger.catalogues import ModelSizes
from core.ledger.database.connections import Database
from core.ledger.database.tables import instances
from core.ledger.instances import is_alive
from core.ledger.models.copies import read_copies
from core.ledger.models.speeds import read_speeds
from core.ledger.models.yields import yields_of
from core.ledger.scheduling.fleet import read_running
from core.ledger.scheduling.gates import Gates
from core.ledger.scheduling.learned import LearnedCosts
from core.ledger.scheduling.lines import Lines, WaitingLine
from core.ledger.scheduling.presence import SORT_COLUMNS, sort_of
from core.ledger.scheduling.reach import Sort
from core.model_files.needs import FetchHost, FleetNeeds, HostGpu, Need
from core.records.model_file import Yield
from core.scheduling.lines import Fleet

_GPUS = select(
    *(instances.c[name] for name in ("name", "host", "fetches_models", "free_at_ms", "yields")), *SORT_COLUMNS
).order_by(instances.c.name)


@dataclass(kw_only=True)
class _Some:
    """Some healthy instances."""

    gpus: int = 0
    busy: int = 0
    #: Until they have done what they claimed, summed over them.
    free_s: float = 0.0

    def add(self, left_s: float) -> None:
        """Count one more, which has so much left to do."""
        self.gpus, self.busy, self.free_s = self.gpus + 1, self.busy + (left_s > 0), self.free_s + left_s


@dataclass(kw_only=True)
class _Alike(_Some):
    """Those of one sort, on all hosts."""

    #: The model files that they list.
    names: frozenset[str]
    #: By host.
    on: dict[str, _Some] = field(default_factory=lambda: defaultdict(_Some))
    #: What waits for each of them, by priority.
    waits_s: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    def work_s(self, priority: int) -> float:
        """What each of them has to do before a job that comes now with this priority, beside what it has claimed."""
        return sum(work_s for each, work_s in self.waits_s.items() if each >= priority)


class FileNeeds:
    """Reads the needs of a fleet: a handful of short queries, however many jobs wait."""

    def __init__(self, database: Database, lines: Lines, learned: LearnedCosts, gates: Gates) -> None:
        self._database = database
        self._lines = lines
        self._learned = learned
        self._gates = gates
        self._sizes = ModelSizes()

    def read(self) -> FleetNeeds:
        """Return the needs as they are now. Raises LedgerUnavailable."""
        with self._database.read() as connection:
            return self.read_from(connection, self._lines.waiting(connection))

    def read_from(self, connection: Connection, waiting: Sequence[WaitingLine]) -> FleetNeeds:
        """Return the same within a look at the ledger.

        Parameters:
          waiting: the lines that have jobs.
        """
        running: dict[str, set[str]] = defaultdict(set)
        jobs = [job for job in read_running(connection) if job.line is not None]
        kinds = self._lines.kinds_of(connection, {job.line for job in jobs if job.line is not None})
        for job in jobs:
            if job.line in kinds:
                running[job.instance.partition("@")[2]].update(kinds[job.line].files)
        rows = connection.execute(_GPUS.where(is_alive())).all()
        alike = self._alike(connection, rows)
        return FleetNeeds(
            hosts=tuple(self._hosts(connection, rows)),
            needs=tuple(self._needs(connection, waiting, alike)),
            running={host: frozenset(files) for host, files in running.items()},
            copies={(copy.host, copy.path): copy for copy in read_copies(connection)},
            speeds=read_speeds(connection),
            scarcity=Fleet(
                gpus=sum(each.gpus for each in alike.values()), busy=sum(each.busy for each in alike.values())
            ).scarcity,
            at_ms=now_ms(),
        )

    def _hosts(self, connection: Connection, rows: Iterable[Row[Any]]) -> list[FetchHost]:
        gpus: dict[str, list[HostGpu]] = defaultdict(list)
        yields: dict[str, set[Yield]] = defaultdict(set)
        for row in rows:
            if row.fetches_models:
                names = frozenset(self._sizes.of(connection, row.catalogue))
                gpus[row.host].append(HostGpu(pool=row.pool, vram_bytes=row.vram_bytes, names=names))
                yields[row.host].update(yields_of(row.yields))
        return [
            FetchHost(name=name, gpus=tuple(found), yields=tuple(sorted(yields[name], key=lambda each: each.name)))
            for name, found in sorted(gpus.items())
        ]

    def _alike(self, connection: Connection, rows: Iterable[Row[Any]]) -> dict[Sort, _Alike]:
        now = now_ms()
        found: dict[Sort, _Alike] = {}
        for row in rows:
            sort = sort_of(row.catalogue, row.pool, row.vram_bytes, row.device, row.kind)
            if sort not in found:
                found[sort] = _Alike(names=frozenset(self._sizes.of(connection, row.catalogue)))
            left_s = max(0.0, ((row.free_at_ms or 0) - now) / 1000)
            found[sort].add(left_s)
            found[sort].on[row.host].add(left_s)
        return found

    def _needs(
        self, connection: Connection, waiting: Sequence[WaitingLine], alike: Mapping[Sort, _Alike]
    ) -> list[Need]:
        of_files = [line for line in waiting if line.kind.files]
        awaiting = [line for line in of_files if line.kind.awaits_files]
        # It may wait for an instance that is away, too, and that may be back.
        held_up = {line.id for line in awaiting if not any(map(line.kind.runs_on, alike))}
        backlogs: Mapping[int, tuple[float, Mapping[str, float], float]] = {}
        if spreading := [line for line in awaiting if line.id not in held_up]:
            backlogs = self._backlogs(connection, waiting, spreading, alike)
        gates = self._gates.of_lines(connection, of_files)
        costs = self._learned.of(connection, {line.kind.models for line in of_files})
        needs = []
        for line in of_files:
            backlog_s, busy_s, load_s = backlogs.get(line.id, (None, {}, costs.load_s(line.kind.models)))
            needs.append(
                Need(
                    line_id=line.id,
                    files=line.kind.files,
                    requires=line.kind.requires,
                    since_ms=line.head_ms,
                    is_held_up=line.id in held_up,
                    backlog_s=backlog_s,
                    busy_s=busy_s,
                    load_s=load_s,
                    priority=line.kind.priority,
                    is_shut=any(gate.is_shut for gate in gates.get(line.id, ())),
                )
            )
        return needs

    def _backlogs(
        self,
        connection: Connection,
        waiting: Sequence[WaitingLine],
        spreading: Collection[WaitingLine],
        alike: Mapping[Sort, _Alike],
    ) -> dict[int, tuple[float, Mapping[str, float], float]]:
        """Return of lines that further hosts could help: how long it takes where they can run, elsewhere, and a load.

        All that waits is dealt out evenly among the GPUs that can run it.
        """
        costs = self._learned.of(connection, {line.kind.models for line in waiting})
        able: dict[int, list[_Alike]] = {}
        for line in waiting:
            able[line.id] = [each for sort, each in alike.items() if _can_run(line, sort, each)]
            gpus = sum(each.gpus for each in able[line.id])
            for each in able[line.id]:
                each.waits_s[line.kind.priority] += line.waiting * costs.run_s(line.kind.models) / gpus
        busy_s = {
            priority: _busy_s(alike.values(), priority) for priority in {line.kind.priority for line in spreading}
        }
        found: dict[int, tuple[float, Mapping[str, float], float]] = {}
        for line in spreading:
            priority, mine = line.kind.priority, able[line.id]
            whole_s = sum(each.free_s + each.gpus * each.work_s(priority) for each in mine)
            backlog_s = whole_s / sum(each.gpus for each in mine)
            found[line.id] = backlog_s, busy_s[priority], costs.load_s(line.kind.models)
        return found


def _can_run(line: WaitingLine, sort: Sort, alike: _Alike) -> bool:
    """Whether instances can run the jobs of a line, or will, once it is noticed that they have its files."""
    kind = line.kind
    if kind.runs_on(sort):
        return True
    suits = kind.requires is None or kind.requires.are_met_by(pool=sort.pool, vram_bytes=sort.vram_bytes)
    return kind.awaits_files and suits and alike.names.issuperset(kind.files)


def _busy_s(alike: Iterable[_Alike], priority: int) -> dict[str, float]:
    """How long each GPU has to do before a job of this priority that comes now, on average, by host."""
    whole_s: dict[str, float] = defaultdict(float)
    gpus: dict[str, int] = defaultdict(int)
    for each in alike:
        work_s = each.work_s(priority)
        for host, some in each.on.items():
            whole_s[host] += some.free_s + some.gpus * work_s
            gpus[host] += some.gpus
    return {host: whole_s[host] / count for host, count in gpus.items()}
