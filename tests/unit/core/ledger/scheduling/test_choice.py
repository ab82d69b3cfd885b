"""Which waiting job an instance runs next, what is a surplus, and which turns are missing."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from core.ledger import Ledger
from core.ledger.database.tables import instances
from core.ledger.durations import DEFAULT_S
from core.ledger.instances import SILENCE_MS
from core.ledger.model_sets import load_subject, model_set_of, run_subject
from core.ledger.scheduling.avoidance import AVOID_MS
from core.records.requirements import Requirements
from core.scheduling.residency import USUAL_BYTES
from tasks.runner.run_times import was_held_in_vain
from tests.ledger_moves import claimed, set_columns, submit
from tests.makers import NAME, WORKER, StoppedClock, come_up, record_of

OTHER = "gpu1@here"
BUSY = "gpu9@here"
KSAMPLER: dict[str, Any] = {"KSampler": {}}
UPSCALER: dict[str, Any] = {"Upscale": {}}
#: What is learned of the model file `a`.
RUNS, LOADS = run_subject(model_set_of(["a"])), load_subject(model_set_of(["a"]))


def digest(ledger: Ledger, name: str) -> str:
    """The digest of an instance's catalogue."""
    return next(found for found, names in ledger.instances.catalogues().items() if name in names)


def next_job(ledger: Ledger, instance: str = NAME, **options: Any) -> str | None:
    """Which job an instance claims."""
    claim = ledger.claims.claim(instance, **options)
    return None if claim is None else claim.job_id


def takes_ahead(ledger: Ledger) -> bool:
    """Whether an instance that is at work would take a job ahead of time; it does not keep it."""
    claim = ledger.claims.claim(BUSY, ahead=True)
    if claim is not None:
        ledger.requeue.release(claim, reason="only asked", lost=False)
    return claim is not None


def missing(ledger: Ledger) -> list[str]:
    """The jobs whose turns are missing."""
    return [turn.job_id for turn in ledger.turns.missing()]


class TestOrder:
    def test_priority_then_age_then_id(self, ledger: Ledger, clock: StoppedClock) -> None:
        old, young = submit(ledger), submit(ledger)
        set_columns(ledger, young.id, created_at_ms=clock.now_ms + 1)
        urgent = submit(ledger, priority=5)
        twins = sorted(submit(ledger, priority=-1).id for _ in range(2))
        assert [next_job(ledger) for _ in range(6)] == [urgent.id, old.id, young.id, *twins, None]

    def test_the_named_one_goes_before_those_as_urgent(self, ledger: Ledger) -> None:
        submit(ledger)
        named = submit(ledger)
        assert next_job(ledger, named=named.id) == named.id

    def test_a_more_urgent_one_goes_before_the_named(self, ledger: Ledger) -> None:
        named, urgent = submit(ledger), submit(ledger, priority=1)
        assert next_job(ledger, named=named.id) == urgent.id
        assert next_job(ledger, named=named.id) == named.id

    def test_a_named_one_that_is_gone_costs_no_turn(self, ledger: Ledger) -> None:
        waiting = submit(ledger)
        assert next_job(ledger, named="nobody") == waiting.id


class TestFit:
    def test_pins_say_which_instances_may_have_it(self, ledger: Ledger) -> None:
        come_up(ledger, object_info=KSAMPLER)
        come_up(ledger, OTHER, object_info=UPSCALER)
        job = submit(ledger, catalogues=(digest(ledger, OTHER),))
        assert next_job(ledger) is None
        assert next_job(ledger, named=job.id) is None
        assert next_job(ledger, OTHER) == job.id

    def test_one_of_several_pins_is_enough(self, ledger: Ledger) -> None:
        come_up(ledger, object_info=KSAMPLER)
        job = submit(ledger, catalogues=("f" * 64, digest(ledger, NAME)))
        assert next_job(ledger) == job.id


class TestAvoidance:
    """A job that was lost on one instance is left to others for a minute."""

    @pytest.fixture
    def lost(self, ledger: Ledger, clock: StoppedClock) -> str:
        come_up(ledger, object_info=KSAMPLER)
        claim = claimed(ledger)
        ledger.requeue.release(claim, reason="gone")
        return claim.job_id

    def test_the_only_one_tries_again(self, ledger: Ledger, lost: str) -> None:
        assert next_job(ledger) == lost

    def test_another_has_it_first(self, ledger: Ledger, lost: str) -> None:
        come_up(ledger, OTHER)
        assert next_job(ledger) is None
        assert next_job(ledger, OTHER) == lost

    @pytest.mark.parametrize(
        ("required", "is_left"),
        [
            ({"pool": "a"}, False),
            ({"vram_gb": 24.0}, False),
            ({"vram_gb": 8.0}, True),
            ({"pool": "a", "vram_gb": 8.0}, False),
            (None, True),
        ],
    )
    def test_one_that_has_not_what_is_required_is_no_other(
        self, ledger: Ledger, required: dict[str, Any] | None, is_left: bool
    ) -> None:
        come_up(ledger, pool="a", vram_bytes=24_000_000_000)
        come_up(ledger, OTHER, pool="b", vram_bytes=8_000_000_000)
        claim = claimed(ledger, requires=None if required is None else Requirements(**required))
        ledger.requeue.release(claim, reason="gone")
        assert [turn.instance for turn in ledger.turns.missing()] == [OTHER if is_left else NAME]
        assert next_job(ledger) == (None if is_left else claim.job_id)

    @pytest.mark.parametrize("asks_by", ["turn", "claim"])
    def test_others_load_what_is_left_to_them(self, ledger: Ledger, asks_by: str) -> None:
        """The one that lost it holds the models and is idle: they would leave it the job that it leaves to them."""
        models = model_set_of(("sdxl",))
        ledger.durations.learn_all({run_subject(models): 1.0, load_subject(models): 20.0}, gpu="d")
        come_up(ledger)
        come_up(ledger, OTHER)
        claim = claimed(ledger, models=("sdxl",))
        assert next_job(ledger, OTHER) is None
        ledger.requeue.release(claim, reason="gone")
        if asks_by == "turn":
            assert [turn.instance for turn in ledger.turns.missing()] == [OTHER]
        else:
            assert next_job(ledger) is None
            assert next_job(ledger, OTHER) == claim.job_id

    def test_what_else_waits_is_still_for_the_one_that_holds_the_models(self, ledger: Ledger) -> None:
        models = model_set_of(("sdxl",))
        ledger.durations.learn_all({run_subject(models): 1.0, load_subject(models): 20.0}, gpu="d")
        come_up(ledger)
        come_up(ledger, OTHER)
        claim = claimed(ledger, models=("sdxl",))
        ledger.requeue.release(claim, reason="gone")
        another = submit(ledger, models=("sdxl",))
        assert next_job(ledger, OTHER) is None
        assert next_job(ledger) == another.id

    def test_for_a_minute(self, ledger: Ledger, lost: str, clock: StoppedClock) -> None:
        clock.pass_ms(AVOID_MS)
        come_up(ledger, OTHER)
        assert next_job(ledger) is None
        clock.pass_ms(1)
        assert next_job(ledger) == lost

    def test_one_that_is_silent_or_down_is_no_other(self, ledger: Ledger, lost: str, clock: StoppedClock) -> None:
        come_up(ledger, OTHER)
        clock.pass_ms(SILENCE_MS - 1)
        assert next_job(ledger) is None
        clock.pass_ms(1)
        assert next_job(ledger) == lost

    def test_one_that_is_not_healthy_is_no_other(self, ledger: Ledger, lost: str) -> None:
        come_up(ledger, OTHER)
        ledger.instances.down(OTHER, worker=WORKER, state="unhealthy", reason="x")
        assert next_job(ledger) == lost

    @pytest.mark.parametrize("by", ["nodes", "pool"])
    def test_one_that_does_not_suit_is_no_other(self, ledger: Ledger, by: str) -> None:
        come_up(ledger, object_info=KSAMPLER, pool="p")
        come_up(ledger, OTHER, object_info=UPSCALER)
        needs: dict[str, Any] = {"catalogues": (digest(ledger, NAME),)}
        claim = claimed(ledger, **needs if by == "nodes" else {"requires": Requirements(pool="p")})
        ledger.requeue.release(claim, reason="gone")
        assert missing(ledger) == [claim.job_id]
        assert next_job(ledger) == claim.job_id

    def test_what_it_did_not_lose_it_takes_meanwhile(self, ledger: Ledger, lost: str) -> None:
        come_up(ledger, OTHER)
        job = submit(ledger)
        assert next_job(ledger, named=lost) == job.id
        assert next_job(ledger) is None


class TestAhead:
    @pytest.fixture(autouse=True)
    def _busy(self, ledger: Ledger) -> None:
        come_up(ledger, BUSY)
        claimed(ledger, BUSY)

    def test_what_the_idle_would_take_is_left_to_them(self, ledger: Ledger) -> None:
        assert not takes_ahead(ledger), "nothing waits"
        submit(ledger)
        assert takes_ahead(ledger)
        come_up(ledger)
        assert not takes_ahead(ledger)
        submit(ledger)
        assert takes_ahead(ledger)

    def test_others_at_work_are_not_idle(self, ledger: Ledger) -> None:
        come_up(ledger)
        claimed(ledger)
        submit(ledger)
        assert takes_ahead(ledger)

    def test_what_no_idle_instance_suits_is_taken(self, ledger: Ledger) -> None:
        come_up(ledger, object_info=UPSCALER)
        submit(ledger, catalogues=(digest(ledger, BUSY),))
        assert takes_ahead(ledger)


class TestMissingTurns:
    def test_one_for_each_job_that_an_idle_instance_would_take(self, ledger: Ledger) -> None:
        come_up(ledger)
        assert missing(ledger) == []
        first = submit(ledger)
        come_up(ledger, OTHER)
        assert missing(ledger) == [first.id]
        urgent = submit(ledger, priority=1)
        assert missing(ledger) == [urgent.id, first.id]
        submit(ledger)
        assert len(missing(ledger)) == 2

    def test_none_for_the_busy(self, ledger: Ledger) -> None:
        come_up(ledger)
        claimed(ledger)
        submit(ledger)
        assert missing(ledger) == []

    def test_none_for_jobs_that_suit_nobody_idle(self, ledger: Ledger) -> None:
        come_up(ledger, object_info=KSAMPLER)
        submit(ledger, catalogues=("f" * 64,))
        assert missing(ledger) == []
        job = submit(ledger, catalogues=(digest(ledger, NAME),))
        assert missing(ledger) == [job.id]

    @pytest.mark.parametrize(
        ("others", "expected"),
        [("none", True), ("idle", True), ("busy", False), ("unsuited", True)],
    )
    def test_a_job_just_lost(self, ledger: Ledger, clock: StoppedClock, others: str, expected: bool) -> None:
        """It has a turn if an idle instance may try it: another one, or the only one there is."""
        come_up(ledger, object_info=KSAMPLER)
        claim = claimed(ledger)
        ledger.requeue.release(claim, reason="gone")
        if others == "unsuited":
            set_columns(ledger, claim.job_id, catalogues=f"{digest(ledger, NAME)},{'f' * 64}")
        if others != "none":
            come_up(ledger, OTHER, object_info=UPSCALER)
        if others == "busy":
            claimed(ledger, OTHER, priority=9)
        assert (claim.job_id in missing(ledger)) is expected

    def test_a_job_lost_a_minute_ago_has_a_turn_like_any_other(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        claim = claimed(ledger)
        ledger.requeue.release(claim, reason="gone")
        clock.pass_ms(AVOID_MS)
        come_up(ledger)
        come_up(ledger, OTHER)
        claimed(ledger, OTHER, priority=9)
        assert missing(ledger) == []
        clock.pass_ms(1)
        assert missing(ledger) == [claim.job_id]

    def test_those_that_lost_a_job_are_asked_last(self, ledger: Ledger) -> None:
        come_up(ledger)
        claim = claimed(ledger)
        ledger.requeue.release(claim, reason="gone")
        come_up(ledger, OTHER)
        assert [turn.instance for turn in ledger.turns.missing()] == [OTHER]


class TestExpectation:
    """How long a claimed job is expected to run: its own shape, not what else stands in its line."""

    def test_one_that_finds_nothing_is_at_work_still(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        claimed(ledger)
        left_s = free_in_s(ledger, clock)
        assert left_s > 0
        assert ledger.claims.claim(NAME, ahead=True) is None
        assert free_in_s(ledger, clock) == left_s

    def test_one_that_takes_a_job_is_free_when_that_has_ended(self, ledger: Ledger, clock: StoppedClock) -> None:
        come_up(ledger)
        claimed(ledger)
        left_s = free_in_s(ledger, clock)
        submit(ledger)
        assert ledger.claims.claim(NAME, ahead=True) is not None
        assert free_in_s(ledger, clock) == 2 * left_s

    @pytest.mark.parametrize(
        ("learned", "told_s", "expected_s"),
        [
            ({("shape:s", "here"): 60.0, ("shape:s", "there"): 9.0, ("workflow:w", "here"): 8.0}, 7.0, 60.0),
            ({("shape:s", "there"): 9.0, ("shape:s", "far"): 11.0, ("workflow:w", "here"): 8.0}, 7.0, 10.0),
            ({("workflow:w", "here"): 8.0, ("workflow:w", "there"): 80.0, (RUNS, "here"): 3.0}, 7.0, 8.0),
            ({("workflow:w", "there"): 80.0, (RUNS, "here"): 3.0}, 7.0, 80.0),
            ({(RUNS, "here"): 3.0, (RUNS, "there"): 30.0}, 7.0, 3.0),
            ({(RUNS, "there"): 30.0}, 7.0, 30.0),
            ({("shape:other", "here"): 5.0}, 7.0, 7.0),
            ({}, None, DEFAULT_S),
        ],
    )
    def test_as_the_outlook_has_it(
        self, ledger: Ledger, learned: dict[tuple[str, str], float], told_s: float | None, expected_s: float
    ) -> None:
        for (what, gpu), seconds in learned.items():
            ledger.durations.learn_all({what: seconds}, gpu=gpu)
        come_up(ledger, device="here", memory_bytes=10**10)
        asked: dict[str, Any] = {"shape": "s", "template": "w", "models": ("a",), "expected_time_s": told_s}
        submit(ledger, **asked)
        [foreseen] = ledger.outlook.read().picture.lines
        claim = ledger.claims.claim(NAME)
        assert claim is not None
        assert (claim.run_s, foreseen.run_s) == (expected_s, (expected_s,))

    def test_that_is_when_the_instance_will_be_free(self, ledger: Ledger, clock: StoppedClock) -> None:
        """Not by the mean of its line, where jobs of two seconds and of a minute use one model."""
        come_up(ledger, device="here", memory_bytes=10**10)
        ledger.durations.learn_all({"shape:short": 2.0, "shape:long": 60.0, RUNS: 31.0, LOADS: 5.0}, gpu="here")
        claimed(ledger, shape="short", models=("a",))
        assert free_in_s(ledger, clock) == 7.0
        claimed(ledger, shape="long", models=("a",))
        assert free_in_s(ledger, clock) == 60.0

    def test_a_long_job_is_no_sign_of_a_load(self, ledger: Ledger) -> None:
        come_up(ledger, device="here", memory_bytes=10**10)
        ledger.durations.learn_all({"shape:long": 60.0, RUNS: 31.0, LOADS: 12.0}, gpu="here")
        claimed(ledger, shape="long", models=("a",))
        assert not was_held_in_vain(claimed(ledger, shape="long", models=("a",)), 61.0)


def free_in_s(ledger: Ledger, clock: StoppedClock) -> float:
    with ledger.database.read() as connection:
        free_at_ms: int = connection.execute(select(instances.c.free_at_ms)).scalar_one()
    return (free_at_ms - clock.now_ms) / 1000


class TestHeldModels:
    """What the row of an instance says it holds, once it has claimed a job."""

    def test_with_the_sizes_that_the_instance_told(self, ledger: Ledger) -> None:
        come_up(ledger, object_info=KSAMPLER, model_sizes={"a": 7}, memory_bytes=100 * 10**9)
        claimed(ledger, models=("a", "b"))
        assert held(ledger) == [("a", 7), ("b", None)]
        ledger.instances.offers(NAME, worker=WORKER, object_info=UPSCALER, model_sizes={"a": 8, "b": 9, "c": 10})
        claimed(ledger, models=("b",))
        assert held(ledger) == [("b", None), ("a", 7)], "nothing was loaded, so nobody looked"
        claimed(ledger, models=("b", "c"))
        assert held(ledger) == [("b", 9), ("c", 10), ("a", 7)]

    def test_their_sizes_say_what_fits(self, ledger: Ledger) -> None:
        come_up(ledger, model_sizes={"a": 6, "b": 4, "c": 1}, memory_bytes=10)
        for name in ("a", "b", "c"):
            claimed(ledger, models=(name,))
        assert held(ledger) == [("c", 1), ("b", 4)]
        claimed(ledger, models=("a",))
        assert held(ledger) == [("a", 6), ("c", 1)]

    def test_one_of_unknown_size_is_taken_to_be_of_the_usual(self, ledger: Ledger) -> None:
        come_up(ledger, memory_bytes=2 * USUAL_BYTES - 1)
        claimed(ledger, models=("a",))
        claimed(ledger, models=("b",))
        assert held(ledger) == [("b", None)]


def held(ledger: Ledger) -> list[tuple[str, int | None]]:
    return [(model.name, model.size_bytes) for model in record_of(ledger).held]
