"""Lines: which jobs share one, and that their counts are right whatever happens to jobs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from sqlalchemy import func, select, update

from core.ledger import Ledger
from core.ledger.database.tables import jobs, lines
from core.ledger.scheduling.lines import UNUSED_MS, LineKind
from core.records.requirements import Requirements
from tests.ledger_moves import ERROR, claimed, set_columns, submit
from tests.makers import NAME, StoppedClock, come_up


def counts(ledger: Ledger) -> dict[int, tuple[int, int | None]]:
    """By line, what is counted and the head that is noted."""
    with ledger.database.read() as connection:
        rows = connection.execute(select(lines.c.id, lines.c.waiting, lines.c.head_ms)).all()
    return {row.id: (row.waiting, row.head_ms) for row in rows if row.waiting or row.head_ms}


def truth(ledger: Ledger) -> dict[int, tuple[int, int | None]]:
    """The same, by the jobs themselves."""
    query = (
        select(jobs.c.line, func.count().label("waiting"), func.min(jobs.c.created_at_ms).label("head_ms"))
        .where(jobs.c.status == "queued")
        .group_by(jobs.c.line)
    )
    with ledger.database.read() as connection:
        return {row.line: (row.waiting, row.head_ms) for row in connection.execute(query)}


def line_of(ledger: Ledger, job_id: str) -> int | None:
    with ledger.database.read() as connection:
        found: int | None = connection.execute(select(jobs.c.line).where(jobs.c.id == job_id)).scalar()
    return found


class TestSharing:
    @pytest.mark.parametrize(
        "other",
        [
            {"priority": 1},
            {"models": ("a.safetensors",)},
            {"catalogues": ("f" * 64,)},
            {"requires": Requirements(pool="h100")},
            {"requires": Requirements(vram_gb=24.0)},
        ],
    )
    def test_what_differs_stands_apart(self, ledger: Ledger, other: dict[str, Any]) -> None:
        plain, again = submit(ledger), submit(ledger)
        apart, too = submit(ledger, **other), submit(ledger, **other)
        assert line_of(ledger, plain.id) == line_of(ledger, again.id) is not None
        assert line_of(ledger, apart.id) == line_of(ledger, too.id) is not None
        assert line_of(ledger, plain.id) != line_of(ledger, apart.id)

    def test_another_process_finds_the_same_line(self, ledger: Ledger) -> None:
        kind = LineKind(priority=3, files=("a", "b"), requires=Requirements(pool="x"))
        line_id = ledger.lines.id_of(kind)
        other = type(ledger.lines)(ledger.database)
        assert other.id_of(LineKind(priority=3, files=("a", "b"), requires=Requirements(pool="x"))) == line_id
        with ledger.database.read() as connection:
            assert type(ledger.lines)(ledger.database).kind_of(connection, line_id) == kind

    def test_models_that_others_hold_are_of_use_only_where_the_jobs_may_run(self) -> None:
        anywhere = LineKind(priority=0, files=("a",))
        pinned = LineKind(priority=0, files=("a",), catalogues="x")
        assert anywhere.work == anywhere.models == pinned.models
        assert pinned.work != pinned.models
        assert LineKind(priority=0, catalogues="x").work == ""


class TestCounts:
    @pytest.mark.parametrize("seed", range(3))
    def test_they_are_right_whatever_happens(self, ledger: Ledger, clock: StoppedClock, seed: int) -> None:
        chance = random.Random(seed)
        come_up(ledger)
        catalogue = next(iter(ledger.instances.catalogues()))
        waiting: list[str] = []
        held: list[Any] = []
        for _ in range(60):
            clock.pass_ms(chance.randrange(3))
            what = chance.random()
            if what < 0.4 or not waiting:
                fields: dict[str, Any] = {"priority": chance.randrange(2)}
                fields["models"] = chance.choice([(), ("a.pt",), ("a.pt", "b.pt")])
                fields["catalogues"] = chance.choice([None, (catalogue,)])
                waiting.append(submit(ledger, **fields).id)
            elif what < 0.6:
                claim = ledger.claims.claim(NAME)
                if claim is not None:
                    waiting.remove(claim.job_id)
                    held.append(claim)
            elif what < 0.7 and held:
                claim = held.pop()
                status = ledger.requeue.release(claim, reason="x", lost=False)
                if status == "queued":
                    waiting.append(claim.job_id)
            elif what < 0.8:
                job_id = chance.choice(waiting)
                ledger.jobs.cancel(job_id)
                waiting.remove(job_id)
            elif what < 0.9 and held:
                ledger.claims.fail(held.pop(), ERROR)
            else:
                ledger.pins.change(dict.fromkeys(ledger.pins.waiting(after="", limit=3)))
            assert counts(ledger) == truth(ledger)

    def test_a_job_that_expires_leaves_its_line(self, ledger: Ledger, clock: StoppedClock) -> None:
        submit(ledger)
        clock.pass_ms(1001)
        assert ledger.requeue.expire_waiting(timeout_s=1)
        assert counts(ledger) == {}

    def test_the_nearest_deadline_is_noted(self, ledger: Ledger, clock: StoppedClock) -> None:
        submit(ledger)
        far, near = submit(ledger, start_within_s=60), submit(ledger, start_within_s=30)

        def noted() -> int | None:
            with ledger.database.read() as connection:
                return connection.execute(select(lines.c.start_by_ms)).scalar()

        assert noted() == clock.now_ms + 30_000
        ledger.jobs.cancel(near.id)
        assert noted() == clock.now_ms + 60_000
        ledger.jobs.cancel(far.id)
        assert noted() is None


class TestMending:
    def test_a_job_of_an_earlier_version_is_put_in_line(self, ledger: Ledger) -> None:
        come_up(ledger)
        job = submit(ledger)
        set_columns(ledger, job.id, line=None)
        with ledger.database.write() as transaction:
            transaction.connection.execute(update(lines).values(waiting=0, head_ms=None))
        assert ledger.claims.claim(NAME) is None
        assert ledger.line_mender.mend() == 1
        assert counts(ledger) == truth(ledger)
        claim = ledger.claims.claim(NAME)
        assert claim is not None
        assert claim.job_id == job.id
        assert ledger.line_mender.mend() == 0

    @pytest.mark.parametrize("counted", [0, -1, 5])
    def test_a_line_that_hides_or_invents_jobs_is_counted_anew(self, ledger: Ledger, counted: int) -> None:
        job = submit(ledger)
        if counted == 5:
            ledger.jobs.cancel(job.id)
        with ledger.database.write() as transaction:
            transaction.connection.execute(update(lines).values(waiting=counted))
        assert ledger.line_mender.mend() == 1
        assert counts(ledger) == truth(ledger)


def test_lines_unused_for_a_week_are_removed(ledger: Ledger, clock: StoppedClock) -> None:
    claimed(ledger, priority=7)
    submit(ledger)
    clock.pass_ms(UNUSED_MS)
    ledger.lines.forget_unused()
    with ledger.database.read() as connection:
        assert len(connection.execute(select(lines.c.id)).all()) == 2
    clock.pass_ms(1)
    ledger.lines.forget_unused()
    with ledger.database.read() as connection:
        assert connection.execute(select(lines.c.priority)).scalars().all() == [0]


def test_a_line_that_a_process_goes_by_is_not_removed(ledger: Ledger, clock: StoppedClock) -> None:
    kind = LineKind(priority=7)
    line_id = ledger.lines.id_of(kind)
    clock.pass_ms(UNUSED_MS + 1)
    other = type(ledger.lines)(ledger.database)
    assert other.id_of(kind) == line_id
    ledger.lines.forget_unused()
    assert type(ledger.lines)(ledger.database).id_of(kind) == line_id
