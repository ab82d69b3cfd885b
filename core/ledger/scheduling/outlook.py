"""The policy run forward from what the ledger holds: where jobs stand, when they begin, and why they wait."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import TypeAlias

from sqlalchemy import Connection, func, select

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.tables import jobs, lines
from core.ledger.durations import DEFAULT_S, Averages, Durations, Lasting, gpu_kind
from core.ledger.scheduling.fetching import read_fetching
from core.ledger.scheduling.file_needs import FileNeeds
from core.ledger.scheduling.fleet import FleetView, RunningJob, read_away, read_gpus, read_running
from core.ledger.scheduling.gates import Gates, GatesOfLines
from core.ledger.scheduling.heads import HeadJob, Heads, read_heads, read_indexes
from core.ledger.scheduling.learned import Costs, LearnedCosts
from core.ledger.scheduling.lines import LineKind, Lines, WaitingLine, line_tenant
from core.ledger.scheduling.newcomers import Newcomer, lines_of, with_heads
from core.ledger.scheduling.picture import GpuRow
from core.ledger.scheduling.presence import read_sorts
from core.ledger.scheduling.reach import NONE
from core.ledger.scheduling.used import read_used
from core.records.access import ALL_TENANTS
from core.records.job import DELIVERING, QUEUED, RUNNING
from core.scheduling import picture as pure
from core.scheduling.forecast import Forecast, Place, forecast
from core.scheduling.gates import GateKey
from core.scheduling.lines import Line, ModelSet
from core.texts.cards import card_name, gigabytes

#: Bounds the time that a forecast takes, to some 50 ms with a thousand GPUs and a thousand lines.
LOOKS = 15_000
#: The id of the line of a job that does not exist: one that is submitted now.
NEW_LINE = -1
#: The priority of a job that asks for none.
USUAL_PRIORITY = 0

#: Those that wait are counted in their lines already.
_WAITING = select(lines.c.tenant, func.sum(lines.c.waiting)).where(lines.c.waiting > 0).group_by(lines.c.tenant)
_SIZES = (
    select(jobs.c.tenant, jobs.c.status, func.count())
    .where(jobs.c.status.in_([RUNNING, DELIVERING]))
    .group_by(jobs.c.tenant, jobs.c.status)
)
#: Jobs by status, of each tenant as its lines call it.
Sizes: TypeAlias = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The fleet's work at one moment, and what becomes of it: which jobs begin when, and why the others wait."""

    #: Read at this time.
    at_ms: int
    tenant_sizes: Sizes
    #: The healthy instances, by name.
    gpus: tuple[GpuRow, ...]
    #: What the lines are in which jobs wait.
    kinds: Mapping[int, LineKind]
    picture: pure.Picture
    forecast: Forecast
    #: Line and index in it of the jobs that are next in their lines.
    indexes: Mapping[str, tuple[int, int]] = field(repr=False)

    @property
    def sizes(self) -> Mapping[str, int]:
        """Jobs by status."""
        return self.sizes_of(ALL_TENANTS)

    def sizes_of(self, tenant: str) -> dict[str, int]:
        """Return the jobs of one tenant, or of all, by status."""
        return _sizes_of(self.tenant_sizes, tenant)

    def place(self, line_id: int, index: int, *, passed_s: float = 0.0) -> Place:
        """Return where a job stands, see `Forecast.place`; one that came after this was read stands behind the others.

        Raises:
          KeyError: no job waited in this line.
        """
        place = self.forecast.place(line_id, index, passed_s=passed_s)
        of_line = self.forecast.lines[line_id]
        line = of_line.line
        newer = index - line.waiting + 1
        if newer <= 0 or place.position is None or place.taken_in_s is None or place.starts_in_s is None:
            return place
        # On the GPUs that take those before it, one after the other.
        takers = {start.gpu for start in of_line.starts.values()}
        later_s = newer * (line.run_s / len(takers) if takers else of_line.gap_s)
        return replace(
            place,
            position=place.position + newer,
            taken_in_s=place.taken_in_s + later_s,
            starts_in_s=place.starts_in_s + later_s,
        )

    @cached_property
    def wait_of_new_s(self) -> float | None:
        """Until a job would begin that is submitted now, with the usual priority, for any GPU; None without any."""
        if not self.picture.gpus:
            return None
        newcomer = Line(id=NEW_LINE, priority=USUAL_PRIORITY, since_s=self.picture.now_s + 0.001, run_s=DEFAULT_S)
        gpus = tuple(
            gpu if gpu.can_run is None else replace(gpu, can_run=gpu.can_run | {NEW_LINE}) for gpu in self.picture.gpus
        )
        with_it = replace(self.picture, lines=(*self.picture.lines, pure.WaitingLine(line=newcomer)), gpus=gpus)
        return forecast(with_it, looks=LOOKS).place(NEW_LINE).starts_in_s


class OutlookReader:
    """Reads the outlook from the ledger: some ten short queries, however many jobs wait."""

    def __init__(
        self,
        database: Database,
        known_lines: Lines,
        learned: LearnedCosts,
        gates: Gates,
        durations: Durations,
        file_needs: FileNeeds,
    ) -> None:
        self._database = database
        self._file_needs = file_needs
        self._lines = known_lines
        self._learned = learned
        self._gates = gates
        self._durations = durations

    def read(self, newcomers: Sequence[Newcomer] = ()) -> Outlook:
        """Return the outlook as it is now. Raises LedgerUnavailable.

        Parameters:
          newcomers: jobs that are taken to come now; nothing of them is recorded.
        """
        now = now_ms()
        new = lines_of(newcomers, now)
        with self._database.read() as connection:
            waiting = [*self._lines.waiting(connection), *(line for line, _ in new.values())]
            gates = self._gates.of_lines(connection, waiting)
            used = read_used(connection, waiting, now)
            heads = with_heads(read_heads(connection, [line.id for line in waiting if line.id not in new]), new)
            gpus = read_gpus(connection, now)
            fetching = read_fetching(connection, waiting, gpus, self._file_needs)
            running = read_running(connection)
            away = read_away(connection, now, {job.instance for job in running})
            kinds_of_running = self._lines.kinds_of(connection, {job.line for job in running if job.line is not None})
            sizes = _read_sizes(connection)
            kinds = {line.id: line.kind for line in waiting}
            in_use = {kind.models for kind in (*kinds.values(), *kinds_of_running.values())}
            costs = self._learned.of(connection, in_use)
            reach = self._lines.reach_with({line_id: line.kind for line_id, (line, _) in new.items()})
            forced = reach.without_choice(read_sorts(connection, now)) if reach.is_wary else NONE
        next_jobs = [job for found in heads.jobs.values() for job in found]
        expected = _Expected(self._durations.averages([*next_jobs, *running]), costs)
        known = [*self._lines.kinds(), *(line.kind for line, _ in new.values())]
        view = FleetView(kinds, known, reach, costs, forced)
        left = _left(running, kinds_of_running, gpus, expected, now)
        slots = _slots(running, gates)
        picture = _picture(now, waiting, gates, heads, gpus, away, left, slots, view, expected)
        picture = replace(picture, used_s=used.seconds, weights=used.weights)
        if fetching:
            told = (replace(each, fetching=fetching.get(each.line.id)) for each in picture.lines)
            picture = replace(picture, lines=tuple(told))
        return Outlook(
            at_ms=now,
            tenant_sizes=sizes,
            gpus=tuple(gpus),
            kinds=kinds,
            picture=picture,
            forecast=forecast(picture, looks=LOOKS),
            indexes={
                job.id: (line, index)
                for line, found in heads.jobs.items()
                if line not in new
                for index, job in enumerate(found)
            },
        )

    def sizes(self, *, of: str = ALL_TENANTS) -> dict[str, int]:
        """Return how many jobs of a tenant wait, run, and store their outputs: `{status: count}`."""
        with self._database.read() as connection:
            return _sizes_of(_read_sizes(connection), of)

    def indexes(self, job_ids: Collection[str]) -> dict[str, tuple[int, int]]:
        """Return line and index of waiting jobs, the head of a line having index 0; others are left out."""
        with self._database.read() as connection:
            return read_indexes(connection, job_ids)


def _read_sizes(connection: Connection) -> Sizes:
    sizes: dict[str, dict[str, int]] = defaultdict(dict)
    for tenant, waiting in connection.execute(_WAITING):
        sizes[tenant][QUEUED] = int(waiting)
    for tenant, status, count in connection.execute(_SIZES):
        sizes[line_tenant(tenant)][status] = count
    return sizes


def _sizes_of(sizes: Sizes, tenant: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for own in sizes.values() if tenant == ALL_TENANTS else [sizes.get(line_tenant(tenant), {})]:
        total.update(own)
    return dict(total)


class _Expected:
    """How long jobs run; most jobs are alike, so each sort is worked out once."""

    def __init__(self, averages: Averages, costs: Costs) -> None:
        self._averages = averages
        self._costs = costs
        self._known: dict[tuple[object, ...], float] = {}

    def run_s(self, job: Lasting, models: ModelSet, kinds: frozenset[str]) -> float:
        """Return the seconds a job takes on these kinds of GPU: as its shape did, else its template, else its models.

        Where none of them has run, as its client says.
        """
        key = job.shape, job.template, job.expected_time_s, models, kinds
        if key not in self._known:
            self._known[key] = self._averages.expect(job, kinds, otherwise_s=self._costs.known_run_s(models, kinds))
        return self._known[key]

    def load_s(self, models: ModelSet, kind: str) -> float:
        """Return how long models load on a kind of GPU."""
        return self._costs.load_s(models, kind)


def _left(
    running: Iterable[RunningJob],
    kinds: Mapping[int, LineKind],
    gpus: Iterable[GpuRow],
    expected: _Expected,
    now: int,
) -> dict[str, float]:
    """Return the seconds for which each instance at work is expected to take on."""
    rows = {row.name: row for row in gpus}
    claimed: dict[str, list[RunningJob]] = defaultdict(list)
    for job in running:
        if job.instance in rows:
            claimed[job.instance].append(job)
    return {name: _left_of(rows[name], found, kinds, expected, now) for name, found in claimed.items()}


def _left_of(
    row: GpuRow, claimed: list[RunningJob], kinds: Mapping[int, LineKind], expected: _Expected, now: int
) -> float:
    gpu = gpu_kind(row.device, row.kind)
    begun_s = on_deck_s = load_s = 0.0
    began_ms: int | None = None
    for job in claimed:
        kind = kinds.get(job.line) if job.line is not None else None
        models = kind.models if kind is not None else ""
        run_s = expected.run_s(job, models, frozenset({gpu}))
        load_s += expected.load_s(models, gpu)
        if job.on_deck:
            on_deck_s += run_s
        else:
            begun_s += run_s
            began_ms = job.started_at_ms if began_ms is None else min(began_ms, job.started_at_ms)
    if began_ms is None:
        return on_deck_s
    # What the claim expected beyond the run itself is a load, and a load is never longer than one.
    planned_s = ((row.free_at_ms or 0) - began_ms) / 1000
    loading_s = min(max(0.0, planned_s - begun_s - on_deck_s), load_s)
    # A clock that was set back must not add days.
    passed_s = max(0.0, (now - began_ms) / 1000)
    return pure.left_s(begun_s + loading_s, passed_s) + on_deck_s


def _slots(running: Iterable[RunningJob], gates: GatesOfLines) -> dict[str, tuple[GateKey, ...]]:
    """Return the gates that the jobs of each instance went through, those alone which others wait for."""
    wanted = {gate.key for of_line in gates.values() for gate in of_line}
    slots: dict[str, tuple[GateKey, ...]] = {}
    for job in running if wanted else ():
        keys = (GateKey("tenant", line_tenant(job.tenant)), GateKey("batch", job.batch or ""))
        slots[job.instance] = (*slots.get(job.instance, ()), *(key for key in keys if key in wanted))
    return slots


def _picture(
    now: int,
    waiting: Iterable[WaitingLine],
    gates: GatesOfLines,
    heads: Heads,
    gpus: Iterable[GpuRow],
    away: Iterable[GpuRow],
    left: Mapping[str, float],
    slots: Mapping[str, tuple[GateKey, ...]],
    view: FleetView,
    expected: _Expected,
) -> pure.Picture:
    fleet = tuple(view.gpu(row, left_s=left.get(row.name), slots=slots.get(row.name, ())) for row in gpus)
    able = _kinds_for(gpus, fleet)
    off = frozenset[int]().union(*(view.kept_off(row) for row in gpus))

    # Most of them are alike, and so many lines as there may be ask.
    sorts = Counter((row.sort, row.state) for row in away)

    def states(line_id: int) -> Mapping[str, int]:
        return {} if None in able or line_id in able else view.states_of(sorts, line_id)

    return pure.Picture(
        now_s=now / 1000,
        lines=tuple(
            replace(
                _line(line, heads, able, expected),
                outgrown=_outgrown(line.kind) if line.id in off else "",
                away=states(line.id),
                gates=gates.get(line.id, ()),
            )
            for line in waiting
            if heads.jobs.get(line.id)
        ),
        gpus=fleet,
        files={line.kind.work: line.kind.files for line in waiting},
    )


def _kinds_for(gpus: Iterable[GpuRow], fleet: Iterable[pure.FleetGpu]) -> dict[int | None, frozenset[str]]:
    """Return the kinds of GPU that can run each line; under None those that can run all of them."""
    by_set: dict[frozenset[int] | None, set[str]] = defaultdict(set)
    for row, gpu in zip(gpus, fleet, strict=True):
        by_set[gpu.can_run].add(gpu_kind(row.device, row.kind))
    able: dict[int | None, set[str]] = defaultdict(set)
    for can_run, kinds in by_set.items():
        for line_id in (None,) if can_run is None else can_run:
            able[line_id] |= kinds
    return {line_id: frozenset(kinds) for line_id, kinds in able.items()}


def _line(
    waiting: WaitingLine, heads: Heads, able: Mapping[int | None, frozenset[str]], expected: _Expected
) -> pure.WaitingLine:
    kind, found = waiting.kind, heads.jobs[waiting.id]
    kinds = able.get(None, frozenset()) | able.get(waiting.id, frozenset())
    came_s = [job.created_at_ms / 1000 for job in found[1:]]
    run_s = tuple(expected.run_s(job, kind.models, kinds) for job in found)
    # A job may have come or gone between two of the reads.
    count = max(waiting.waiting, len(found))
    if count > len(found):
        came_s.append(max(heads.newest_ms.get(waiting.id, 0), found[-1].created_at_ms) / 1000)
    line = replace(waiting.drawn(fmean(run_s)), waiting=count, since_s=found[0].created_at_ms / 1000)
    return pure.WaitingLine(
        line=line, came_s=tuple(came_s), start_by_s=_deadlines(waiting, found), run_s=run_s, needs=_needs(kind)
    )


def _deadlines(waiting: WaitingLine, found: Iterable[HeadJob]) -> dict[int, float]:
    if waiting.start_by_ms is None:
        return {}
    return {index: job.start_by_ms / 1000 for index, job in enumerate(found) if job.start_by_ms is not None}


def _outgrown(kind: LineKind) -> str:
    names = [
        card_name(each.gpu) if each.vram_bytes is None else f"{card_name(each.gpu)} ({gigabytes(each.vram_bytes)})"
        for each in kind.avoids
    ]
    return " and ".join(names)


def _needs(kind: LineKind) -> str:
    parts = [str(kind.requires)] if kind.requires is not None else []
    if kind.accepted is not None:
        parts.append("the nodes and files of its graph")
    return ", and ".join(parts)
