"""What the ledger learns about durations, and the waits it expects from that, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from core.clock import now_ms
from core.ledger import Ledger
from core.ledger import durations as learned
from core.ledger.database.learned_tables import durations
from core.ledger.durations import DEFAULT_S
from core.ledger.scheduling import heads
from core.records.job import Job
from tests.ledger_moves import claimed, in_parallel, register, set_columns, submit

GPU = "simulator"


def _rows(ledger: Ledger) -> dict[tuple[str, str], tuple[float, int]]:
    with ledger.database.read() as connection:
        return {(row.what, row.gpu): (row.average_s, row.seen) for row in connection.execute(select(durations))}


def _learn(ledger: Ledger, shape: str | None, seconds: float, *, template: str | None = None, gpu: str = GPU) -> None:
    ledger.durations.learn(shape=shape, template=template, gpu=gpu, seconds=seconds)


def _queued(ledger: Ledger, **fields: Any) -> Job:
    """Record a job that is younger than all others."""
    time.sleep(0.002)
    return submit(ledger, **fields)


def _wait_s(ledger: Ledger, job: Job) -> float | None:
    line, index = ledger.outlook.indexes([job.id])[job.id]
    return ledger.outlook.read().place(line, index).starts_in_s


def _wait_of_new_s(ledger: Ledger) -> float | None:
    return ledger.outlook.read().wait_of_new_s


def test_the_first_durations_are_averaged_and_then_the_newest_weigh_more(ledger: Ledger) -> None:
    for seconds in (1.0, 2.0, 3.0):
        _learn(ledger, "a", seconds)
    average_s, seen = _rows(ledger)["shape:a", GPU]
    assert (round(average_s, 6), seen) == (2.0, 3)

    for _ in range(12):
        _learn(ledger, "a", 10.0)

    average_s, seen = _rows(ledger)["shape:a", GPU]
    assert seen == 15
    assert 8.5 < average_s < 9.0


def test_a_template_is_learned_beside_the_shape_and_each_kind_of_gpu_by_itself(ledger: Ledger) -> None:
    _learn(ledger, "a", 1.0, template="t", gpu="L4")
    _learn(ledger, "b", 3.0, template="t", gpu="L4")
    _learn(ledger, "a", 0.5, gpu="H100")
    _learn(ledger, None, 9.0)

    assert {key: average_s for key, (average_s, _) in _rows(ledger).items()} == {
        ("shape:a", "L4"): 1.0,
        ("shape:b", "L4"): 3.0,
        ("workflow:t", "L4"): 2.0,
        ("shape:a", "H100"): 0.5,
    }


def test_no_duration_is_lost_when_many_workers_learn_at_once(ledger: Ledger) -> None:
    in_parallel(8, lambda number: _learn(ledger, "a", float(number), template="t"))

    assert {key: seen for key, (_, seen) in _rows(ledger).items()} == {("shape:a", GPU): 8, ("workflow:t", GPU): 8}


@pytest.mark.parametrize(
    ("fields", "gpus", "expected_s"),
    [
        ({"shape": "a", "template": "t", "expected_time_s": 7.0}, ["L4"], 1.0),
        ({"shape": "a"}, ["L4", "H100"], 0.75),
        ({"shape": "a"}, ["A10"], 0.75),
        ({"shape": "a"}, [], 0.75),
        ({"shape": "new", "template": "t", "expected_time_s": 7.0}, ["L4"], 2.0),
        ({"shape": "new", "template": "t"}, ["H100"], 2.0),
        ({"shape": "new", "expected_time_s": 7.0}, ["L4"], 7.0),
        ({"shape": "new", "expected_time_s": 0.0}, ["L4"], 0.0),
        ({}, ["L4"], DEFAULT_S),
    ],
)
def test_what_is_expected_of_a_job(ledger: Ledger, fields: dict[str, Any], gpus: list[str], expected_s: float) -> None:
    _learn(ledger, "a", 1.0, gpu="L4")
    _learn(ledger, "a", 0.5, gpu="H100")
    _learn(ledger, None, 2.0, template="t", gpu="L4")

    assert ledger.durations.expect(submit(ledger, **fields), gpus) == expected_s


def test_averages_that_nobody_used_for_long_are_forgotten(ledger: Ledger) -> None:
    _learn(ledger, "old", 1.0)
    _learn(ledger, "new", 1.0)
    ledger.durations.forget()
    assert len(_rows(ledger)) == 2
    with ledger.database.write() as transaction:
        before = now_ms() - learned.FORGET_MS - 1000
        old = update(durations).where(durations.c.what == "shape:old").values(updated_at_ms=before)
        transaction.connection.execute(old)

    ledger.durations.forget()

    assert set(_rows(ledger)) == {("shape:new", GPU)}


def test_there_are_never_more_averages_than_are_kept(ledger: Ledger) -> None:
    now = now_ms()
    count = learned.KEPT + 50
    with ledger.database.write() as transaction:
        transaction.connection.execute(
            insert(durations),
            [
                {"what": f"shape:{age}", "gpu": GPU, "average_s": 1.0, "seen": 1, "updated_at_ms": now - age}
                for age in range(count)
            ],
        )

    ledger.durations.forget()

    with ledger.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(durations)).scalar_one() == learned.KEPT
    assert ("shape:0", GPU) in _rows(ledger)


def test_a_queued_job_waits_for_those_ahead_and_for_the_rest_of_what_runs(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    _learn(ledger, "quick", 2.0)
    _learn(ledger, "slow", 20.0)
    running = claimed(ledger, shape="slow")
    began_ms = now_ms() - 5_000
    set_columns(ledger, running.job_id, started_at_ms=began_ms)
    first = _queued(ledger, shape="quick")
    second = _queued(ledger, expected_time_s=4.0)
    urgent = _queued(ledger, shape="slow", priority=9)

    def after_what_ran(seconds: float) -> object:
        return pytest.approx(20.0 - (now_ms() - began_ms) / 1000 + seconds, abs=0.5)

    assert _wait_s(ledger, urgent) == after_what_ran(0.0)
    assert _wait_s(ledger, first) == after_what_ran(20.0)
    assert _wait_s(ledger, second) == after_what_ran(22.0)
    assert _wait_of_new_s(ledger) == after_what_ran(26.0)


def test_a_job_on_deck_has_not_begun_and_one_that_takes_too_long_is_never_as_good_as_done(ledger: Ledger) -> None:
    register(ledger, "gpu0@here")
    _learn(ledger, "a", 10.0)
    running, on_deck = claimed(ledger, shape="a"), claimed(ledger, shape="a")
    long_ago = now_ms() - 60_000
    set_columns(ledger, running.job_id, started_at_ms=long_ago)
    set_columns(ledger, on_deck.job_id, started_at_ms=long_ago, on_deck=True)

    # What takes too long is expected to take a quarter more.
    assert _wait_of_new_s(ledger) == pytest.approx(2.5 + 10.0)


def test_gpus_share_the_work_and_without_any_there_is_no_estimate(ledger: Ledger) -> None:
    _learn(ledger, "a", 6.0)
    ahead, last = _queued(ledger, shape="a"), _queued(ledger, shape="a")
    assert (_wait_s(ledger, last), _wait_of_new_s(ledger)) == (None, None)

    register(ledger, "gpu0@here")
    assert (_wait_s(ledger, ahead), _wait_s(ledger, last)) == (0.0, 6.0)
    register(ledger, "gpu1@here")
    assert (_wait_s(ledger, last), _wait_of_new_s(ledger)) == (0.0, 6.0)
    ledger.instances.down("gpu0@here", worker="w-gpu0@here", state="unhealthy", reason="")
    assert _wait_s(ledger, last) == 6.0


def test_only_gpus_that_can_run_a_job_count(ledger: Ledger) -> None:
    register(ledger, "gpu0@here", {"Plain": {}})
    register(ledger, "gpu1@here", {"Special": {}})
    digests = {names[0]: digest for digest, names in ledger.instances.catalogues().items()}
    plain, special = (digests["gpu0@here"],), (digests["gpu1@here"],)
    _learn(ledger, "a", 8.0)
    _queued(ledger, shape="a", catalogues=plain)
    _queued(ledger, shape="a")
    on_special = _queued(ledger, shape="a", catalogues=special)
    on_plain = _queued(ledger, shape="a", catalogues=plain)
    nowhere = _queued(ledger, shape="a", catalogues=("0" * 64,))

    assert _wait_s(ledger, on_special) == 8.0, "behind the one that runs anywhere"
    assert _wait_s(ledger, on_plain) == 8.0
    assert _wait_s(ledger, nowhere) is None


def test_far_behind_jobs_are_taken_to_last_as_long_as_those_that_were_looked_at(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "LOOK", 2)
    register(ledger, "gpu0@here")
    _learn(ledger, "a", 5.0)
    queued = [_queued(ledger, shape="a") for _ in range(5)]

    outlook = ledger.outlook.read()

    assert list(outlook.indexes) == [job.id for job in queued[:2]]
    assert [_wait_s(ledger, job) for job in queued] == [0.0, 5.0, 10.0, 15.0, 20.0]
    assert outlook.wait_of_new_s == 25.0


def test_a_look_at_a_long_queue_is_quick(sqlite_settings: Any) -> None:
    ledger = Ledger(sqlite_settings)
    register(ledger, "gpu0@here")
    submit(ledger, shape="a", graph_text='{"1":"' + "x" * 5_000 + '"}')
    with ledger.database.write() as transaction:
        columns = [row[1] for row in transaction.connection.exec_driver_sql("PRAGMA table_info(jobs)")]
        values = ", ".join("hex(randomblob(16))" if name == "id" else name for name in columns)
        while transaction.connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one() < 10_000:
            transaction.connection.exec_driver_sql(f"INSERT INTO jobs SELECT {values} FROM jobs")
        transaction.connection.exec_driver_sql("UPDATE lines SET waiting = (SELECT count(*) FROM jobs)")

    took_s = []
    for _ in range(5):
        begun_s = time.perf_counter()
        outlook = ledger.outlook.read()
        took_s.append(time.perf_counter() - begun_s)
    ledger.close()

    assert outlook.sizes["queued"] > 10_000
    assert outlook.wait_of_new_s == pytest.approx(outlook.sizes["queued"] * DEFAULT_S, rel=0.001)
    assert min(took_s) < 0.1, "some 25 ms; a look that grows with the queue takes ten times as long"
