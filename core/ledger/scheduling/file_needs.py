"""What decides which host fetches which model files: the hosts that can, and the jobs that wait or run."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import select

from core.ledger.catalogues import ModelSizes
from core.ledger.database.connections import Database
from core.ledger.database.tables import instances
from core.ledger.instances import is_alive
from core.ledger.models.copies import read_copies
from core.ledger.scheduling.fleet import read_running
from core.ledger.scheduling.lines import Lines
from core.model_files.needs import FetchHost, FleetNeeds, HostGpu, Need

_GPUS = select(
    instances.c.host, instances.c.pool, instances.c.vram_bytes, instances.c.catalogue, instances.c.fetches_models
).order_by(instances.c.name)


class FileNeeds:
    """Reads the needs of a fleet: a handful of short queries, however many jobs wait."""

    def __init__(self, database: Database, lines: Lines) -> None:
        self._database = database
        self._lines = lines
        self._sizes = ModelSizes()

    def read(self) -> FleetNeeds:
        """Return the needs as they are now. Raises LedgerUnavailable."""
        gpus: dict[str, list[HostGpu]] = defaultdict(list)
        running: dict[str, set[str]] = defaultdict(set)
        alive: set[str | None] = set()
        with self._database.read() as connection:
            waiting = self._lines.waiting(connection)
            jobs = [job for job in read_running(connection) if job.line is not None]
            kinds = self._lines.kinds_of(connection, {job.line for job in jobs if job.line is not None})
            for row in connection.execute(_GPUS.where(is_alive())):
                alive.add(row.catalogue)
                if row.fetches_models:
                    names = frozenset(self._sizes.of(connection, row.catalogue))
                    gpus[row.host].append(HostGpu(pool=row.pool, vram_bytes=row.vram_bytes, names=names))
            copies = read_copies(connection)
        for job in jobs:
            if job.line in kinds:
                running[job.instance.partition("@")[2]].update(kinds[job.line].files)
        return FleetNeeds(
            hosts=tuple(FetchHost(name=name, gpus=tuple(found)) for name, found in sorted(gpus.items())),
            needs=tuple(
                Need(
                    files=line.kind.files,
                    requires=line.kind.requires,
                    since_ms=line.head_ms,
                    # It may wait for an instance that is away, too, and that may be back.
                    is_held_up=line.kind.awaits_files and alive.isdisjoint(line.kind.accepted or ()),
                )
                for line in waiting
                if line.kind.files
            ),
            running={host: frozenset(files) for host, files in running.items()},
            copies={(copy.host, copy.path): copy for copy in copies},
        )
