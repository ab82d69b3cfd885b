"""Which job an instance runs next: the scheduling policy, asked inside of the transaction that claims."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from sqlalchemy import Connection, Row, Select, Update, bindparam, func, not_, or_, select, update

from core.clock import DAY_MS, now_ms
from core.ledger.catalogues import ModelSizes
from core.ledger.database.connections import Transaction
from core.ledger.database.graph_texts import GRAPH_COLUMNS, whole_graph
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import instances, jobs, secrets
from core.ledger.durations import LEARNED_S, gpu_kind
from core.ledger.instances import HEALTHY, SILENCE_MS
from core.ledger.resident_sets import put_sets
from core.ledger.scheduling.avoidance import AVOID_MS, left_to_others
from core.ledger.scheduling.gates import HAS_CAPPED_TENANTS, IS_GATED_BY_BATCH, Gates
from core.ledger.scheduling.learned import LearnedCosts
from core.ledger.scheduling.lines import Lines
from core.ledger.scheduling.picture import GPU_COLUMNS, GpuRow, Picture
from core.ledger.scheduling.turns import idle_instances, play_idle
from core.ledger.secrets import ANY, RUN
from core.records.access import DEFAULT_TENANT
from core.scheduling.gates import Gate
from core.scheduling.lines import Decision, Line
from core.scheduling.residency import Residency

#: How long one waits for its turn to choose what to load, and how often it looks; below what a statement may take.
TURN_S, PAUSE_S = 1.0, 0.02
#: Idle instances of each sort that are asked first, before one that works takes a job ahead of time.
ASKED_FIRST = 64

# Statements on the path between two jobs of a GPU, built once: building one takes longer than running it.
_ASKING = select(*GPU_COLUMNS, instances.c.leaving_since_ms, HAS_CAPPED_TENANTS.label("has_capped_tenants")).where(
    instances.c.name == bindparam("instance")
)
_IS_NOT_LOST_HERE = or_(
    jobs.c.lost_on.is_(None),
    jobs.c.lost_on != bindparam("instance"),
    jobs.c.updated_at_ms < bindparam("avoided_since_ms"),
)
_IS_IN_TIME = or_(jobs.c.start_by_ms.is_(None), jobs.c.start_by_ms >= bindparam("now"))
_IS_FOR_A_RUN = or_(secrets.c.purpose == RUN, secrets.c.purpose == ANY)
_HAS_SECRETS = select(secrets.c.job_id).where(secrets.c.job_id == jobs.c.id, _IS_FOR_A_RUN).exists()
_OF_THE_LINE = select(
    *(jobs.c.id, *GRAPH_COLUMNS, jobs.c.extra_pnginfo, jobs.c.expected_time_s),
    _HAS_SECRETS.label("has_secrets"),
    LEARNED_S.label("known_s"),
    _IS_NOT_LOST_HERE.label("is_not_lost_here"),
    IS_GATED_BY_BATCH.label("is_gated_by_batch"),
).where(jobs.c.line == bindparam("wanted_line"), IS_QUEUED, _IS_IN_TIME)
_HEAD = _OF_THE_LINE.order_by(jobs.c.created_at_ms, jobs.c.id).limit(1)
_NAMED = _OF_THE_LINE.where(jobs.c.id == bindparam("wanted"))
_NEAREST = _OF_THE_LINE.where(jobs.c.start_by_ms.is_not(None)).order_by(jobs.c.start_by_ms, jobs.c.id).limit(1)
#: Until the end of the transaction. Taken before any row is locked, so that nobody waits in a circle.
_ONE_LOADS = select(func.pg_try_advisory_xact_lock(0x10AD))
_IDLE_NOW = (
    update(instances)
    .where(instances.c.name == bindparam("instance"), instances.c.free_at_ms > bindparam("now"))
    .values(free_at_ms=bindparam("now"))
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A job for an instance, locked, and what follows for the instance once it has it."""

    job_id: str
    decision: Decision
    #: Names of the model files that it loads or holds for this job.
    files: tuple[str, ...]
    gpu: GpuRow
    #: How long this job runs where its models are held, and how long a load of them takes here, expected.
    run_s: float
    cold_load_s: float
    #: Of the job's row, as they are: JSON texts.
    graph: str
    extra_pnginfo: str | None
    #: There are some that its run needs.
    has_secrets: bool
    #: It goes through a gate, which lets the next one through when it ends.
    is_gated: bool


@dataclass(frozen=True, kw_only=True)
class LookAgain:
    """What a look found that came too late: others have what it decided for. Nothing was written."""

    #: The lines that the next look passes over, in a transaction of its own.
    without: frozenset[int]


class Chooser:
    """Chooses for the instances of one process."""

    def __init__(self, lines: Lines, learned: LearnedCosts, gates: Gates) -> None:
        self._lines = lines
        self._learned = learned
        self._gates = gates
        self._sizes = ModelSizes()

    def choose(
        self,
        transaction: Transaction,
        instance: str,
        *,
        named: str | None = None,
        worker: str | None = None,
        ahead: bool = False,
        without: Collection[int] = (),
    ) -> Choice | LookAgain | None:
        """Return the next job for an instance, locked; None when there is none for it.

        Nothing for one that is not healthy, nor for a worker that has lost the instance's name. Left out are jobs its
        nodes do not fit, and for a minute those it lost itself, if another instance could run them.

        Parameters:
          named: a job that is taken before others of its line, unless one would miss its deadline.
          worker: take nothing if another worker has the instance's name.
          ahead: it is at work still: what an idle instance would take is left to that.
          without: lines that are passed over.
        """
        connection, now = transaction.connection, now_ms()
        who: dict[str, Any] = {"instance": instance, "wanted": named, "now": now}
        who |= {"heard_since_ms": now - SILENCE_MS, "avoided_since_ms": now - AVOID_MS}
        found = connection.execute(_ASKING, who).one_or_none()
        told: dict[str, Any] = {"name": instance} if found is None else dict(found._mapping)
        who["has_capped_tenants"] = told.pop("has_capped_tenants", True)
        is_leaving = told.pop("leaving_since_ms", None) is not None
        row = GpuRow(**told)
        who["gpu_kind"] = gpu_kind(row.device, row.kind)
        # A host that is given back takes no job from the moment on in which that was noted.
        if is_leaving or row.state != HEALTHY or (worker is not None and row.worker not in (worker, None)):
            return None
        choice = self._look(transaction, row, who, ahead=ahead, is_alone=transaction.is_sqlite, without=without)
        if choice is None and not ahead and (row.free_at_ms or 0) > now:
            connection.execute(_IDLE_NOW, who)
        return choice

    def _look(
        self,
        transaction: Transaction,
        row: GpuRow,
        who: dict[str, Any],
        *,
        ahead: bool,
        is_alone: bool,
        without: Collection[int],
    ) -> Choice | LookAgain | None:
        """Look at what waits, and choose.

        Parameters:
          is_alone: nobody else chooses what to load models for until this transaction has ended.
        """
        connection = transaction.connection
        waiting = self._lines.waiting(connection)
        if not waiting:
            return None
        gates = self._gates.of_lines(
            connection,
            waiting,
            has_capped_tenants=who["has_capped_tenants"],
            has_batches=self._lines.has_batches,
        )
        picture = Picture(connection, self._lines, self._learned, waiting, gates)
        if ahead:
            play_idle(picture, idle_instances(connection, ASKED_FIRST))
        left_s = max(0.0, ((row.free_at_ms or 0) - who["now"]) / 1000) if ahead else 0.0
        gpu = picture.gpu(row, free_s=left_s)
        able = {line.id: line for line in picture.lines_for(row) if line.id not in without}
        while able:
            decision = picture.decide_for(row, gpu, able.values())
            if decision is None and not picture.is_told_of_losses and left_to_others(connection, picture):
                # Perhaps it left them to the one that lost them.
                continue
            if decision is None:
                return None
            if decision.load_s and not is_alone:
                # Two that look at once would both load what nobody holds. Who comes second looks anew.
                if not _comes_to_load(connection):
                    return None
                return self._look(transaction, row, who, ahead=ahead, is_alone=True, without=without)
            line = decision.line
            job = self._take(transaction, picture, decision, who, able)
            if isinstance(job, LookAgain):
                return job
            if job is not None:
                files = picture.files_of(line)
                cold_load_s = gpu.load_s.get(line.models, 0.0) if files else 0.0
                return Choice(
                    job_id=job.id,
                    graph=whole_graph(connection, job.graph, job.shared_graph),
                    extra_pnginfo=job.extra_pnginfo,
                    has_secrets=job.has_secrets,
                    decision=decision,
                    files=files,
                    gpu=row,
                    run_s=picture.run_s_of(line, who["gpu_kind"], known_s=job.known_s, told_s=job.expected_time_s),
                    cold_load_s=cold_load_s,
                    is_gated=bool(picture.gates_of(line)),
                )
        return None

    def _take(
        self,
        transaction: Transaction,
        picture: Picture,
        decision: Decision,
        who: dict[str, Any],
        able: dict[int, Line],
    ) -> Row[Any] | LookAgain | None:
        """Lock a job of the line that was decided for.

        None: others have its jobs, or they are not for this instance; it is able to run that line no more. Where the
        rows of gates are locked by then, all is looked at again without them: who waits for others holds nothing.
        """
        gates = () if transaction.is_sqlite else picture.gates_of(decision.line)
        if not gates:
            job = _taken(transaction, picture, decision, who)
            if job is None:
                del able[decision.line.id]
            return job
        closed = self._gates.closed_by_now(transaction.connection, gates)
        job = None if closed else _taken(transaction, picture, decision, who)
        return job or LookAgain(without=frozenset({decision.line.id, *picture.behind(closed)}))

    def note(self, transaction: Transaction, choice: Choice, *, ahead: bool) -> None:
        """Write into the row of the instance what it holds from now on, and until when it is at work.

        Where several tenants share the fleet, the job's is charged with what it is expected to take.
        """
        row, now = choice.gpu, now_ms()
        begins_ms = max(now, row.free_at_ms or 0) if ahead else now
        load_s = choice.decision.load_s
        values: dict[str, Any] = {"free_at_ms": begins_ms + int((load_s + choice.run_s) * 1000)}
        before = after = row.residency
        if choice.files:
            sizes = row.sizes
            if not before.holds(choice.files):
                sizes = {**self._sizes.of(transaction.connection, row.catalogue), **sizes}
            after = before.after(choice.files, sizes)
            if after.files != before.files:
                values["held"] = [[file.name, sizes.get(file.name)] for file in after.files]
        if load_s:
            today = now // DAY_MS
            same_day = row.loads_day == today
            values |= {
                "loads": (row.loads if same_day else 0) + 1,
                "loading_s": (row.loading_s if same_day else 0.0) + load_s,
                "loads_day": today,
            }
        written = {"instance": row.name, **{f"new_{name}": value for name, value in values.items()}}
        transaction.connection.execute(_noting(tuple(values)), written)
        if (charge_s := self.charge_s(choice)) is not None:
            transaction.charge(choice.decision.line.tenant or DEFAULT_TENANT, charge_s)
        if after.names != before.names:
            self._keep_residents(transaction, row.name, after)

    def charge_s(self, choice: Choice) -> float | None:
        """Return what the job's tenant is charged with, until it is known what it took; None: they take no turns."""
        return choice.decision.load_s + choice.run_s if self._lines.has_tenants else None

    def _keep_residents(self, transaction: Transaction, instance: str, held: Residency) -> None:
        put_sets(transaction.connection, instance, set(self._lines.reach.sets(held.names)))


@lru_cache(maxsize=16)
def _noting(names: tuple[str, ...]) -> Update:
    """Return the statement that writes these columns of an instance."""
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    return update(instances).where(instances.c.name == bindparam("instance")).values(**values)


def _comes_to_load(connection: Connection) -> bool:
    """Wait until nobody else chooses what to load; False where it is not soon.

    Where hundreds are cold at once, each of those that claim wakes others, who then find what is left: none need wait
    for all, as if the ledger did not answer.
    """
    give_up_s = time.monotonic() + TURN_S
    while not connection.execute(_ONE_LOADS).scalar():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(PAUSE_S)
    return True


def _taken(transaction: Transaction, picture: Picture, decision: Decision, who: dict[str, Any]) -> Row[Any] | None:
    """Lock the job of a line that is to be taken, but for what this instance lost and those of batches with gates."""
    line = decision.line
    job = _first(transaction, decision, who)
    # They are about to be led into lines that name their batch.
    passes_gated = job is not None and job.is_gated_by_batch and not _names_batch(picture.gates_of(line))
    if passes_gated:
        job = _first(transaction, decision, who, passes_gated=True)
    if job is not None and not job.is_not_lost_here and picture.suits_another(line.id, who["instance"]):
        job = _first(transaction, decision, who, passes_gated=passes_gated, passes_lost=True)
    return job


def _names_batch(gates: Iterable[Gate]) -> bool:
    return any(gate.key.kind == "batch" for gate in gates)


def _first(
    transaction: Transaction,
    decision: Decision,
    who: dict[str, Any],
    *,
    passes_gated: bool = False,
    passes_lost: bool = False,
) -> Row[Any] | None:
    wanted = who | {"wanted_line": decision.line.id}
    first = _NEAREST if decision.takes_nearest_deadline else _NAMED if who["wanted"] is not None else None
    for query in (_HEAD,) if first is None else (first, _HEAD):
        asked = _passing(query, gated=passes_gated, lost=passes_lost, locked=not transaction.is_sqlite)
        job = transaction.connection.execute(asked, wanted).one_or_none()
        if job is not None:
            return job
    return None


@cache
def _passing(query: Select[Any], *, gated: bool, lost: bool, locked: bool) -> Select[Any]:
    """Return a query with what it passes over: jobs of batches with gates, and what the instance lost a moment ago.

    Parameters:
      locked: lock the row found, passing over those another claim holds. SQLite has one writer at a time anyway.
    """
    if gated:
        query = query.where(not_(IS_GATED_BY_BATCH))
    if lost:
        query = query.where(_IS_NOT_LOST_HERE)
    return query.with_for_update(of=jobs, skip_locked=True) if locked else query
