"""What running out of memory teaches, who is kept off which GPU by it, and when that ends."""

from __future__ import annotations

import pytest

from core.ledger import Ledger
from core.ledger.claims import Claim
from core.ledger.instances import HEALTHY, SILENCE_MS
from core.ledger.model_sets import load_subject, model_set_of, run_subject
from core.ledger.scheduling import lessons
from core.ledger.scheduling.lessons import COUNTS_MS, KEPT_MS, OUT_OF_MEMORY
from core.ledger.scheduling.presence import AWAY_MS
from core.ledger.scheduling.reach import Outgrown
from core.records.job import Job
from core.records.requirements import Requirements
from core.settings import Settings
from tests.ledger_moves import claimed, submit
from tests.makers import WORKER, StoppedClock, come_up

SMALL, OTHER_SMALL, SMALLER, BIG, BIGGER = (f"gpu{number}@here" for number in range(5))
GB = {SMALL: 12, OTHER_SMALL: 12, SMALLER: 8, BIG: 24, BIGGER: 48}
MODEL = "flux.safetensors"


@pytest.fixture(autouse=True)
def _heard_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lessons, "KNOWN_S", 0.0)


def come(ledger: Ledger, *names: str) -> None:
    """Make GPUs known, those of one size being of one kind."""
    for name in names:
        device = f"cuda:0 GTX {GB[name]} : native"
        come_up(ledger, name, device=device, vram_bytes=GB[name] * 10**9, memory_bytes=20 * 10**9)


def be_heard(ledger: Ledger, *names: str) -> None:
    for name in names:
        ledger.instances.heartbeat(name, worker=WORKER, state=HEALTHY, reason=None, is_drained=False, restarts=0)


def go(ledger: Ledger, name: str) -> None:
    ledger.instances.down(name, worker=WORKER, state="unhealthy", reason="x")


def job_of(ledger: Ledger, shape: str = "s", **fields: object) -> Job:
    return submit(ledger, shape=shape, models=(MODEL,), **fields)


def run_out(ledger: Ledger, name: str, shape: str = "s", **fields: object) -> tuple[str, bool]:
    """Have a job run out of memory; returns its id, and whether another kind of GPU can run it."""
    claim = claimed(ledger, name, shape=shape, models=(MODEL,), **fields)
    return claim.job_id, given_back(ledger, claim)


def given_back(ledger: Ledger, claim: Claim) -> bool:
    can_elsewhere = ledger.lessons.learn(claim.job_id, claim.attempt)
    ledger.requeue.release(claim, reason="memory", code=OUT_OF_MEMORY)
    return can_elsewhere


def taken(ledger: Ledger, name: str) -> str | None:
    claim = ledger.claims.claim(name)
    return None if claim is None else claim.job_id


def led(ledger: Ledger) -> int:
    """Lead all that wait to where they are wanted, as the reconciler does."""
    return sum(ledger.lessons.lead(shape, avoids) for shape, avoids in ledger.lessons.wanted().items())


class TestKeptOff:
    def test_the_job_itself_goes_to_another_kind(self, ledger: Ledger, clock: StoppedClock) -> None:
        come(ledger, SMALL, OTHER_SMALL, BIG)
        job_id, can_elsewhere = run_out(ledger, SMALL)
        assert can_elsewhere
        assert [taken(ledger, name) for name in (SMALL, OTHER_SMALL)] == [None, None]
        assert taken(ledger, BIG) == job_id

    def test_so_do_those_of_its_shape_that_wait_and_that_come(self, ledger: Ledger) -> None:
        come(ledger, SMALL, BIG)
        waiting = job_of(ledger)
        job_id, _ = run_out(ledger, SMALL, priority=1)
        coming = job_of(ledger)
        another = job_of(ledger, shape="t")
        assert [taken(ledger, SMALL), taken(ledger, SMALL)] == [another.id, None]
        assert [taken(ledger, BIG) for _ in range(3)] == [job_id, waiting.id, coming.id]

    def test_those_that_run_there_now_do_when_they_come_back(self, ledger: Ledger) -> None:
        come(ledger, SMALL, OTHER_SMALL, BIG)
        running = claimed(ledger, OTHER_SMALL, shape="s")
        run_out(ledger, SMALL)
        ledger.requeue.release(running, reason="stopped", lost=False)
        assert [taken(ledger, SMALL), taken(ledger, OTHER_SMALL)] == [None, None]

    def test_a_gpu_with_less_memory_is_no_other_kind(self, ledger: Ledger) -> None:
        come(ledger, SMALL, SMALLER)
        job_id, can_elsewhere = run_out(ledger, SMALL)
        assert not can_elsewhere
        come(ledger, BIG)
        led(ledger)
        assert [taken(ledger, name) for name in (SMALLER, SMALL, BIG)] == [None, None, job_id]

    def test_one_that_does_not_tell_its_memory_is(self, ledger: Ledger) -> None:
        come(ledger, SMALL)
        come_up(ledger, BIG, device="who knows")
        job_id, can_elsewhere = run_out(ledger, SMALL)
        assert can_elsewhere
        assert [taken(ledger, SMALL), taken(ledger, BIG)] == [None, job_id]

    def test_two_kinds_may_be_too_small(self, ledger: Ledger) -> None:
        come(ledger, SMALL, BIG, BIGGER)
        run_out(ledger, SMALL)
        claim = ledger.claims.claim(BIG)
        assert claim is not None
        assert given_back(ledger, claim)
        assert [taken(ledger, name) for name in (SMALL, BIG, BIGGER)] == [None, None, claim.job_id]

    def test_no_turn_is_published_for_it(self, ledger: Ledger) -> None:
        come(ledger, SMALL, BIG)
        job_id, _ = run_out(ledger, SMALL)
        assert [(turn.job_id, turn.instance) for turn in ledger.turns.missing()] == [(job_id, BIG)]

    def test_models_that_it_holds_are_of_no_use_to_them(self, ledger: Ledger, clock: StoppedClock) -> None:
        """Else the other kind would stay idle: those that hold the models would have done it sooner than a load."""
        models = model_set_of([MODEL])
        ledger.durations.learn_all({run_subject(models): 2.0, load_subject(models): 30.0}, gpu="any")
        come(ledger, SMALL, BIG)
        first = job_of(ledger, shape="t")
        assert taken(ledger, SMALL) == first.id
        clock.pass_ms(31_000)
        be_heard(ledger, SMALL, BIG)
        job_of(ledger, shape="t")
        assert taken(ledger, BIG) is None, "the one that holds the models will have done it sooner"
        job_id, _ = run_out(ledger, SMALL, priority=1)
        assert taken(ledger, BIG) == job_id

    def test_why_it_waits_is_said(self, ledger: Ledger, clock: StoppedClock) -> None:
        come(ledger, SMALL, BIG)
        claimed(ledger, BIG, priority=1)
        job_id, _ = run_out(ledger, SMALL)
        assert reason_of(ledger, job_id).startswith(
            "Ran out of memory on GTX 12 (12 GB), waits for another kind of GPU. gpu3@here will load"
        )
        go(ledger, BIG)
        assert reason_of(ledger, job_id).startswith("gpu0@here takes it now")


def reason_of(ledger: Ledger, job_id: str) -> str:
    outlook = ledger.outlook.read()
    return outlook.forecast.sentence(*outlook.indexes[job_id])


class TestNoOther:
    def test_alone_it_is_kept_off_nothing(self, ledger: Ledger) -> None:
        come(ledger, SMALL, OTHER_SMALL)
        waiting = job_of(ledger)
        job_id, can_elsewhere = run_out(ledger, SMALL, priority=1)
        assert not can_elsewhere
        assert led(ledger) == 0, "nobody is led anywhere for nothing"
        assert [taken(ledger, OTHER_SMALL), taken(ledger, SMALL)] == [job_id, waiting.id]

    def test_where_the_others_cannot_run_it(self, ledger: Ledger) -> None:
        come(ledger, SMALL)
        come_up(ledger, BIG, device="big", object_info={"Upscale": {}})
        own = [digest for digest, names in ledger.instances.catalogues().items() if SMALL in names]
        job_id, can_elsewhere = run_out(ledger, SMALL, catalogues=tuple(own))
        assert not can_elsewhere
        assert taken(ledger, SMALL) == job_id

    def test_where_the_others_are_not_in_its_pool(self, ledger: Ledger) -> None:
        come_up(ledger, SMALL, pool="p")
        come(ledger, BIG)
        job_id, can_elsewhere = run_out(ledger, SMALL, requires=Requirements(pool="p"))
        assert not can_elsewhere
        assert taken(ledger, SMALL) == job_id

    def test_one_that_cannot_is_no_reason_to_leave_what_the_other_lost(self, ledger: Ledger) -> None:
        come(ledger, SMALL, BIG)
        job_id, _ = run_out(ledger, SMALL)
        claim = ledger.claims.claim(BIG)
        assert claim is not None
        ledger.requeue.release(claim, reason="gone")
        assert [turn.instance for turn in ledger.turns.missing()] == [BIG]
        assert [taken(ledger, SMALL), taken(ledger, BIG)] == [None, job_id]

    def test_once_the_others_are_down(self, ledger: Ledger) -> None:
        come(ledger, SMALL, OTHER_SMALL, BIG)
        job_id, _ = run_out(ledger, SMALL)
        assert taken(ledger, OTHER_SMALL) is None
        go(ledger, BIG)
        assert taken(ledger, OTHER_SMALL) == job_id

    def test_once_the_others_are_lost_for_a_minute(self, ledger: Ledger, clock: StoppedClock) -> None:
        """A worker that was killed is started again; its kind is worth to be waited for so long."""
        come(ledger, SMALL, BIG)
        job_id, _ = run_out(ledger, SMALL)
        clock.pass_ms(SILENCE_MS + 1)
        be_heard(ledger, SMALL)
        ledger.instances.register(name=BIG, host="here", worker=WORKER, kind="simulator", gpu="0")
        assert taken(ledger, SMALL) is None, "it starts again"
        clock.pass_ms(AWAY_MS)
        be_heard(ledger, SMALL)
        assert taken(ledger, SMALL) == job_id


class TestEnd:
    def test_a_run_that_went_well_disproves_it(self, ledger: Ledger) -> None:
        come(ledger, SMALL, BIG)
        waiting = job_of(ledger)
        job_id, _ = run_out(ledger, SMALL, priority=1)
        ledger.lessons.refute("s", "cuda:0 GTX 24 : native")
        assert (led(ledger), taken(ledger, SMALL)) == (0, None), "that was another kind"
        ledger.lessons.refute("s", "cuda:0 GTX 12 : native")
        assert led(ledger) == 1
        assert taken(ledger, SMALL) == waiting.id
        assert taken(ledger, SMALL) is None, "what ran out of memory itself does not come back"
        assert taken(ledger, BIG) == job_id

    def test_it_may_be_learned_again(self, ledger: Ledger) -> None:
        come(ledger, SMALL, BIG)
        run_out(ledger, SMALL)
        ledger.lessons.refute("s", "cuda:0 GTX 12 : native")
        assert ledger.lessons.wanted() == {"s": ()}
        run_out(ledger, SMALL, priority=1)
        assert ledger.lessons.wanted() == {"s": (Outgrown("cuda:0 GTX 12 : native", 12 * 10**9),)}

    def test_it_is_forgotten_after_a_week(self, ledger: Ledger, clock: StoppedClock) -> None:
        come(ledger, SMALL, BIG)
        waiting = job_of(ledger)
        run_out(ledger, SMALL, priority=1)
        clock.pass_ms(COUNTS_MS)
        be_heard(ledger, SMALL, BIG)
        assert led(ledger) == 1
        assert taken(ledger, SMALL) == waiting.id
        ledger.lessons.forget()
        assert ledger.lessons.wanted() == {"s": ()}
        clock.pass_ms(KEPT_MS - COUNTS_MS)
        ledger.lessons.forget()
        assert ledger.lessons.wanted() == {}

    def test_only_the_newest_are_kept(
        self, ledger: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lessons, "KEPT", 2)
        come(ledger, SMALL, BIG)
        for shape in ("a", "b", "c"):
            run_out(ledger, SMALL, shape)
            clock.pass_ms(1)
        ledger.lessons.forget()
        assert ledger.lessons.wanted().keys() == {"b", "c"}


class TestLed:
    def test_a_batch_at_a_time_the_oldest_first(
        self, ledger: Ledger, clock: StoppedClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lessons, "BATCH", 2)
        come(ledger, SMALL, BIG)
        waiting = []
        for _ in range(5):
            waiting.append(job_of(ledger).id)
            clock.pass_ms(1)
        run_out(ledger, SMALL, priority=1)
        assert taken(ledger, SMALL) == waiting[2], "the rest is the reconciler's"
        assert [led(ledger), led(ledger)] == [2, 0]
        assert taken(ledger, SMALL) is None
        assert ledger.line_mender.mend() == 0, "every line counts its jobs"

    def test_one_whose_process_had_not_heard_of_it(
        self, ledger: Ledger, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lessons, "KNOWN_S", 60.0)
        come(ledger, SMALL, BIG)
        unaware = Ledger(settings)
        first = job_of(unaware)
        assert taken(ledger, BIG) == first.id
        run_out(ledger, SMALL)
        job = job_of(unaware)
        unaware.close()
        assert (led(ledger), led(ledger)) == (1, 0)
        assert taken(ledger, SMALL) is None
        assert ledger.jobs.get(job.id).status == "queued"

    def test_what_an_attempt_of_the_past_says_teaches_nothing(self, ledger: Ledger) -> None:
        come(ledger, SMALL, BIG)
        claim = claimed(ledger, SMALL, shape="s")
        ledger.requeue.release(claim, reason="gone")
        assert not ledger.lessons.learn(claim.job_id, claim.attempt)
        assert ledger.lessons.wanted() == {}

    def test_a_job_without_a_shape_teaches_nothing(self, ledger: Ledger) -> None:
        come(ledger, SMALL, BIG)
        claim = claimed(ledger, SMALL, shape=None)
        assert not ledger.lessons.learn(claim.job_id, claim.attempt)
        assert ledger.lessons.wanted() == {}
