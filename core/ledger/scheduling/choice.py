"""Which job an instance runs next: the scheduling policy, asked inside of the transaction that claims."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, Select, Update, bindparam, func, or_, select, update

from core.clock import now_ms
from core.ledger.catalogues import ModelSizes
from core.ledger.database.connections import Transaction
from core.ledger.database.line_counts import IS_QUEUED
from core.ledger.database.tables import instances, jobs, secrets
from core.ledger.durations import LEARNED_S, gpu_kind
from core.ledger.instances import DAY_MS, HEALTHY, SILENCE_MS
from core.ledger.resident_sets import put_sets
from core.ledger.scheduling.avoidance import AVOID_MS, left_to_others
from core.ledger.scheduling.learned import LearnedCosts
from core.ledger.scheduling.lines import Lines
from core.ledger.scheduling.picture import GPU_COLUMNS, GpuRow, Picture
from core.ledger.scheduling.turns import idle_instances, play_idle
from core.ledger.scheduling.used import charge
from core.ledger.secrets import ANY, RUN
from core.scheduling.lines import Decision
from core.scheduling.residency import Residency

#: Idle instances that are asked first, before one that works takes a job ahead of time.
ASKED_FIRST = 64

# Statements on the path between two jobs of a GPU, built once: building one takes longer than running it.
_ASKING = select(*GPU_COLUMNS).where(instances.c.name == bindparam("instance"))
_IS_NOT_LOST_HERE = or_(
    jobs.c.lost_on.is_(None),
    jobs.c.lost_on != bindparam("instance"),
    jobs.c.updated_at_ms < bindparam("avoided_since_ms"),
)
_IS_IN_TIME = or_(jobs.c.start_by_ms.is_(None), jobs.c.start_by_ms >= bindparam("now"))
_IS_FOR_A_RUN = or_(secrets.c.purpose == RUN, secrets.c.purpose == ANY)
_HAS_SECRETS = select(secrets.c.job_id).where(secrets.c.job_id == jobs.c.id, _IS_FOR_A_RUN).exists()
_OF_THE_LINE = select(
    *(jobs.c.id, jobs.c.graph, jobs.c.extra_pnginfo, jobs.c.expected_time_s),
    _HAS_SECRETS.label("has_secrets"),
    LEARNED_S.label("known_s"),
    _IS_NOT_LOST_HERE.label("is_not_lost_here"),
).where(jobs.c.line == bindparam("wanted_line"), IS_QUEUED, _IS_IN_TIME)
_HEAD = _OF_THE_LINE.order_by(jobs.c.created_at_ms, jobs.c.id).limit(1)
_NAMED = _OF_THE_LINE.where(jobs.c.id == bindparam("wanted"))
_NEAREST = _OF_THE_LINE.where(jobs.c.start_by_ms.is_not(None)).order_by(jobs.c.start_by_ms, jobs.c.id).limit(1)
#: The same without what it lost a moment ago.
_LEFT = {query: query.where(_IS_NOT_LOST_HERE) for query in (_HEAD, _NAMED, _NEAREST)}
_LOCKED = {
    query: query.with_for_update(of=jobs, skip_locked=True) for query in (_HEAD, _NAMED, _NEAREST, *_LEFT.values())
}
#: Until the end of the transaction. Taken before any row is locked, so that nobody waits in a circle.
_ONE_LOADS = select(func.pg_advisory_xact_lock(0x10AD))
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


class Chooser:
    """Chooses for the instances of one process."""

    def __init__(self, lines: Lines, learned: LearnedCosts) -> None:
        self._lines = lines
        self._learned = learned
        self._sizes = ModelSizes()

    def choose(
        self,
        transaction: Transaction,
        instance: str,
        *,
        named: str | None = None,
        worker: str | None = None,
        ahead: bool = False,
    ) -> Choice | None:
        """Return the next job for an instance, locked; None when there is none for it.

        Nothing for one that is not healthy, nor for a worker that has lost the instance's name. Left out are jobs its
        nodes do not fit, and for a minute those it lost itself, if another instance could run them.

        Parameters:
          named: a job that is taken before others of its line, unless one would miss its deadline.
          worker: take nothing if another worker has the instance's name.
          ahead: it is at work still: what an idle instance would take is left to that.
        """
        connection, now = transaction.connection, now_ms()
        who: dict[str, Any] = {"instance": instance, "wanted": named, "now": now}
        who |= {"heard_since_ms": now - SILENCE_MS, "avoided_since_ms": now - AVOID_MS}
        found = connection.execute(_ASKING, who).one_or_none()
        row = GpuRow(name=instance) if found is None else GpuRow(**found._mapping)
        who["gpu_kind"] = gpu_kind(row.device, row.kind)
        if row.state != HEALTHY or (worker is not None and row.worker not in (worker, None)):
            return None
        choice = self._look(transaction, row, who, ahead=ahead, is_alone=transaction.is_sqlite)
        if choice is None and not ahead and (row.free_at_ms or 0) > now:
            connection.execute(_IDLE_NOW, who)
        return choice

    def _look(
        self, transaction: Transaction, row: GpuRow, who: dict[str, Any], *, ahead: bool, is_alone: bool
    ) -> Choice | None:
        """Look at what waits, and choose.

        Parameters:
          is_alone: nobody else chooses what to load models for until this transaction has ended.
        """
        connection = transaction.connection
        waiting = self._lines.waiting(connection)
        if not waiting:
            return None
        picture = Picture(connection, self._lines, self._learned, waiting)
        if ahead:
            play_idle(picture, idle_instances(connection, ASKED_FIRST))
        left_s = max(0.0, ((row.free_at_ms or 0) - who["now"]) / 1000) if ahead else 0.0
        gpu = picture.gpu(row, free_s=left_s)
        able = {line.id: line for line in picture.lines_for(row)}
        while able:
            decision = picture.decide_for(row, gpu, able.values())
            if decision is None and not picture.is_told_of_losses and left_to_others(connection, picture):
                # Perhaps it left them to the one that lost them.
                continue
            if decision is None:
                return None
            if decision.load_s and not is_alone:
                # Two that look at once would both load what nobody holds. Who comes second looks anew.
                connection.execute(_ONE_LOADS)
                return self._look(transaction, row, who, ahead=ahead, is_alone=True)
            line = decision.line
            job = _taken(transaction, decision, who)
            if job is not None and not job.is_not_lost_here and picture.suits_another(line.id, row.name):
                job = _taken(transaction, decision, who, but_for_lost=True)
            if job is not None:
                files = picture.files_of(line)
                cold_load_s = gpu.load_s.get(line.models, 0.0) if files else 0.0
                return Choice(
                    job_id=job.id,
                    graph=job.graph,
                    extra_pnginfo=job.extra_pnginfo,
                    has_secrets=job.has_secrets,
                    decision=decision,
                    files=files,
                    gpu=row,
                    run_s=picture.run_s_of(line, who["gpu_kind"], known_s=job.known_s, told_s=job.expected_time_s),
                    cold_load_s=cold_load_s,
                )
            # Others have its jobs, or they are not for this instance.
            del able[line.id]
        return None

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
        if self._lines.has_tenants:
            charge(transaction, choice.decision.line.tenant, load_s + choice.run_s, now)
        if after.names != before.names:
            self._keep_residents(transaction, row.name, after)

    def _keep_residents(self, transaction: Transaction, instance: str, held: Residency) -> None:
        put_sets(transaction.connection, instance, set(self._lines.reach.sets(held.names)))


@lru_cache(maxsize=16)
def _noting(names: tuple[str, ...]) -> Update:
    """Return the statement that writes these columns of an instance."""
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    return update(instances).where(instances.c.name == bindparam("instance")).values(**values)


def _taken(
    transaction: Transaction, decision: Decision, who: dict[str, Any], *, but_for_lost: bool = False
) -> Row[Any] | None:
    wanted = who | {"wanted_line": decision.line.id}
    first = _NEAREST if decision.takes_nearest_deadline else _NAMED if who["wanted"] is not None else None
    for query in (_HEAD,) if first is None else (first, _HEAD):
        asked = _locked(transaction, _LEFT[query] if but_for_lost else query)
        job = transaction.connection.execute(asked, wanted).one_or_none()
        if job is not None:
            return job
    return None


def _locked(transaction: Transaction, query: Select[Any]) -> Select[Any]:
    """Lock the row found, passing over those another claim holds. SQLite has one writer at a time anyway."""
    return query if transaction.is_sqlite else _LOCKED[query]
