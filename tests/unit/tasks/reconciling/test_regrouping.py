"""Waiting jobs led into the lines that a lesson wants them in, as far as the time of a run goes: two looks."""

from __future__ import annotations

import pytest

from core.ledger import Ledger
from core.ledger.scheduling import lessons
from core.ledger.scheduling.lessons import Lessons
from tasks.reconciling import regrouping
from tasks.reconciling.regrouping import SECOND_LOOK_S, TIME_LIMIT_S, Regrouping, follow_lessons
from tests.ledger_moves import claimed, submit
from tests.makers import WORKER, BrokerlessRuntime, Stopwatch, come_up

SMALL, BIG = "gpu0@here", "gpu1@here"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr(regrouping, "time", watch)
    return watch


@pytest.fixture
def leads(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shapes whose jobs were led or looked for, one entry each time. The learner leads none: it died."""
    led: list[str] = []
    original = Lessons.lead

    def lead(self: Lessons, shape: str, *given: object, first: int | None = None) -> int:
        if first is not None:
            return 0
        led.append(shape)
        return original(self, shape, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Lessons, "lead", lead)
    monkeypatch.setattr(lessons, "KNOWN_S", 0.0)
    come_up(ledger, SMALL, device="small")
    come_up(ledger, BIG, device="big")
    return led


def learn(ledger: Ledger, shape: str = "s") -> None:
    claim = claimed(ledger, SMALL, shape=shape, priority=1)
    assert ledger.lessons.learn(claim.job_id, claim.attempt)
    ledger.claims.canceled(claim)


def taken(ledger: Ledger, name: str = SMALL) -> str | None:
    claim = ledger.claims.claim(name)
    return None if claim is None else claim.job_id


def test_the_jobs_of_one_that_died_after_it_learned(ledger: Ledger, watch: Stopwatch, leads: list[str]) -> None:
    jobs = [submit(ledger, shape="s").id for _ in range(3)]
    other = submit(ledger, shape="t").id
    learn(ledger)
    assert Regrouping(ledger).go_on() == 3
    assert [taken(ledger), taken(ledger)] == [other, None]
    assert {taken(ledger, BIG) for _ in jobs} == set(jobs)


def test_there_are_two_looks_and_no_third(ledger: Ledger, watch: Stopwatch, leads: list[str]) -> None:
    learn(ledger)
    looking = Regrouping(ledger)
    looking.go_on()
    looking.go_on()
    assert leads == ["s"]
    watch.now_s += SECOND_LOOK_S
    looking.go_on()
    looking.go_on()
    assert leads == ["s", "s"]


def test_it_looks_again_when_a_lesson_has_ended(ledger: Ledger, watch: Stopwatch, leads: list[str]) -> None:
    job = submit(ledger, shape="s")
    learn(ledger)
    looking = Regrouping(ledger)
    assert looking.go_on() == 1
    ledger.lessons.refute("s", "small")
    assert looking.go_on() == 1
    assert taken(ledger) == job.id


def test_it_looks_again_when_another_kind_of_gpu_has_come(ledger: Ledger, watch: Stopwatch, leads: list[str]) -> None:
    learn(ledger)
    ledger.instances.down(BIG, worker=WORKER, state="unhealthy", reason="x")
    job = submit(ledger, shape="s")
    looking = Regrouping(ledger)
    assert looking.go_on() == 0
    come_up(ledger, BIG, device="big")
    assert looking.go_on() == 1
    assert [taken(ledger), taken(ledger, BIG)] == [None, job.id]


def test_a_run_gives_it_so_much_time(
    ledger: Ledger, watch: Stopwatch, leads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lessons, "BATCH", 1)
    for _ in range(4):
        submit(ledger, shape="s")
    learn(ledger)
    looking, original = Regrouping(ledger), ledger.lessons.lead

    def slow(*given: object) -> int:
        watch.now_s += TIME_LIMIT_S * 0.6
        return original(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger.lessons, "lead", slow)
    assert [looking.go_on(), looking.go_on(), looking.go_on()] == [2, 2, 0]


def test_the_reconciler_goes_on_where_it_stopped(
    runtime: BrokerlessRuntime, watch: Stopwatch, leads: list[str]
) -> None:
    learn(runtime.ledger)
    follow_lessons(runtime)
    follow_lessons(runtime)
    assert leads == ["s"]
