"""Turns: for which idle instance, and when one that rather stayed idle is woken."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import Connection, event

from core.ledger import Ledger
from core.ledger.model_sets import load_subject, model_set_of, run_subject
from core.ledger.scheduling.lines import WaitingLine
from core.ledger.scheduling.turns import LOOKED_AT
from core.records.requirements import Requirements
from tests.ledger_moves import claimed, submit
from tests.makers import NAME, StoppedClock, come_up

OTHER = "gpu1@here"
MODELS = ("a.safetensors",)


def taught(ledger: Ledger, run_s: float = 4.0, load_s: float = 15.0) -> None:
    """Let it be known how long jobs of `MODELS` run, and how long these load."""
    models = model_set_of(MODELS)
    ledger.durations.learn_all({run_subject(models): run_s, load_subject(models): load_s}, gpu="RTX")


def fleet(ledger: Ledger) -> Any:
    """Two equal GPUs, of which the first runs a job and so holds the models."""
    taught(ledger)
    for name in (NAME, OTHER):
        come_up(ledger, name, device="RTX")
    return claimed(ledger, NAME, models=MODELS)


def test_a_job_is_for_the_idle_instance_that_would_take_it(ledger: Ledger) -> None:
    come_up(ledger)
    come_up(ledger, OTHER)
    claimed(ledger, NAME)
    job = submit(ledger)
    turn = ledger.turns.of(job.id)
    assert turn is not None
    assert (turn.instance, turn.job_id, turn.has_queue) == (OTHER, job.id, True)


def test_the_fleet_is_looked_at_once_where_nothing_changes_meanwhile(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    come_up(ledger)
    job = submit(ledger)
    looks: list[int] = []
    read = ledger.lines.waiting

    def counted(connection: Connection) -> list[WaitingLine]:
        looks.append(1)
        return read(connection)

    monkeypatch.setattr(ledger.lines, "waiting", counted)
    assert [turn.job_id for turn in ledger.turns.missing()] == [job.id]
    assert len(looks) == 1


def test_no_turn_for_a_job_that_has_begun_or_is_unknown(ledger: Ledger) -> None:
    come_up(ledger)
    come_up(ledger, OTHER)
    claim = claimed(ledger)
    assert ledger.turns.of(claim.job_id) is None
    assert ledger.turns.of("nobody") is None


def test_where_all_are_at_work_a_submission_looks_once(ledger: Ledger) -> None:
    come_up(ledger)
    claimed(ledger)
    job = submit(ledger)
    assert ledger.turns.of(job.id) is None
    statements: list[str] = []
    event.listen(ledger.database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert ledger.turns.of(job.id) is None
    assert len(statements) == 1
    recorded_s = time.monotonic()
    assert ledger.turns.of(job.id, recorded_s=recorded_s) is None
    assert len(statements) == 2, "the look before began before it was recorded"
    assert ledger.turns.of(job.id, recorded_s=recorded_s) is None
    assert len(statements) == 2, "that look was for both"
    come_up(ledger, OTHER)
    turn = ledger.turns.of(job.id)
    assert turn is not None
    assert turn.instance == OTHER


def test_an_instance_rather_stays_idle_and_is_woken_when_enough_waits(ledger: Ledger) -> None:
    fleet(ledger)
    turns = [ledger.turns.of(submit(ledger, models=MODELS).id) for _ in range(6)]
    # The first is busy for 19 s; a load of 15 s is worth it beyond 1.5 times that: 22.5 s.
    assert turns[0] is not None or turns[1] is not None
    woken = [turn for turn in turns if turn is not None]
    assert {turn.instance for turn in woken} == {OTHER}
    assert {turn.why for turn in woken} == {"relief"}


def test_nobody_is_woken_while_those_that_hold_the_models_will_have_done_it_sooner(ledger: Ledger) -> None:
    taught(ledger, load_s=60.0)
    for name in (NAME, OTHER):
        come_up(ledger, name, device="RTX")
    claimed(ledger, NAME, models=MODELS)
    job = submit(ledger, models=MODELS)
    assert ledger.turns.of(job.id) is None
    assert ledger.turns.missing() == []
    assert ledger.turns.woken() == []
    assert ledger.claims.claim(OTHER) is None


def test_an_instance_is_woken_when_the_only_holder_is_gone(ledger: Ledger) -> None:
    taught(ledger, load_s=600.0)
    for name in (NAME, OTHER):
        come_up(ledger, name, device="RTX")
    claimed(ledger, NAME, models=MODELS)
    job = submit(ledger, models=MODELS)
    assert ledger.turns.of(job.id) is None
    ledger.instances.down(NAME, worker="w1", state="unhealthy", reason="x")
    come_down(ledger)
    [turn] = ledger.turns.woken()
    assert (turn.instance, turn.job_id, turn.why) == (OTHER, job.id, "unheld")


def test_a_job_finds_its_gpu_behind_many_idle_ones_of_another_pool(ledger: Ledger) -> None:
    for number in range(LOOKED_AT + 5):
        come_up(ledger, f"a{number:02}@here", pool="a100")
    come_up(ledger, "h0@here", pool="h100")
    job = submit(ledger, requires=Requirements(pool="h100"))
    turn = ledger.turns.of(job.id)
    assert turn is not None
    assert turn.instance == "h0@here"


def test_of_many_that_are_idle_a_claim_wakes_two_and_not_always_the_same(ledger: Ledger) -> None:
    taught(ledger)
    for number in range(30):
        come_up(ledger, f"gpu{number}@here", device="RTX")
    for _ in range(100):
        submit(ledger, models=MODELS)
    woken = [{turn.instance for turn in ledger.turns.woken()} for _ in range(20)]
    assert {len(names) for names in woken} == {2}
    assert len(set.union(*woken)) > 4
    assert len(ledger.turns.missing()) > 4, "the reconciler leaves none out"


def come_down(ledger: Ledger) -> None:
    """Have the first instance replaced: it holds nothing, and its job is given back and cancelled."""
    for given in ledger.requeue.release_all(NAME, reason="x"):
        ledger.jobs.cancel(given.job_id)
    record = ledger.instances.get(NAME)
    assert record is not None
    ledger.instances.down(NAME, worker=record.worker, state="unhealthy", reason="x")


def test_a_job_that_was_not_taken_up_is_offered_to_another(ledger: Ledger, clock: StoppedClock) -> None:
    come_up(ledger)
    come_up(ledger, OTHER)
    job = submit(ledger)
    assert [turn.instance for turn in ledger.turns.missing()] == [NAME]
    clock.pass_ms(2001)
    assert [(turn.instance, turn.job_id) for turn in ledger.turns.missing()] == [(NAME, job.id), (OTHER, job.id)]


def test_workers_of_earlier_versions_have_no_queue_of_their_own(ledger: Ledger) -> None:
    come_up(ledger)
    with ledger.database.write() as transaction:
        transaction.connection.exec_driver_sql("UPDATE instances SET has_queue = 0")
    turn = ledger.turns.of(submit(ledger).id)
    assert turn is not None
    assert not turn.has_queue
