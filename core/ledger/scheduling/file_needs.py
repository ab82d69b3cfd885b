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
from core.ledger.scheduling.fleet import read_running
from core.ledger.scheduling.learned import LearnedCosts
from core.ledger.scheduling.lines import Lines, WaitingLine
from core.ledger.scheduling.presence import SORT_COLUMNS, sort_of
from core.ledger.scheduling.reach import Sort
from core.model_files.needs import FetchHost, FleetNeeds, HostGpu, Need
from core.scheduling.lines import Fleet

_GPUS = select(
    instances.c.name, instances.c.host, instances.c.fetches_models, instances.c.free_at_ms, *SORT_COLUMNS
).order_by(instances.c.name)


@dataclass(kw_only=True)
class _Alike:
    """Healthy instances of one sort on one host."""

    sort: Sort
    host: str
    names: frozenset[str]
    gpus: int = 0
    busy: int = 0
    #: Until they have done what they claimed, summed over them.
    free_s: float = 0.0
    #: What waits for each of them, by priority.
    work_s: dict[int, float] = field(default_factory=lambda: defaultdict(float))

    def busy_s(self, priority: int) -> float:
        """How long each of them has to do, on average, before a job that comes now with this priority."""
        return self.free_s / self.gpus + sum(work_s for each, work_s in self.work_s.items() if each >= priority)


class FileNeeds:
    """Reads the needs of a fleet: a handful of short queries, however many jobs wait."""

    def __init__(self, database: Database, lines: Lines, learned: LearnedCosts) -> None:
        self._database = database
        self._lines = lines
        self._learned = learned
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
            scarcity=Fleet(gpus=sum(each.gpus for each in alike), busy=sum(each.busy for each in alike)).scarcity,
        )

    def _hosts(self, connection: Connection, rows: Iterable[Row[Any]]) -> list[FetchHost]:
        gpus: dict[str, list[HostGpu]] = defaultdict(list)
        for row in rows:
            if row.fetches_models:
                names = frozenset(self._sizes.of(connection, row.catalogue))
                gpus[row.host].append(HostGpu(pool=row.pool, vram_bytes=row.vram_bytes, names=names))
        return [FetchHost(name=name, gpus=tuple(found)) for name, found in sorted(gpus.items())]

    def _alike(self, connection: Connection, rows: Iterable[Row[Any]]) -> list[_Alike]:
        now = now_ms()
        found: dict[tuple[str, Sort], _Alike] = {}
        for row in rows:
            sort = sort_of(row.catalogue, row.pool, row.vram_bytes, row.device, row.kind)
            if (each := found.get((row.host, sort))) is None:
                names = frozenset(self._sizes.of(connection, row.catalogue))
                each = found[row.host, sort] = _Alike(sort=sort, host=row.host, names=names)
            left_s = max(0.0, ((row.free_at_ms or 0) - now) / 1000)
            each.gpus, each.busy, each.free_s = each.gpus + 1, each.busy + (left_s > 0), each.free_s + left_s
        return list(found.values())

    def _needs(self, connection: Connection, waiting: Sequence[WaitingLine], alike: Sequence[_Alike]) -> list[Need]:
        of_files = [line for line in waiting if line.kind.files]
        able = {line.id: [each for each in alike if line.kind.runs_on(each.sort)] for line in of_files}
        # It may wait for an instance that is away, too, and that may be back.
        held_up = {line.id for line in of_files if line.kind.awaits_files and not able[line.id]}
        backlogs: Mapping[int, tuple[float, Mapping[str, float], float]] = {}
        if spreading := [line for line in of_files if line.kind.awaits_files and line.id not in held_up]:
            backlogs = self._backlogs(connection, waiting, spreading, alike)
        needs = []
        for line in of_files:
            backlog_s, busy_s, load_s = backlogs.get(line.id, (None, {}, 0.0))
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
                )
            )
        return needs

    def _backlogs(
        self,
        connection: Connection,
        waiting: Sequence[WaitingLine],
        spreading: Collection[WaitingLine],
        alike: Sequence[_Alike],
    ) -> dict[int, tuple[float, Mapping[str, float], float]]:
        """Return of lines that further hosts could help: how long it takes where they can run, elsewhere, and a load.

        All that waits is dealt out evenly among the GPUs that can run it.
        """
        costs = self._learned.of(connection, {line.kind.models for line in waiting})
        able: dict[int, list[_Alike]] = {}
        for line in waiting:
            able[line.id] = [each for each in alike if _can_run(line, each)]
            gpus = sum(each.gpus for each in able[line.id])
            for each in able[line.id]:
                each.work_s[line.kind.priority] += line.waiting * costs.run_s(line.kind.models) / gpus
        by_host: dict[str, list[_Alike]] = defaultdict(list)
        for each in alike:
            by_host[each.host].append(each)
        found: dict[int, tuple[float, Mapping[str, float], float]] = {}
        for line in spreading:
            priority = line.kind.priority
            busy_s = {host: _mean_s(of_host, priority) for host, of_host in by_host.items()}
            found[line.id] = _mean_s(able[line.id], priority), busy_s, costs.load_s(line.kind.models)
        return found


def _can_run(line: WaitingLine, alike: _Alike) -> bool:
    """Whether instances can run the jobs of a line, or will, once it is noticed that they have its files."""
    kind, sort = line.kind, alike.sort
    if kind.runs_on(sort):
        return True
    suits = kind.requires is None or kind.requires.are_met_by(pool=sort.pool, vram_bytes=sort.vram_bytes)
    return kind.awaits_files and suits and alike.names.issuperset(kind.files)


def _mean_s(alike: Sequence[_Alike], priority: int) -> float:
    """How long each of these instances has to do, on average."""
    gpus = sum(each.gpus for each in alike)
    return sum(each.gpus * each.busy_s(priority) for each in alike) / gpus if gpus else 0.0
