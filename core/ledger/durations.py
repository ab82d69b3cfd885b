"""How long jobs take on the GPU, learned from those that ended well: by shape and by template, for each kind of GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any, Protocol

from sqlalchemy import ColumnElement, bindparam, case, delete, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from core.clock import now_ms
from core.ledger.database.connections import Database
from core.ledger.database.learned_tables import durations
from core.ledger.database.tables import jobs

#: Weight of the newest duration, once there are enough of them for a plain mean to be slow to follow. With 0.3 jobs of
#: very different durations led the scheduler astray: they waited 6 to 9 % longer in the mean.
NEWEST = 0.1
#: Seconds a job is taken to last when nothing at all is known of it: what `/generate` has always assumed.
DEFAULT_S = 46.0
#: Averages of what did not run for this long are forgotten.
FORGET_MS = 90 * 24 * 3600 * 1000
#: Averages kept, the least recently learned forgotten first.
KEPT = 10_000
#: Shapes asked for in one query: PostgreSQL and SQLite both take this many parameters.
CHUNK = 500
_GPU_CHARS = 255


class Lasting(Protocol):
    """What a job's duration depends on, as far as we can know."""

    @property
    def shape(self) -> str | None:
        """As in `Job`."""

    @property
    def template(self) -> str | None:
        """As in `Job`."""

    @property
    def expected_time_s(self) -> float | None:
        """As in `Job`."""


def gpu_kind(device: str | None, kind: str) -> str:
    """Return what equally fast GPUs share: the instance's words for its device, else its own kind."""
    return (device or kind)[:_GPU_CHARS]


class Averages:
    """Average durations at one moment, for estimates of many jobs.

    Parameters:
      seconds: `{"shape:<hash>" or "workflow:<name>": {kind of GPU: seconds}}`.
    """

    def __init__(self, seconds: Mapping[str, Mapping[str, float]]) -> None:
        self._seconds = seconds

    def expect(self, job: Lasting, gpus: Iterable[str], *, otherwise_s: float | None = None) -> float:
        """Return the seconds of GPU time a job will take: as its shape did, else its template, else as its client says.

        Parameters:
          gpus: the kind of each GPU it may run on. Where it ran on none of them, those it did run on have to do.
          otherwise_s: how long jobs like it take that have another shape and template; goes before what a client says.
        """
        kinds = list(gpus)
        for what in subjects(job):
            found = self._seconds.get(what)
            if found:
                return fmean([found[kind] for kind in kinds if kind in found] or found.values())
        if otherwise_s is not None:
            return otherwise_s
        return DEFAULT_S if job.expected_time_s is None else job.expected_time_s


def _averages_of(kind: str, name: ColumnElement[Any]) -> tuple[ColumnElement[Any], ...]:
    """On that kind of GPU, and on those where it ran."""
    average = select(durations.c.average_s).where(durations.c.what == literal(f"{kind}:").concat(name))
    everywhere = average.with_only_columns(func.avg(durations.c.average_s))
    return average.where(durations.c.gpu == bindparam("gpu_kind")).scalar_subquery(), everywhere.scalar_subquery()


#: In a query of jobs: what `Averages.expect` knows of each on the kind of GPU `gpu_kind`; NULL for nothing.
LEARNED_S: ColumnElement[Any] = func.coalesce(
    *_averages_of("shape", jobs.c.shape), *_averages_of("workflow", jobs.c.workflow)
)


class Durations:
    """The learned durations of a fleet."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def learn(self, *, shape: str | None, template: str | None, gpu: str, seconds: float) -> None:
        """Record how long one job kept a GPU busy, see `learn_all`."""
        self.learn_all(dict.fromkeys(subjects_of(shape, template), seconds), gpu=gpu)

    def learn_all(self, seconds: Mapping[str, float], *, gpu: str, is_guess: bool = False) -> None:
        """Record how long something took on a kind of GPU.

        Parameters:
          seconds: by what took so long, ComfyUI's work on it alone, without any waiting.
          gpu: see `gpu_kind`.
          is_guess: it is only likely. Nothing that is known changes, and what is known next takes its place.
        """
        now = now_ms()
        # In one order everywhere: two workers that learn the same cannot block each other.
        rows = [
            {"what": what, "gpu": gpu, "average_s": took_s, "seen": 0 if is_guess else 1, "updated_at_ms": now}
            for what, took_s in sorted(seconds.items())
        ]
        if not rows:
            return
        with self._database.write() as transaction:
            insert = sqlite.insert(durations) if transaction.is_sqlite else postgresql.insert(durations)
            newer = insert.excluded
            weight = case((durations.c.seen + 1 < 1 / NEWEST, 1.0 / (durations.c.seen + 1)), else_=NEWEST)
            learn = insert.on_conflict_do_update(
                index_elements=[durations.c.what, durations.c.gpu],
                set_={
                    "average_s": durations.c.average_s + weight * (newer.average_s - durations.c.average_s),
                    "seen": durations.c.seen + 1,
                    "updated_at_ms": newer.updated_at_ms,
                },
            )
            transaction.connection.execute(insert.on_conflict_do_nothing() if is_guess else learn, rows)

    def expect(self, job: Lasting, gpus: Iterable[str]) -> float:
        """Return the seconds of GPU time one job will take, see `Averages.expect`."""
        return self.averages([job]).expect(job, gpus)

    def known(self, subjects_: Iterable[str], *, gpu: str) -> dict[str, float]:
        """Return the averages on a kind of GPU of those subjects that have one there; guesses are none."""
        return self._on(gpu, subjects_, durations.c.seen > 0)

    def guessed(self, subjects_: Iterable[str], *, gpu: str) -> dict[str, float]:
        """Return the guesses on a kind of GPU of those subjects of which there is nothing better."""
        return self._on(gpu, subjects_, durations.c.seen == 0)

    def _on(self, gpu: str, subjects_: Iterable[str], condition: ColumnElement[bool]) -> dict[str, float]:
        query = select(durations.c.what, durations.c.average_s).where(
            durations.c.what.in_(sorted(subjects_)), durations.c.gpu == gpu, condition
        )
        with self._database.read() as connection:
            return {row.what: row.average_s for row in connection.execute(query)}

    def averages(self, of: Iterable[Lasting]) -> Averages:
        """Return what is known of the durations of these jobs' shapes and templates."""
        wanted = sorted({what for job in of for what in subjects(job)})
        seconds: dict[str, dict[str, float]] = {}
        with self._database.read() as connection:
            for start in range(0, len(wanted), CHUNK):
                query = select(durations).where(durations.c.what.in_(wanted[start : start + CHUNK]))
                for row in connection.execute(query):
                    seconds.setdefault(row.what, {})[row.gpu] = row.average_s
        return Averages(seconds)

    def forget(self) -> None:
        """Remove averages that were not touched for 90 days, and the oldest of more than `KEPT`."""
        oldest = select(func.count(), func.min(durations.c.updated_at_ms))
        beyond = select(durations.c.updated_at_ms).order_by(durations.c.updated_at_ms.desc()).offset(KEPT).limit(1)
        with self._database.read() as connection:
            count, oldest_ms = connection.execute(oldest).one()
            limit_ms = now_ms() - FORGET_MS
            if count > KEPT:
                limit_ms = max(limit_ms, connection.execute(beyond).scalar_one())
        if oldest_ms is not None and oldest_ms <= limit_ms:
            with self._database.write() as transaction:
                transaction.connection.execute(delete(durations).where(durations.c.updated_at_ms <= limit_ms))


def subjects(job: Lasting) -> list[str]:
    """Return the keys that a job's duration is remembered under, the most telling first."""
    return subjects_of(job.shape, job.template)


def subjects_of(shape: str | None, template: str | None) -> list[str]:
    """Return the keys of a shape and of a template, as far as there are any."""
    named = {"shape": shape, "workflow": template}
    return [f"{kind}:{name}" for kind, name in named.items() if name]
