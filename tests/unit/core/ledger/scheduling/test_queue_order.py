"""The order of the queue is one, however it is asked for, and fitting is told by catalogues alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import Connection, create_engine, insert, select

from core.ledger.database.tables import jobs
from core.ledger.scheduling.queue_order import (
    accepted_of,
    comes_before,
    queue_order,
    rank_of,
    rank_of_new,
)


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What of a job decides about its place."""

    id: str
    priority: int
    created_at_ms: int


QUEUE = [
    Waiting(id=f"{name}-{priority}-{at_ms}", priority=priority, created_at_ms=at_ms)
    for priority, at_ms, name in itertools.product((0, 9, -9), (20, 10), "ba")
]
IN_ORDER = [job.id for job in sorted(QUEUE, key=rank_of)]


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    jobs.create(engine)
    with engine.connect() as opened:
        for job in QUEUE:
            opened.execute(insert(jobs).values(_row(job.id, priority=job.priority, created_at_ms=job.created_at_ms)))
        yield opened
    engine.dispose()


def _row(job_id: str, **fields: object) -> dict[str, object]:
    numbers = dict.fromkeys(("attempt", "lost_attempts", "last_seq", "priority", "nodes_total", "created_at_ms"), 0)
    times = {"updated_at_ms": 0, "expires_at_ms": 0}
    return {"id": job_id, "contract": "v2", "status": "queued", "graph": "{}", **numbers, **times, **fields}


def test_the_order_is_priority_then_age_then_id() -> None:
    assert IN_ORDER[:4] == ["a-9-10", "b-9-10", "a-9-20", "b-9-20"]
    assert IN_ORDER[-1] == "b--9-20"


def test_a_statement_sorts_as_ranks_do(connection: Connection) -> None:
    assert list(connection.execute(select(jobs.c.id).order_by(*queue_order())).scalars()) == IN_ORDER


def test_what_comes_before_a_job_are_those_of_smaller_rank(connection: Connection) -> None:
    for place, job in enumerate(sorted(QUEUE, key=rank_of)):
        before = connection.execute(select(jobs.c.id).where(comes_before(job))).scalars()
        assert set(before) == set(IN_ORDER[:place])


def test_rows_of_two_tables_compare_likewise(connection: Connection) -> None:
    other = jobs.alias()
    pairs = connection.execute(select(other.c.id, jobs.c.id).where(comes_before(jobs.c, other))).all()
    assert {(first, second) for first, second in pairs} == set(itertools.combinations(IN_ORDER, 2))


def test_the_index_of_turns_has_the_same_order() -> None:
    index = next(index for index in jobs.indexes if index.name == "jobs_turn")
    named = [str(getattr(column, "name", None) or column) for column in index.expressions]
    assert named == ["status", *(str(column).removeprefix("jobs.") for column in queue_order())]


def test_a_new_job_stands_behind_those_of_its_priority_and_before_lower_ones() -> None:
    new = rank_of_new(20)
    assert [job_id for job_id in IN_ORDER if job_id.split("-", 1)[1].startswith("-")] == [
        job.id for job in sorted(QUEUE, key=rank_of) if rank_of(job) > new
    ]


def test_pins_are_read_as_a_set() -> None:
    assert accepted_of(None) is None
    assert accepted_of("x,y") == frozenset({"x", "y"})
