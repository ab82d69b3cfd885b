"""Lessons on SQLite and on PostgreSQL: jobs are led over while others claim them, and a ledger of before has none."""

from __future__ import annotations

import pytest
from alembic import command
from sqlalchemy import text

from core.ledger import Ledger
from core.ledger.database import connections
from core.ledger.scheduling import lessons
from core.ledger.scheduling.reach import Outgrown
from core.ledger.upgrade import alembic_config, migrate
from core.settings import Settings
from tests.ledger_moves import claimed, in_parallel, submit
from tests.makers import come_up

SMALL, BIG = "gpu0@here", "gpu1@here"


def come(ledger: Ledger) -> None:
    come_up(ledger, SMALL, device="small", vram_bytes=12)
    come_up(ledger, BIG, device="big", vram_bytes=24)


def test_jobs_are_led_over_while_others_claim_them(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is claimed once, those of the shape on the big one alone, and lines count right to the end."""
    monkeypatch.setattr(connections, "TIMEOUT_S", 60.0)
    monkeypatch.setattr(lessons, "BATCH", 7)
    ledger = Ledger(ledger_settings, pool_size=10)
    come(ledger)
    of_shape = {submit(ledger, shape="s").id for _ in range(40)}
    others = {submit(ledger, shape="t").id for _ in range(20)}
    learner = claimed(ledger, SMALL, shape="s", priority=1)
    assert ledger.lessons.learn(learner.job_id, learner.attempt)
    ledger.requeue.release(learner, reason="memory", code="out_of_memory")
    of_shape.add(learner.job_id)
    led: list[int] = []

    def work(number: int) -> list[str]:
        if number < 2:
            while moved := ledger.lessons.lead("s", (Outgrown("small", 12),)):
                led.append(moved)
            return []
        return [claim.job_id for _ in range(20) if (claim := ledger.claims.claim(BIG)) is not None]

    results = in_parallel(6, work)
    taken = [job_id for jobs in results if isinstance(jobs, list) for job_id in jobs]
    assert all(isinstance(jobs, list) for jobs in results), results
    on_small = []
    while (claim := ledger.claims.claim(SMALL)) is not None:
        on_small.append(claim.job_id)
    while (claim := ledger.claims.claim(BIG)) is not None:
        taken.append(claim.job_id)

    assert set(on_small) <= others
    assert sorted([*taken, *on_small]) == sorted(of_shape | others)
    assert sum(led) <= 40 - 7, "none of them twice"
    assert ledger.line_mender.mend() == 0
    ledger.close()


def test_what_is_led_back_is_what_did_not_run_out_of_memory(ledger: Ledger) -> None:
    come(ledger)
    waiting = submit(ledger, shape="s")
    claim = claimed(ledger, SMALL, shape="s", priority=1)
    ledger.lessons.learn(claim.job_id, claim.attempt)
    ledger.requeue.release(claim, reason="memory", code="out_of_memory")
    assert ledger.claims.claim(SMALL) is None
    ledger.lessons.refute("s", "small")
    for shape, avoids in ledger.lessons.wanted().items():
        assert ledger.lessons.lead(shape, avoids) == 1
    found = ledger.claims.claim(SMALL)
    assert found is not None
    assert found.job_id == waiting.id
    assert ledger.claims.claim(SMALL) is None


def test_jobs_of_a_ledger_of_before_can_be_taught(ledger: Ledger, ledger_settings: Settings) -> None:
    come(ledger)
    waiting, claim = submit(ledger, shape="s"), claimed(ledger, SMALL, shape="s", priority=1)
    with ledger.database.engine.connect() as connection:
        command.downgrade(alembic_config(connection), "0017")
        connection.commit()
        columns = connection.execute(text("SELECT * FROM lines LIMIT 1")).keys()
        assert "avoids" not in columns
    ledger.database.dispose()
    migrate(ledger_settings)
    newer = Ledger(ledger_settings)
    assert newer.lessons.learn(claim.job_id, claim.attempt)
    assert newer.claims.claim(SMALL) is None
    found = newer.claims.claim(BIG)
    assert found is not None
    assert found.job_id == waiting.id
    newer.close()
